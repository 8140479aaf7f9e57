import pytest
from tests.thorough.faults.runs import Machine, built

from wardround.config import parse_study


@pytest.fixture(scope="module")
def machine(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine")
    study = folder / "study.toml"
    study.write_text(parse_study(tiny(privacy={"sum": "masked", "num_patients": 32})).to_toml())
    machine = Machine(built(folder), study)
    yield machine
    machine.close()
