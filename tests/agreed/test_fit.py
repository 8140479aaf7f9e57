"""The sentence that refuses a plan and a strategy names the key that keeps them apart."""

import pytest

from wardround.agreed.plans import plan_of
from wardround.errors import StudyError

UPDATES = {"plan": "top-k", "answers": 3, "clipping_norm": None, "accountant": "pld", "sum": None}


@pytest.mark.parametrize(
    ("federation", "remedy"),
    [
        ({"optimizer_state": "travels"}, 'optimizer_state = "reset"'),
        ({"repair": "proportional"}, "Remove repair"),
        ({"repair": "weighted-loss"}, "Remove repair"),
    ],
)
def test_a_key_of_a_strategy_that_fits_without_it_is_what_is_to_be_changed(tiny_study, federation, remedy):
    plan_of(tiny_study(privacy=UPDATES, federation={"strategy": "round-robin"}))
    with pytest.raises(StudyError, match=remedy) as caught:
        plan_of(tiny_study(privacy=UPDATES, federation={"strategy": "round-robin", **federation}))
    assert caught.value.code == "study-plan-strategy"
