"""The figures of a ledger: the greatest and the typical person, and what each run cost."""

import math
from collections import Counter

import pytest
from tests.ledger.oracle import tight_epsilon
from tests.ledger.spending import DELTA, STEP, begin, limit, spend, steps

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent, NonPrivateEvent
from wardround.ledger.spending import spending_of


def test_the_greatest_and_the_typical_person_are_those_of_direct_composition(ledger):
    """Five persons in one to five studies: the median one was in three."""
    persons = [f"person {number}" for number in range(5)]
    for number in range(5):
        run = begin(ledger, f"run {number}", persons=persons[: number + 1])
        spend(run, 1)
        run.end()
    found = spending_of(ledger)
    assert found.persons == 5
    assert (found.studies, len(found.runs)) == (5, 5)
    assert found.delta == DELTA
    assert found.greatest == pytest.approx(epsilon_of(steps(5), DELTA))
    assert found.typical == pytest.approx(epsilon_of(steps(3), DELTA))
    assert found.greatest == pytest.approx(tight_epsilon(Counter({STEP: 5}), DELTA), rel=1e-4)


def test_only_the_persons_asked_for_are_counted_and_strangers_are_none(ledger):
    for name, persons, count in (("one", ("ada", "ben"), 2), ("other", ("ben",), 3)):
        spend(begin(ledger, name, persons=persons), count)
    found = spending_of(ledger, ["ada", "zoe"])
    assert (found.persons, found.strangers) == (1, 1)
    assert found.greatest == pytest.approx(epsilon_of(steps(2), DELTA))
    assert spending_of(ledger, ["zoe"]).greatest == 0


def test_two_parts_of_one_run_at_one_hospital_are_one_hospital(ledger):
    """A seeded run that was refused its folder has ended uncharged, and begins again: one hospital, three persons."""
    begin(ledger, seeded=True).end()
    spend(begin(ledger, seeded=True), 2)
    spend(begin(ledger, hospital="south", persons=("dan",), seeded=True), 1)
    [run] = spending_of(ledger).runs
    assert (run.hospitals, run.persons) == (2, 4)
    assert run.epsilon == pytest.approx(epsilon_of(steps(2), DELTA))


def test_a_study_that_charged_nobody_is_no_study(ledger):
    begin(ledger).end()
    found = spending_of(ledger)
    assert (found.studies, found.persons, found.greatest) == (0, 0, 0)
    assert [(run.epsilon, run.is_ended) for run in found.runs] == [(0, True)]


def test_a_release_without_protection_is_infinite_and_figures_without_one_are_counted_apart(ledger):
    run = begin(ledger, persons=("ada",), epsilon=math.inf, foreseen=NonPrivateEvent())
    spend(run, 1, event=NonPrivateEvent())
    ledger.unprotected(run="run", study="study", persons=("tom", "ben"), purpose="metrics")
    found = spending_of(ledger)
    assert found.greatest == math.inf
    assert (found.persons, found.unprotected) == (1, 2)
    assert ledger.epsilon_of("tom", DELTA) == 0


def test_the_greatest_figure_is_never_below_anybodys_when_there_are_many_histories(ledger):
    persons = [f"person {number}" for number in range(40)]
    for number in range(6):
        members = [person for at, person in enumerate(persons) if at % 6 >= number or at % 7 == number]
        spend(begin(ledger, f"run {number}", persons=members), 1 + number % 2, event=GaussianEvent(4.0 + number))
    found = spending_of(ledger)
    figures = [ledger.epsilon_of(person, DELTA) for person in persons]
    assert found.greatest >= max(figures) * (1 - 1e-9)
    assert found.greatest == pytest.approx(max(figures), rel=0.02)


def test_the_limit_and_its_delta_are_said(ledger):
    limit(ledger, 4.0, 1e-3)
    spend(begin(ledger), 1)
    found = spending_of(ledger)
    assert found.delta == 1e-3
    assert found.limit is not None
    assert found.limit.epsilon == 4.0
