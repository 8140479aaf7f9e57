"""What several runs cost a patient together, against the closed form and against sums; and who is put together."""

import itertools
import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import (
    GaussianEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
    to_json,
)
from wardround.report.together import together_of

DELTA = 1e-5


def gaussian_epsilon(mu, delta):
    """Balle and Wang 2018, Theorem 8, solved for epsilon: the exact cost of a Gaussian mechanism of that mu."""

    def excess(epsilon):
        a, b = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return norm.cdf(a) - math.exp(epsilon) * norm.cdf(b) - delta

    return brentq(excess, 0, 200)


@pytest.fixture
def run(make_record, monkeypatch, tmp_path_factory):
    """A finished run of an event; its epsilon is what its own accountant says, unless `stated` says otherwise."""

    def make(event, *, delta=DELTA, stated=None, dataset="one", path="/srv/one", references=None, **statement):
        def bend(certificate, results):
            epsilon = epsilon_of(event, delta, AccountantKind(statement.get("accountant", "pld")))
            certificate["event"] = to_json(event)
            certificate["statement"] |= {"epsilon": stated or epsilon, "delta": delta} | statement
            results["references"] = references or {}

        record = make_record(bend, study=f'[study]\nname = "x"\n[data]\npath = "{path}"\n')
        return type(record)(**(vars(record) | {"own": {} if dataset is None else {"dataset": dataset}}))

    return make


def steps(noise_multiplier, count):
    return SelfComposedEvent(GaussianEvent(noise_multiplier), count)


@pytest.mark.parametrize("repeats", [1, 3])
def test_runs_together_cost_what_all_their_releases_cost(run, repeats):
    parts = [(4.0, 20), (8.0, 60), (30.0, 100)]
    [together] = together_of([run(steps(*part)) for part in parts for _ in range(repeats)])
    mu = math.sqrt(repeats * sum(count / sigma**2 for sigma, count in parts))
    assert together.guarantee.epsilon == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-4)
    assert together.runs == 3 * repeats
    assert not together.is_sum


def test_together_is_for_a_fixed_division_where_one_of_the_runs_is(run):
    some = [run(steps(4.0, 20)), run(steps(4.0, 20), division="fixed")]
    [together] = together_of(some)
    assert "for one patient, for this fixed division of the patients" in together.sentence()
    [alone] = together_of(some[:1])
    assert "division" not in alone.sentence()


@pytest.mark.thorough
def test_together_costs_more_than_any_and_no_more_than_the_sum(run):
    events = [SelfComposedEvent(PoissonSampledEvent(0.1, GaussianEvent(s)), 50) for s in (0.8, 1.0, 2.0)]
    [together] = together_of([run(event) for event in events])
    alone = [epsilon_of(event, DELTA) for event in events]
    assert max(alone) < together.guarantee.epsilon
    assert together.guarantee.epsilon <= sum(epsilon_of(event, DELTA / 3) for event in events)


def test_the_smallest_delta_is_the_one_it_holds_at(run):
    [together] = together_of([run(steps(5.0, 10), delta=delta) for delta in (1e-3, 1e-6, 1e-4)])
    assert together.guarantee.delta == 1e-6
    assert together.guarantee.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(30 / 25), 1e-6), rel=1e-4)


def test_where_an_event_does_not_tell_all_epsilons_and_deltas_are_added(run):
    """An event that costs less than was stated cannot stand for the run."""
    records = [run(steps(5.0, 10)), run(steps(5.0, 10), stated=7.0)]
    [together] = together_of(records)
    assert together.is_sum
    assert together.guarantee.epsilon == pytest.approx(7 + epsilon_of(steps(5.0, 10), DELTA))
    assert together.guarantee.delta == pytest.approx(2 * DELTA)
    assert "by adding" in together.sentence()


def test_runs_of_the_looser_accountant_are_told_by_their_events(run):
    [together] = together_of([run(steps(5.0, 10), accountant="rdp") for _ in range(2)])
    assert not together.is_sum
    assert together.guarantee.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(20 / 25), DELTA), rel=1e-4)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_same_pictures_or_the_same_folder_are_the_same_patients(run, order):
    """A third run joins two that share nothing themselves."""
    records = [
        run(steps(5.0, 10), dataset="one", path="/srv/a"),
        run(steps(5.0, 10), dataset="two", path="/srv/b"),
        run(steps(5.0, 10), dataset="one", path="/srv/b"),
    ]
    assert [one.runs for one in together_of([records[i] for i in order])] == [3]
    assert sorted(one.runs for one in together_of(records[:2])) == [1, 1]


def test_runs_that_do_not_tell_their_patients_are_not_taken_for_the_same_and_may_be(run):
    """Nothing of two records without `ledger.json` is the same but that both are without it."""
    told = run(steps(5.0, 10), path="/srv/told")
    untold = [run(steps(5.0, 10), dataset=None, path=f"/srv/{name}") for name in "ab"]
    found = together_of([told, *untold])
    assert [(one.runs, one.untold) for one in found] == [(1, 0), (1, 1), (1, 1)]
    assert ["Its patients are not known" in one.sentence() for one in found] == [False, True, True]
    assert "if another run is on the same, these add up" in found[1].sentence()
    assert found[1].to_json()["runs_of_unknown_patients"] == 1


def test_runs_from_one_folder_are_composed_also_where_one_does_not_tell_its_patients(run):
    [together] = together_of([run(steps(5.0, 10)), run(steps(5.0, 10), dataset=None)])
    assert (together.runs, together.untold) == (2, 1)
    assert together.guarantee.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(20 / 25), DELTA), rel=1e-4)
    assert "Of 1 of them the patients are not known" in together.sentence()


def test_unlike_units_and_relations_are_not_composed_with_each_other(run):
    hospital = {"unit": "hospital", "relation": "replace-one"}
    found = together_of([run(steps(5.0, 10)), run(steps(5.0, 10), **hospital), run(steps(5.0, 10))])
    assert [(one.guarantee.unit, one.relation, one.runs) for one in found] == [
        ("patient", "add-or-remove-one", 2),
        ("hospital", "replace-one", 1),
    ]


def test_what_is_not_private_is_in_no_number_and_is_said(run):
    nothing = {"stated": "infinity", "guarantee": False, "reason": "no noise"}
    references: dict[str, dict[str, object]] = {"pooled": {}, "alone": {}}
    [together] = together_of([run(steps(5.0, 10), references=references), run(steps(5.0, 10), **nothing)])
    assert together.guarantee.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(10 / 25), DELTA), rel=1e-4)
    assert (together.without, together.references) == (1, 2)
    assert "1 unprotected run and 2 unprotected reference runs" in together.sentence()
    assert "there is no limit" in together.sentence()
    assert together_of([run(steps(5.0, 10), **nothing)]) == ()


def test_the_sentence_has_its_delta_unit_and_stamp(run):
    [together] = together_of([run(steps(5.0, 10), seeded=True)])
    assert "at delta = 1e-05 for one patient (add-or-remove-one)" in together.sentence()
    assert "reproducible, not private" in together.sentence()
