import pytest
from tests.ledger.spending import LIMIT

from wardround.ledger.file import LedgerFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger_file(path):
    with LedgerFile(path, version="0.1.0") as file:
        yield file


@pytest.fixture
def ledger(ledger_file):
    return ledger_file.open("north", "digest", **LIMIT)
