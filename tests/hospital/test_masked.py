"""Masked rounds with real agents: the opened sum, who is missing, what is charged, and dying at every step."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from tests.fixtures_federation import clip_by
from tests.hospital.masked_rounds import announce, decoded, ends_the_run, expected_total, fails_at, gradients_of

from wardround.errors import FederationError
from wardround.federation.aggregators import PlainSum
from wardround.federation.messages import Failure, FailureCode, Stage
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategy import Call
from wardround.per_patient.clipping_rules import ClippingKind
from wardround.privacy.plans.wording import clipping_terms
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.round.upload import Upload
from wardround.secure_aggregation.round.witness import WITNESSES
from wardround.simulation.availability import Availability, UnreliableChannel
from wardround.simulation.batches import answer_all
from wardround.training.encodings import encoded
from wardround.training.heads import HeadSums
from wardround.training.losses import cross_entropy
from wardround.training.workbench import Workbench
from wardround.work import GradientSum, LocalSteps, LocalUpdate

REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)


def test_the_opened_sum_is_the_clear_sum_and_all_the_noise_bit_for_bit(make_masked):
    masked = make_masked()
    total = masked.ask()
    expected = expected_total(masked, masked.request(), masked.channel.hospitals)
    np.testing.assert_array_equal(total.update, decoded(masked, expected))
    assert not total.failures
    assert [masked.charges(name) for name in masked.channel.hospitals] == [1] * 5


def test_the_rows_on_the_grid_are_the_clipped_gradients(make_masked):
    masked = make_masked(sampling_prob=1.0)
    agents, request = masked.federation.agents.values(), masked.request()
    grid, clip = masked.mechanism.grid, masked.federation.plan.training.clip
    for agent in agents:
        rows = grid.sum_of(np.pad(g, (0, WITNESSES)) for g in gradients_of(agent, request))
        [clipped] = agent.workbench.gradient_sums(
            request.work.weights, [agent.sample(request)], clip.norm, 0, clip.fixed
        )
        found = masked.mechanism.decode(rows)[:-WITNESSES]
        # 2^-12 is the margin of the float clip; half a step a coordinate is rounding.
        np.testing.assert_allclose(found, clipped.vector.numpy(), atol=4 * clip.norm * 2**-12)


def test_a_head_is_summed_by_products_to_what_its_rows_are_but_for_rounding(make_masked):
    masked = make_masked(sampling_prob=1.0)
    bench, rows = masked.federation.workbench, expected_total(masked, masked.request(), masked.channel.hospitals)
    by_rows = decoded(masked, rows)
    bench._inputs = encoded(bench.network, bench._pixels)
    bench._head = HeadSums.of(bench.network, bench._inputs, cross_entropy)
    steps = np.abs(masked.ask().update - by_rows) * masked.mechanism.grid.steps_per_unit
    # Rows are rounded once each, the sums once a hospital, and a patient's norm is kept sqrt(d)/2 of D lower.
    assert 0 < steps.max() <= 20 + 20 * math.sqrt(masked.mechanism.dimension)


def asked_under(masked, kind, clipping_norm=0.02):
    norm = clipping_norm if kind is ClippingKind.ADAPTIVE else None
    return replace(masked.request(), work=GradientSum(masked.federation.weights, norm))


def rule_by(kind):
    return clip_by(kind, 0.5).rule


@pytest.mark.parametrize("kind", list(ClippingKind))
def test_under_every_clipping_the_opened_sum_is_the_simulated_one_and_all_the_noise(make_masked, kind):
    masked = make_masked(rule=rule_by(kind), sampling_prob=1.0)
    request, clip = asked_under(masked, kind), masked.federation.plan.training.clip
    asked = request.work.clipping_norm
    total = masked.collect(request)
    clear, noise = 0.0, np.zeros(masked.mechanism.dimension, np.int64)
    for agent in masked.federation.agents.values():
        sample = agent.sample(request)
        [clipped] = agent.workbench.gradient_sums(
            request.work.weights, [sample], clip.gradient_norm(asked), 0, clip.fixed
        )
        clear += clip.in_units(clipped, len(sample.chosen), asked).vector.numpy()
        noise += discrete_gaussian(masked.mechanism.dimension, 1 << 20, agent.noise_bytes(request))
    found = total.update - masked.mechanism.decode(noise)[:-WITNESSES]
    assert found.size == masked.federation.weights.size + (kind is ClippingKind.ADAPTIVE)
    # 2^-12 is the margin of the float clip, of 20 patients; rounding and single precision are far less.
    np.testing.assert_allclose(found, clear, atol=20 * clip.norm * 2**-12)
    assert np.abs(clear).max() > 0.5


@pytest.mark.parametrize("kind", [ClippingKind.FLAT, ClippingKind.PER_LAYER, ClippingKind.ADAPTIVE])
def test_hospitals_that_clip_otherwise_form_no_sum(make_masked, caplog, kind):
    masked = make_masked(rule=rule_by(kind))
    request = asked_under(masked, kind)
    other = masked.parties["hospital-2"]
    if kind is ClippingKind.ADAPTIVE:
        well, told = other.announce, asked_under(masked, kind, 0.03).work
        other.announce = lambda request, work: well(request, replace(work, of=told))
    else:
        terms = clipping_terms(clip_by(ClippingKind.AUTOMATIC, 0.5))
        other._agreement = replace(other._agreement, clipping=terms)
    with ends_the_run(caplog, "announced one for others|must be announced"):
        masked.collect(request)
    assert not masked.uploads
    assert masked.charges("hospital-1") == 0


def test_a_norm_of_the_round_that_nobody_planned_is_refused(make_masked):
    masked = make_masked()
    request = asked_under(masked, ClippingKind.ADAPTIVE, 0.1)
    total = masked.collect(request)
    assert total.update is None
    assert {failure.code for failure in total.failures.values()} == {FailureCode.REFUSED_POLICY}


@pytest.mark.parametrize("steps", [0, 1])
def test_no_sum_is_opened_for_steps_that_would_be_charged_in_its_place(make_masked, steps):
    masked = make_masked(seed=None)
    work = LocalUpdate(masked.federation.weights, LocalSteps(steps, 0.1, 0.0, 2.0))
    request = replace(masked.request(), work=work)
    assert announce(masked.parties["hospital-1"], request) == REFUSED
    total = masked.collect(request)
    assert total.update is None
    assert {failure.code for failure in total.failures.values()} == {FailureCode.REFUSED_POLICY}
    assert not masked.uploads


def test_a_row_that_reaches_into_the_witnesses_is_an_error_and_no_upload(make_masked, monkeypatch):
    masked = make_masked(sampling_prob=1.0)
    rows = Workbench.patient_gradients
    monkeypatch.setattr(
        Workbench, "patient_gradients", lambda self, *asked: (np.append(g, 1) for g in rows(self, *asked))
    )
    assert masked.ask().update is None
    assert not masked.uploads


def test_gradients_come_alike_whatever_fits_into_memory(make_masked):
    masked = make_masked(sampling_prob=1.0)
    agent, request = masked.federation.agents["hospital-2"], masked.request()
    together = list(gradients_of(agent, request))
    masked.federation.workbench._memory_bytes = 1  # one picture at a time, or one patient
    alone = list(gradients_of(agent, request))
    assert len(together) == len(agent.patients) == 4
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_fewer_hospitals_than_agreed_are_refused(make_masked):
    masked = make_masked()
    with pytest.raises(FederationError, match="must have 4 to 5 hospitals, got 3"):
        masked.aggregator.collect(
            masked.channel, dict.fromkeys(masked.channel.hospitals[:3], masked.request()), 60.0
        )


def test_no_hospital_answers_alone(make_masked):
    masked = make_masked()
    requests = dict.fromkeys(masked.channel.hospitals, masked.request())
    assert masked.channel.ask(requests, 0)[0] == {}
    answers = answer_all(masked.federation.agents, requests, masked.federation.transaction)
    assert set(answers.values()) == {REFUSED}
    assert {hospital.reply(masked.request()) for hospital in masked.hospitals.values()} == {REFUSED}
    assert masked.charges("hospital-1") == 0
    assert PlainSum().collect(masked.channel, requests, 60.0).update is None


@pytest.mark.parametrize(("step", "charges"), [("announce", 1), ("confirm", 1), ("admit", 2), ("upload", 2)])
def test_without_one_hospital_the_others_begin_anew(make_masked, step, charges):
    masked = make_masked()
    fails_at(masked.parties["hospital-2"], step)
    others = ["hospital-1", "hospital-3", "hospital-4", "hospital-5"]
    total = masked.ask()
    assert set(total.failures) == {"hospital-2"}
    assert [masked.charges(name) for name in others] == [charges] * 4, "every attempt is charged again"
    expected = expected_total(masked, replace(masked.request(), attempt=2), others)
    np.testing.assert_array_equal(total.update, decoded(masked, expected))


def test_a_repeated_attempt_shares_nothing_with_the_one_before(make_masked):
    masked = make_masked(seed=None)
    fails_at(masked.parties["hospital-2"], "upload")
    masked.ask()
    mine = [Upload.from_bytes(sent) for name, sent in masked.uploads if name == "hospital-1"]
    first, second = (set(map(tuple, sliding_window_view(upload.residues, 5).tolist())) for upload in mine)
    assert mine[0].transcript != mine[1].transcript
    # Single coordinates of few bits meet by chance; runs of five, of 128 bits or more, do not.
    assert first
    assert not first & second


def test_more_missing_than_foreseen_open_nothing(make_masked):
    masked = make_masked()
    for name in ("hospital-2", "hospital-4"):
        fails_at(masked.parties[name], "announce")
    total = masked.ask()
    assert total.update is None
    assert set(total.failures) == {"hospital-2", "hospital-4"}
    assert not masked.uploads
    call = Call("a study", allowed_missing=1)
    sgd = FedSGD(call, masked.aggregator, 1.0, 0.0, 0.5, 20, 0.5)
    with pytest.raises(FederationError, match="at most 1 may be missing"):
        sgd.update(sgd.init(masked.federation.weights, masked.channel), masked.channel, 1)


def test_a_failing_network_is_a_code_and_a_stage(make_masked, monkeypatch):
    masked = make_masked()
    agent = masked.federation.agents["hospital-3"]
    rounded_sum = type(agent).rounded_sum

    def broken(self, *asked):
        if self.name == "hospital-3":
            raise RuntimeError("patient 17 broke it")
        return rounded_sum(self, *asked)

    monkeypatch.setattr(type(agent), "rounded_sum", broken)
    total = masked.ask()
    assert total.failures == {"hospital-3": Failure(FailureCode.INTERNAL, Stage.TRAINING)}
    assert total.update is not None


def test_a_spent_budget_ends_the_attempt_with_nothing_sent(make_masked):
    masked = make_masked(epsilon_limit=1e-3)
    total = masked.ask()
    assert total.update is None
    assert {failure.code for failure in total.failures.values()} == {FailureCode.REFUSED_BUDGET}
    assert not masked.uploads


def test_a_timetable_of_absences_costs_only_those_who_were_asked(make_masked):
    masked = make_masked()
    availability = Availability(5, 5, 0.2, 1.0, 0.2, seed=4)
    missing = [availability.missing(round).sum() for round in range(1, 6)]
    round = 1 + missing.index(1)
    late = bool(availability.late[round - 1].any())
    channel = UnreliableChannel(masked.channel, availability)
    total = masked.collect(masked.request(round), channel)
    [silent] = total.failures
    assert total.update is not None
    assert masked.charges(silent) == late
    assert {masked.charges(name) for name in channel.hospitals if name != silent} == {1 + late}


def test_everything_of_a_round_s_mechanism_is_in_its_terms(make_masked):
    masked = make_masked()
    terms = masked.agreement.terms(1, 1, 5, masked.federation.weights)
    clipping = clipping_terms(masked.federation.plan.training.clip)
    assert terms.mechanism == {**masked.mechanism.parameters, "witnesses": WITNESSES, **clipping}


@pytest.mark.parametrize("step", ["announce", "confirm"])
def test_what_is_changed_on_the_way_ends_the_run_with_nothing_sent(make_masked, caplog, step):
    masked = make_masked()
    party = masked.parties["hospital-2"]
    send = getattr(party, step)

    def changed(*arguments):
        sent = send(*arguments)
        assert isinstance(sent, bytes)
        return sent[:-1] + bytes([sent[-1] ^ 1])

    setattr(party, step, changed)
    with ends_the_run(caplog, "of hospital-2 must carry its signature"):
        masked.ask()
    assert not masked.uploads
    assert masked.charges("hospital-2") == 0


def test_without_entropy_nothing_is_sent(make_masked, monkeypatch, caplog):
    def no_entropy(_):
        raise OSError("no entropy")

    masked = make_masked()
    monkeypatch.setattr("wardround.secure_aggregation.keys.secret.os.urandom", no_entropy)
    with ends_the_run(caplog, "random bytes"):
        masked.ask()
    assert not masked.uploads
