"""Every epsilon of the published systems comes out of the accountants that run the strategies."""

import pytest
from tests.cases import family, firsts

from wardround.accounting.fixed_batches import fixed_batch_epsilon
from wardround.errors import PrivacyError
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


def test_replacing_a_unit_costs_more_than_the_claim_that_assumed_adding_one():
    """Half the multiplier, for the sum moves twice as far."""
    assert fixed_batch_epsilon(400, 8, 1.5, 50, 1e-5) > 2 * fixed_batch_epsilon(400, 8, 3.0, 50, 1e-5)


@pytest.mark.parametrize("batch", [0, 401])
def test_a_batch_that_cannot_be_drawn_is_refused(batch):
    with pytest.raises(PrivacyError, match="batch_size must be"):
        fixed_batch_epsilon(400, batch, 1.5, 50, 1e-5)
