"""Histories of many studies: every person's figure and admission against an oracle that composes directly."""

import pytest
from tests.ledger.histories import History


def histories(seeds, folder, *, sampled, steps):
    """Persons left out, and studies refused to everybody, over all histories."""
    left_out = refused = 0
    for seed in seeds:
        history = History(seed, folder if seed % 10 == 0 else None, sampled=sampled)
        try:
            history.run(steps)
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error
        finally:
            history.close()
        left_out, refused = left_out + history.left_out, refused + history.refused
    return left_out, refused


def test_every_persons_figure_and_admission_is_direct_composition(tmp_path):
    left_out, refused = histories(range(20), tmp_path, sampled=False, steps=20)
    assert left_out > 10
    assert refused > 5


@pytest.mark.thorough
@pytest.mark.parametrize("sampled", [False, True])
def test_a_thousand_histories(tmp_path, sampled):
    left_out, refused = histories(range(100, 600), tmp_path, sampled=sampled, steps=25)
    assert left_out > 150
    assert refused > 50
