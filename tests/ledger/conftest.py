import pytest

from wardround.ledger.file import LedgerFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with LedgerFile(path, version="0.1.0") as file:
        yield file
