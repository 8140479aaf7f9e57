"""Every epsilon of the published systems comes out of the accountants that run the strategies."""

import pytest
from tests.cases import family, firsts

from wardround.reproduce.epsilons import lines

LINES = lines()


@pytest.mark.parametrize(
    "line",
    family(LINES, keep=firsts(LINES, lambda line: (line.system, line.by))),
    ids=[f"{line.system}: {line.what}, {line.by}" for line in LINES],
)
def test_a_published_epsilon_comes_out_of_the_accountants(line):
    assert line.compute() == pytest.approx(line.published, abs=line.tolerance)


def test_every_system_is_there():
    assert {line.system for line in LINES} == {"Yuan", "Dopamine", "deepee", "Singh"}
