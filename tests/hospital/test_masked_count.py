"""The number of patients as a masked sum of its own: what it opens, costs and moves by, and dying before round 1."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, norm
from tests.cases import family
from tests.charges import charges_in
from tests.errors import raises_code
from tests.fixtures_federation import STUDY
from tests.hospital.masked_rounds import (
    announce,
    counted_plan,
    ends_the_run,
    expected_total,
    fails_at,
    masked_plan,
    noised,
)
from tests.hospital.test_masked_killed import STEPS, killed_at
from tests.names import names
from tests.secure_aggregation.round.rounds import uniformity

from wardround.agreed.masks import COUNT_COORDINATES as COORDINATES
from wardround.agreed.masks import count_mechanism_of
from wardround.errors import FederationError, PrivacyError
from wardround.federation.masked import MaskedAggregator
from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategy import Call
from wardround.hospital.masked import counted_rows
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.releases import noised_counts
from wardround.randomness import Randomness
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.integers.grid import Grid
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.integers.ring import WIDEST
from wardround.secure_aggregation.round.transcript import Summed
from wardround.secure_aggregation.round.upload import Upload
from wardround.simulation.availability import Availability, UnreliableChannel
from wardround.training.patients import TrainingPatients, training_patients
from wardround.work import CountClasses, CountPatients, LocalSteps, LocalUpdate, SayHello

REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)


@pytest.fixture
def make_counted(make_masked):
    def make(folder="notes", *, plan=None, **options):
        return make_masked(folder, plan=plan or counted_plan(), **options)

    return make


def nobody():
    return training_patients([], None)


# What is opened ------------------------------------------------------------------------------------------------------


def test_the_opened_count_is_every_patient_once_and_all_the_noise_bit_for_bit(make_counted):
    masked = make_counted()
    mechanism, request = masked.agreement.count, masked.request(0)
    total = masked.ask(0)
    steps = round(mechanism.sensitivity - math.sqrt(COORDINATES) / 2)
    shares = [
        discrete_gaussian(COORDINATES, mechanism.share_std, agent.noise_bytes(request))[0]
        for agent in masked.federation.agents.values()
    ]
    opened = 5 * 4 * steps + sum(shares)
    np.testing.assert_array_equal(total.update, np.array([opened / mechanism.grid.steps_per_unit], np.float32))
    assert [masked.charges(name) for name in masked.channel.hospitals] == [1] * 5
    assert total.events == dict.fromkeys(masked.channel.hospitals, release_event(masked.federation.plan.count))


@pytest.mark.parametrize("size", [0, 1, 7])
@pytest.mark.parametrize("noise_multiplier", [0.05, 1.0, math.pi, 500.0, 60_000.0])
def test_one_patient_more_moves_the_count_by_the_sensitivity_at_most(noise_multiplier, size):
    mechanism = count_mechanism_of(counted_plan(count_noise_multiplier=noise_multiplier))
    assert mechanism is not None
    assert isinstance(mechanism.grid, Grid)
    count = mechanism.grid.sum_of
    moved = count(counted_rows(size + 1)) - count(counted_rows(size))
    assert moved[0] == round(mechanism.grid.steps_per_unit) > 0
    assert sum(int(step) ** 2 for step in moved) <= mechanism.sensitivity**2
    # What it is short of D is what rounding of all coordinates is allowed for, and no more.
    assert mechanism.sensitivity - moved[0] <= math.sqrt(COORDINATES) / 2 + 1


def test_whatever_a_patient_s_pictures_are_they_are_one_patient(make_counted):
    masked = make_counted()
    agent, request = masked.federation.agents["hospital-1"], masked.request(0)
    party, mechanism = masked.parties["hospital-1"], masked.agreement.count
    before = noised(party, mechanism, request)
    masked.federation.pixels[:] = 255
    rows, labels = np.repeat(agent.patients.rows, 50), np.repeat(agent.patients.labels, 50)
    party._agent = replace(agent, patients=TrainingPatients(rows, labels, 50 * agent.patients.starts, names(4)))
    np.testing.assert_array_equal(noised(party, mechanism, request), before)
    few = (agent.patients.rows[:3], agent.patients.labels[:3], agent.patients.starts[:3])
    shrunk = TrainingPatients(*few, names(2))
    party._agent = replace(agent, patients=shrunk)
    moved = before - noised(party, mechanism, request)
    assert moved[0] == 2 * round(mechanism.grid.steps_per_unit)
    assert not moved[1:].any()


def test_a_hospital_without_patients_adds_its_share_all_the_same(make_counted):
    masked = make_counted()
    party, mechanism, request = masked.parties["hospital-2"], masked.agreement.count, masked.request(0)
    empty = masked.federation.agents["hospital-2"] = replace(party._agent, patients=nobody())
    party._agent = empty
    share = noised(party, mechanism, request)
    np.testing.assert_array_equal(
        share, discrete_gaussian(COORDINATES, mechanism.share_std, empty.noise_bytes(request))
    )
    assert 0.9 < np.std(share.astype(float)) / mechanism.share_std < 1.1
    total = masked.ask(0)
    expected = mechanism.decode(expected_total(masked, request, masked.channel.hospitals))
    np.testing.assert_array_equal(total.update, expected[:1].astype(np.float32))


def drawn_counts(masked, times):
    """Decoded counts of repeated attempts, each with the shares that its hospitals really add."""
    mechanism, found = masked.agreement.count, []
    for attempt in range(1, times + 1):
        request = replace(masked.request(0), attempt=attempt)
        total = sum(noised(party, mechanism, request) for party in masked.parties.values())
        found.append(mechanism.decode(total)[0])
    return np.array(found)


@pytest.mark.thorough
def test_the_count_is_unbiased_and_has_the_noise_of_all_shares(make_counted):
    masked = make_counted()
    plan, times = masked.federation.plan, 1600
    count = plan.count.noise
    std = count.noise_multiplier * math.sqrt(5 / count.shares)
    counts = drawn_counts(masked, times)

    def p_values(mean, deviation):
        shifted = (counts - mean) / deviation
        spread = chi2.cdf(float((shifted**2).sum()), times)
        return 2 * norm.sf(abs(shifted.mean()) * math.sqrt(times)), 2 * min(spread, 1 - spread)

    assert min(p_values(20, std)) > 1e-4
    # It would have been noticed: another patient, one share fewer or more, shares sized for all hospitals.
    assert p_values(19, std)[0] < 1e-4
    assert p_values(20, std * math.sqrt(4 / 5))[1] < 1e-3
    assert p_values(20, std * math.sqrt(6 / 5))[1] < 1e-3
    assert p_values(20, count.noise_multiplier)[1] < 1e-4


def test_the_denominators_of_all_rounds_follow_from_the_opened_count(make_counted):
    masked, again = make_counted(), make_counted("again")
    weights = masked.federation.weights
    count, opened = masked.ask(0).update, masked.ask(1).update
    sgd = FedSGD(Call(STUDY, allowed_missing=1), again.aggregator, 1.0, 0.0, 0.5, None, 0.5)
    state = sgd.init(weights, again.channel)
    np.testing.assert_array_equal(state["num_patients"], np.maximum(count, 1))
    after = sgd.update(state, again.channel, 1)
    np.testing.assert_array_equal(after["weights"], weights - opened / (np.float32(0.5) * state["num_patients"]))


# What is seen, and refused -------------------------------------------------------------------------------------------


def test_uploads_of_a_count_are_uniform_and_so_is_the_sum_of_all_but_one(make_counted):
    masked = make_counted(seed=None)
    masked.ask(0)
    residues = [Upload.from_bytes(sent).residues for _, sent in masked.uploads]
    assert len(residues) == 5
    for seen in (*residues, sum(residues[1:]), sum(residues[:-1])):
        assert uniformity(np.ascontiguousarray(seen), WIDEST) > 1e-6
    assert uniformity(np.ascontiguousarray(sum(residues)), WIDEST) < 1e-6, "all of them together are the sum"


def test_a_count_and_a_sum_of_gradients_cannot_be_taken_for_each_other(make_counted):
    masked = make_counted()
    count, gradients = (masked.agreement.terms(round, 1, 5, None) for round in (0, 1))
    assert (count.summed, gradients.summed) == (Summed.COUNT, Summed.GRADIENTS)
    assert replace(gradients, summed=Summed.COUNT).digest != gradients.digest
    parties = list(masked.parties.values())
    told = [announce(party, masked.request(0)) for party in parties[:4]]
    told.append(announce(parties[4], masked.request(1)))
    for party in parties:
        with pytest.raises(FederationError, match="announced one for others"):
            party.confirm(told)
    assert not masked.uploads


@pytest.mark.parametrize(
    "changes",
    [
        {"work": LocalUpdate(np.zeros(34, np.float32), LocalSteps(1, 0.1, 0.0, 2.0))},
        {"round": 1},
        {"study": "another"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_hospital_answers_no_other_question_with_a_count(make_counted, changes):
    masked = make_counted()
    request = replace(masked.request(0), **changes)
    for party in masked.parties.values():
        assert announce(party, request) == REFUSED
    assert masked.collect(request).update is None
    assert masked.charges("hospital-1") == 0


def test_no_masked_sum_of_other_counts_can_be_asked_for(make_counted):
    masked = make_counted()
    request = replace(masked.request(0), work=CountClasses())
    assert masked.collect(request).failures == dict.fromkeys(masked.channel.hospitals, REFUSED)
    assert masked.charges("hospital-1") == 0


def test_a_counted_run_sends_all_of_its_sums_in_the_widest_ring(make_counted):
    masked, public = make_counted(), make_counted("public", plan=masked_plan())
    assert masked.agreement.count.ring == masked.agreement.mechanism.ring == WIDEST
    assert public.agreement.mechanism.ring.bits < WIDEST.bits


def test_where_the_number_is_public_nobody_is_counted(make_counted):
    masked = make_counted(plan=masked_plan())
    assert masked.collect(Request(STUDY, 0, 1, CountPatients())).update is None
    assert announce(masked.parties["hospital-1"], masked.request(0)) == REFUSED
    with pytest.raises(FederationError, match="must have been agreed on"):
        masked.agreement.terms(0, 1, 5, None)
    assert count_mechanism_of(masked_plan()) is None
    assert [masked.charges(name) for name in masked.channel.hospitals] == [0] * 5


def test_a_count_with_floating_point_noise_is_refused(make_counted):
    masked = make_counted()
    with pytest.raises(PrivacyError, match="leaves a hospital under masks"):
        noised_counts(masked.federation.plan.count, np.array([4.0]), Randomness(5).stream("noise"))
    assert masked.channel.ask(dict.fromkeys(masked.channel.hospitals, masked.request(0)), 0)[0] == {}


def test_the_count_comes_before_round_1_and_every_attempt_once(make_counted):
    masked = make_counted()
    party = masked.parties["hospital-1"]
    hello = Request(STUDY, 0, 1, SayHello())
    assert masked.hospitals["hospital-1"].reply(hello).last_attempt == (0, 0)
    masked.ask(0)
    assert party.notes.last == masked.hospitals["hospital-1"].reply(hello).last_attempt == (0, 1)
    with pytest.raises(FederationError, match="must come after round 0, attempt 1"):
        announce(party, masked.request(0))
    masked.aggregator = MaskedAggregator(masked.agreement)  # of a run that goes on: it learns what was attempted
    masked.ask(0)
    assert party.notes.last == (0, 2)
    masked.ask(1)
    assert party.notes.last == (1, 1)


def test_a_count_that_epsilon_was_not_computed_for_is_refused():
    plan = counted_plan()
    other = replace(plan.count, noise=replace(plan.count.noise, dimension=2))
    with raises_code(PrivacyError, "privacy-other-mechanism"):
        count_mechanism_of(replace(plan, parts=(other, plan.training)))


# What is charged -----------------------------------------------------------------------------------------------------


def test_a_count_is_charged_before_it_leaves(make_counted):
    masked = make_counted()
    parties = list(masked.parties.values())
    keys = [announce(party, masked.request(0)) for party in parties]
    for party in parties:
        party.confirm(keys)
    with raises_code(PrivacyError, "privacy-not-charged"):
        parties[0].upload()
    spent = make_counted("spent", epsilon_limit=1e-3)
    total = spent.ask(0)
    assert {failure.code for failure in total.failures.values()} == {FailureCode.REFUSED_BUDGET}
    assert not spent.uploads


@pytest.mark.parametrize(("step", "charges"), [("announce", 1), ("confirm", 1), ("admit", 2), ("upload", 2)])
def test_without_one_hospital_the_others_are_counted_anew(make_counted, step, charges):
    masked = make_counted()
    fails_at(masked.parties["hospital-2"], step)
    others = ["hospital-1", "hospital-3", "hospital-4", "hospital-5"]
    total = masked.ask(0)
    assert set(total.failures) == {"hospital-2"}
    assert [masked.charges(name) for name in others] == [charges] * 4, "every attempt is charged again"
    expected = expected_total(masked, replace(masked.request(0), attempt=2), others)
    decoded = masked.agreement.count.decode(expected)[:1].astype(np.float32)
    np.testing.assert_array_equal(total.update, decoded)


def test_for_the_count_everybody_is_there(make_counted):
    masked = make_counted()
    availability = Availability(5, 5, 0.4, 1.0, 0.9, seed=4)
    assert availability.missing(5).sum() > 1  # what row -1 would say
    total = masked.collect(masked.request(0), UnreliableChannel(masked.channel, availability))
    assert not total.failures
    assert [masked.charges(name) for name in masked.channel.hospitals] == [1] * 5


@pytest.mark.parametrize("seed", family([None, 5]), ids=["in earnest", "seeded"])
@pytest.mark.parametrize("step", family(STEPS, keep=list(STEPS)[::3]))
def test_killed_at_any_step_of_the_count_nothing_left_uncharged_and_it_is_completed(
    make_counted, monkeypatch, step, seed
):
    masked = make_counted(seed=seed)
    with killed_at(masked, step, monkeypatch):
        masked.ask(0)
    for name, _ in masked.uploads:
        assert len(charges_in(masked.federation.ledgers[name].path)[name]) == 1, "it left before it was charged"

    again = make_counted(federation=masked.federation)  # hospitals that were restarted read their notes
    left = {name for name, _ in masked.uploads}
    total = again.ask(0)
    if seed is not None:
        expected = expected_total(again, again.request(0), again.channel.hospitals)
        decoded = again.agreement.count.decode(expected)[:1].astype(np.float32)
        np.testing.assert_array_equal(total.update, decoded)
        assert {again.charges(name) for name in again.channel.hospitals} == {1}, "a repetition is the same release"
    else:
        assert all(again.charges(name) >= 1 + (name in left) for name in again.channel.hospitals)
    transcripts = {Upload.from_bytes(content).transcript for _, content in masked.uploads + again.uploads}
    assert len(transcripts) == 1 + bool(left), "a repeated attempt has masks of its own"
    assert again.ask(1).update is not None, "round 1 follows"


def test_a_count_without_its_noise_is_stopped_by_every_hospital(make_counted, monkeypatch, caplog):
    masked = make_counted()
    monkeypatch.setattr(IntegerMechanism, "noised", lambda self, total_of, random_bytes: total_of())
    with ends_the_run(caplog, "is too little"):
        masked.ask(0)
    assert caplog.text.count("is too little") == 5


def test_witnesses_of_the_count_and_of_the_rounds_are_one_series(make_counted, monkeypatch):
    masked = make_counted()
    party = masked.parties["hospital-1"]
    for round in (0, 1, 2):
        masked.ask(round)
    assert party.notes.witness.coordinates == 3 * (COORDINATES - 1)
    assert masked.agreement.sums == masked.federation.plan.releases + 1
