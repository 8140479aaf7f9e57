"""The limit of a person: over all studies, kept for what a run foresees, and free once it has ended."""

import math

import pytest
from tests.errors import raises_code
from tests.ledger.spending import AFFORDABLE, CAP, DELTA, THREE, begin, limit, spend, steps

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import BudgetExhausted, PrivacyError


def test_a_limit_is_over_all_studies_and_asks_each_person_alone(ledger):
    limit(ledger, 3.0)
    first = begin(ledger, persons=("ada", "ben"))
    spend(first, AFFORDABLE)
    first.end()
    second = begin(ledger, "second", hospital="renamed", persons=("cyd", "ben", "dan"))
    assert second.admitted.tolist() == [True, False, True]
    spend(second, AFFORDABLE)
    assert ledger.epsilon_of("ben", DELTA) == ledger.epsilon_of("cyd", DELTA) <= CAP


def test_what_is_foreseen_is_kept_until_the_end_and_free_after_it(ledger):
    """The unspent part of a study's budget is any other study's once it has ended, and not before."""
    limit(ledger, 3.0)
    first = begin(ledger)
    spend(first, 1)
    assert not begin(ledger, "too early").admitted.any()
    first.end()
    after = begin(ledger, "after", foreseen=steps(AFFORDABLE - 2))
    assert after.admitted.all()
    spend(after, AFFORDABLE - 2)
    assert ledger.epsilon_of("ada", DELTA) == pytest.approx(epsilon_of(steps(AFFORDABLE - 1), DELTA))


def test_a_study_without_a_charge_leaves_everything_free(ledger):
    limit(ledger, CAP)
    begin(ledger).end()
    again = begin(ledger, "again")
    assert again.admitted.all()
    spend(again, AFFORDABLE)


def test_a_first_study_may_spend_the_whole_limit_and_no_other_after_it(ledger):
    limit(ledger, CAP)
    run = begin(ledger)
    spend(run, AFFORDABLE)
    run.end()
    assert not begin(ledger, "next", foreseen=GaussianEvent(60.0)).admitted.any()


def test_a_study_that_nobody_could_ever_afford_is_refused(ledger):
    limit(ledger, 1.0)
    with raises_code(BudgetExhausted, "budget-exhausted"):
        begin(ledger)
    assert not ledger.is_known(THREE).any()


def test_other_charges_than_foreseen_keep_to_what_was_kept(ledger):
    """Under a limit a run may trade what it foresaw for what costs no more, and nothing else."""
    limit(ledger, 8.0)
    run = begin(ledger, foreseen=steps(2), epsilon=7.0)
    run.charge(GaussianEvent(9.0), release="cheaper", purpose="training")
    with pytest.raises(BudgetExhausted):
        run.charge(GaussianEvent(2.0), release="dearer", purpose="training")
    spend(run, 1)
    with pytest.raises(BudgetExhausted):
        spend(run, 1, first=1)
    assert run.spent() <= epsilon_of(steps(2), DELTA)


def test_a_limit_set_anew_holds_from_there_on(ledger):
    limit(ledger, 3.0)
    first = begin(ledger)
    limit(ledger, 0.5)
    spend(first, AFFORDABLE)  # what was kept for it is its own
    first.end()
    assert not begin(ledger, "next", foreseen=GaussianEvent(60.0)).admitted.any()
    limit(ledger, 20.0)
    assert begin(ledger, "later").admitted.all()
    limit(ledger, math.inf)
    assert ledger.limit is None


@pytest.mark.parametrize("lacking", [{"by": " "}, {"reason": ""}])
def test_a_limit_needs_a_person_and_a_reason(ledger, lacking):
    with pytest.raises(PrivacyError):
        ledger.set_limit(1.0, DELTA, **{"by": "ada", "reason": "why not"} | lacking)
    assert ledger.entries() == []


@pytest.mark.parametrize(
    ("first", "second", "is_in"),
    [
        ({}, {"relation": NeighboringRelation.REPLACE_ONE}, False),
        ({"relation": NeighboringRelation.REPLACE_ONE}, {"relation": NeighboringRelation.REPLACE_ONE}, True),
        ({"unit": PrivacyUnit.HOSPITAL, "relation": NeighboringRelation.REPLACE_ONE}, {}, True),
    ],
)
def test_charges_under_another_relation_are_not_added_up(ledger, first, second, is_in):
    """Divergences under removal and under replacement are no sum: a person under the one is left out of the other."""
    limit(ledger, 8.0)
    run = begin(ledger, **first)
    spend(run, 1)
    run.end()
    small = {"foreseen": GaussianEvent(60.0)}
    assert begin(ledger, "next", **small | second).admitted.all() == is_in
    if not is_in:
        assert begin(ledger, "others", persons=("dan",), **small | second).admitted.all()
