import tempfile
from pathlib import Path

import pytest
from tests.transport.consortium import Consortium, Forked, children_of, study_of
from tests.transport.flare import Flare, courier_python


@pytest.fixture
def short_path():
    """A folder with a short path: the path of a socket has at most 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="wr-") as folder:
        yield Path(folder)


@pytest.fixture
def consortium(cache, short_path):
    """Makes the homes of a study's hospitals; no agent is left when the test has ended."""
    made: list[Consortium] = []

    def make(privacy, federation, *, begin=Forked, folder=".", **study):
        (short_path / folder).mkdir(exist_ok=True)
        privacy = {key: value for key, value in privacy.items() if value is not None}
        made.append(Consortium(short_path / folder, study_of(cache, privacy, federation, **study), begin))
        return made[-1]

    yield make
    for one in made:
        one.end()
    assert not [line for line in children_of() if "wardround_flare" not in line], (
        "the courier ends with its fixture"
    )


@pytest.fixture(scope="session")
def flare(tmp_path_factory):
    """A courier over FLARE that is up; it is ended after all tests, and leaves no process."""
    made = Flare(tmp_path_factory.mktemp("flare"), courier_python(lambda: tmp_path_factory.mktemp("courier")))
    made.make_kits()
    made.start()
    try:
        made.wait()
        yield made
    finally:
        codes = made.end()
    assert set(codes.values()) == {0}
