import pytest
from tests.transport.consortium import Consortium, Forked, children_of, study_of


@pytest.fixture
def consortium(cache, tmp_path):
    """Makes the homes of a study's hospitals; no agent is left when the test has ended."""
    made: list[Consortium] = []

    def make(privacy, federation, *, begin=Forked, **study):
        privacy = {key: value for key, value in privacy.items() if value is not None}
        made.append(Consortium(tmp_path, study_of(cache, privacy, federation, **study), begin))
        return made[-1]

    yield make
    for one in made:
        one.end()
    assert not children_of()
