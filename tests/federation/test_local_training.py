"""What a hospital is asked to do by itself, what it then does, and how unequal hospitals are made up for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tests.charges import charges_of
from tests.federation.known import gradient_sum, local_sgd
from tests.fixtures_federation import STUDY, private_plan, with_training, without_noise
from tests.names import names

from wardround.accounting.events import GaussianEvent
from wardround.federation.local_training import LocalTraining, Repair
from wardround.federation.strategy import Call
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.randomness import Randomness
from wardround.training.local import LocalRun, class_of_patients, local_steps
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Workbench
from wardround.work import CountClasses, LocalSteps

PLAN = without_noise(private_plan(sampling_prob=1.0))


def training(num_patients=12, **changes):
    return replace(LocalTraining(Call(STUDY), 4, 0.1, 0.0, 0.5, num_patients), **changes)


def take(federation, run, patients=None, plan=PLAN, seed=1):
    randomness = Randomness(seed)
    agent = next(iter(federation.agents.values()))
    streams = randomness.stream("sampling"), randomness.stream("noise")
    own = LocalRun(federation.weights, patients or agent.patients, run, *streams)
    [(_, *after)] = local_steps(federation.workbench, plan.training, [own])
    return after


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.7},
        {"proximal": 0.8},
        {"correction": np.linspace(-1, 1, 34, dtype=np.float32)},
        {"momentum": 0.7, "velocity": np.linspace(1, -1, 34, dtype=np.float32)},
        {"class_weights": (0.25, 1.0)},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_local_steps_are_the_steps_of_the_formula(make_federation, options):
    federation = make_federation()
    steps = {"steps": 3, "learning_rate": 0.3, "momentum": 0.0, "denominator": 4.0, "keep_velocity": True}
    run = LocalSteps(**(steps | options))
    weights, velocity = take(federation, run)
    known = local_sgd(federation, 0, federation.weights, steps=3, learning_rate=0.3, **options)
    assert np.allclose(weights, known[0], rtol=1e-3, atol=1e-5)
    assert np.allclose(velocity, known[1], rtol=1e-3, atol=1e-5)


def test_the_divisor_is_the_one_in_the_request_and_without_one_the_hospitals_own(make_federation):
    federation = make_federation()
    plan = with_training(PLAN, participation=1.0)
    step = gradient_sum(federation, 0, federation.weights)
    for denominator, divisor in ((7.0, 7.0), (None, 4.0)):
        weights, _ = take(federation, LocalSteps(1, 1.0, 0.0, denominator), plan=plan)
        assert np.allclose(federation.weights - weights, step / divisor, rtol=1e-3, atol=1e-5)


def singles(federation, classes):
    """Patients with one picture each, of given classes."""
    rows = np.array([np.flatnonzero(federation.labels == c)[n % 2] for n, c in enumerate(classes)])
    return TrainingPatients(rows, federation.labels[rows], np.arange(len(rows) + 1), names(len(rows)))


def test_a_weighted_loss_is_that_of_patients_repeated_until_classes_are_equal(make_federation):
    federation = make_federation()
    uneven = singles(federation, [0, 0, 0, 0, 1, 1])
    rare = uneven.rows[4:]
    even = np.concatenate([uneven.rows, rare])  # the rarer class twice
    repeated = TrainingPatients(even, federation.labels[even], np.arange(len(even) + 1), names(len(even)))
    counts = np.bincount(class_of_patients(uneven))
    shares = tuple(counts.min() / counts)
    assert shares == (0.5, 1.0)
    ours, _ = take(federation, LocalSteps(3, 0.2, 0.5, 4.0, class_weights=shares), uneven)
    known, _ = take(federation, LocalSteps(3, 0.2, 0.5, 8.0), repeated)
    assert np.allclose(ours, known, rtol=1e-4, atol=1e-6)


def test_weighted_sampling_draws_the_classes_equally_often(make_federation, monkeypatch):
    federation = make_federation()
    patients = singles(federation, [0] * 9 + [1] * 3)
    drawn = []

    def watching(self, weights, samples, *rest):
        drawn.append(samples[0].chosen)
        return [ClippedSum(torch.zeros(weights.size), np.inf)]

    monkeypatch.setattr(Workbench, "gradient_sums", watching)
    run = LocalSteps(1500, 1e-3, 0.0, 4.0, class_sampling=(1 / 3, 1.0))
    take(federation, run, patients, with_training(PLAN, participation=0.6))
    classes = class_of_patients(patients)
    for cls, share in ((0, 1 / 3), (1, 1.0)):
        mine = np.flatnonzero(classes == cls)
        often = np.array([sum(patient in chosen for chosen in drawn) for patient in mine])
        # Every patient of the class, on its own, is drawn with the plan's probability times the share.
        test = stats.chisquare(
            np.column_stack([often, 1500 - often]),
            np.tile([1500 * 0.6 * share, 1500 * (1 - 0.6 * share)], (len(mine), 1)),
            axis=1,
        )
        assert test.pvalue.min() > 1e-4
    sizes = [np.bincount(classes[chosen], minlength=2) for chosen in drawn]
    rare_and_common = np.array(sizes).mean(axis=0)
    # Nobody's draw depends on anybody else's: the number drawn is binomial.
    assert np.var(sizes, axis=0) == pytest.approx([9 * 0.2 * 0.8, 3 * 0.6 * 0.4], rel=0.15)
    assert rare_and_common[0] == pytest.approx(rare_and_common[1], rel=0.06)


def test_a_patient_is_never_drawn_more_often_than_the_plan_says(make_federation, monkeypatch):
    """A share above one would be a lie about the sampling: it changes nothing."""
    federation = make_federation()
    drawn = []

    def watching(self, weights, samples, *rest):
        drawn.append(len(samples[0].chosen))
        return [ClippedSum(torch.zeros(weights.size), np.inf)]

    monkeypatch.setattr(Workbench, "gradient_sums", watching)
    plan = with_training(PLAN, participation=0.3)
    take(federation, LocalSteps(400, 1e-3, 0.0, 4.0, class_sampling=(50.0, 50.0)), plan=plan)
    assert np.mean(drawn) / 4 < 0.3 + 4 * np.sqrt(0.3 * 0.7 / 1600)


def test_steps_in_proportion_to_patients_and_all_of_them_at_the_largest():
    local = training(repair=Repair.PROPORTIONAL)
    state = {"num_patients": np.array([100.0, 50.0, 1.0], dtype=np.float32)}
    assert [local.steps_of(state, k) for k in range(3)] == [4, 2, 1]
    assert [training().steps_of(state, k) for k in range(3)] == [4, 4, 4]


def test_counts_are_asked_for_only_where_they_are_needed(make_federation):
    counting = without_noise(private_plan(num_patients=None, sampling_prob=1.0))
    federation = make_federation(plan=counting)
    assert training().counts(federation.channel)["num_patients"].tolist() == [4.0, 4.0, 4.0]
    assert (
        training(num_patients=None, own_size=True).counts(federation.channel)["num_patients"].tolist() == [1] * 3
    )
    assert not any(charges_of(agent.account) for agent in federation.agents.values())
    assert training(num_patients=None).counts(federation.channel)["num_patients"].tolist() == [4.0] * 3
    assert all(len(charges_of(agent.account)) == 1 for agent in federation.agents.values())


@pytest.mark.parametrize("repair", [Repair.WEIGHTED_LOSS, Repair.WEIGHTED_SAMPLING])
def test_class_counts_become_weights_of_at_most_one(make_federation, repair):
    federation = make_federation(plan=without_noise(private_plan(num_patients=None, sampling_prob=1.0)))
    local = training(num_patients=None, repair=repair)
    state = local.counts(federation.channel)
    for k, agent in enumerate(federation.agents.values()):
        counts = np.maximum(np.bincount(class_of_patients(agent.patients), minlength=2), 1)
        assert state["class_counts"][k].tolist() == counts.tolist()
        run = local.request(1, state, k, federation.weights).work.steps
        shares = run.class_weights if repair is Repair.WEIGHTED_LOSS else run.class_sampling
        assert shares == pytest.approx(tuple(counts.min() / counts))
        assert (run.class_weights is None) is (repair is not Repair.WEIGHTED_LOSS)


def test_class_counts_are_noised_like_one_count_and_charged_once(make_federation):
    plan = private_plan(num_patients=None, count_noise_multiplier=30.0)
    found = []
    for seed in range(15):
        federation = make_federation(plan=plan, seed=seed)
        request = Call(STUDY).request(CountClasses(), 0)
        replies = Call(STUDY).ask(federation.channel, dict.fromkeys(federation.channel.hospitals, request))
        for name, reply in replies.items():
            agent = federation.agents[name]
            assert [entry.event for entry in charges_of(agent.account)] == [GaussianEvent(30.0)]
            found.append(reply.update - np.bincount(class_of_patients(agent.patients), minlength=2))
    assert stats.kstest(np.array(found).ravel(), "norm", (0, 30.0)).pvalue > 1e-3
