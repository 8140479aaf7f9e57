"""Fitted heads and chosen coordinates from the study file to the certificate, and what a hospital refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.charges import charges_of
from tests.fixtures_federation import STUDY, private_plan, without_noise

from wardround.accounting.events import GaussianEvent, from_json, leaves
from wardround.agreed.network import build_network
from wardround.agreed.plans import plan_of
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.errors import ModelError, StudyError
from wardround.federation.aggregators import PlainSum
from wardround.federation.messages import FailureCode, Request
from wardround.federation.strategies.one_shot import OneShot
from wardround.federation.strategy import Call
from wardround.images.entries import Target
from wardround.noisers import ByEachHospital, NoiseShares
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.kinds import NoisedHead
from wardround.privacy.plans.plan import Plan
from wardround.privacy.updates import ClippedUpdate
from wardround.simulation.estimate import estimate
from wardround.simulation.run import run_study
from wardround.training.convex import fit_head
from wardround.work import FittedHead, GradientSum, HeadFit, LocalSteps, LocalUpdate

FIT = HeadFit(0.05, 1.0, 4.0)
ONE_SHOT = {"strategy": "one-shot", "rounds": None, "evaluate_every": None}
PERTURBED = {"plan": "output-perturbation", "num_patients": 32, "clipping_norm": 1.0}


def one_shot(federation, aggregator=None):
    strategy = OneShot(Call(STUDY), aggregator or PlainSum(), FIT)
    state = strategy.init(federation.weights, federation.channel)
    return strategy.models(strategy.update(state, federation.channel, 1))["global"]


def perturbed(hospitals=3):
    return Plan((NoisedHead(OutputPerturbation(FIT, 1.0), ByEachHospital(hospitals)),), delta=1e-5)


def clipped_updates():
    return private_plan(mechanism=ClippedUpdate(1.0, 1.0))


def asked(federation, work):
    hospital = next(iter(federation.agents))
    replies, failures = federation.channel.ask({hospital: Request(STUDY, 1, 1, work)}, 1.0)
    return replies.get(hospital), failures.get(hospital), charges_of(federation.agents[hospital].account)


def test_without_noise_one_shot_is_the_mean_of_the_fitted_heads(make_federation):
    federation = make_federation(plan=without_noise(perturbed()))
    heads = [fit_head(federation.workbench, agent.patients, FIT) for agent in federation.agents.values()]
    assert np.allclose(one_shot(federation), np.mean(heads, axis=0), atol=1e-6)


def test_each_hospitals_reply_is_its_head_with_noise_and_is_charged_once(make_federation):
    federation = make_federation(plan=perturbed())
    [agent, *_] = federation.agents.values()
    reply, failure, charged = asked(federation, FittedHead(FIT))
    assert failure is None
    [entry] = charged
    assert leaves(entry.event) == leaves(GaussianEvent(1.0)) == leaves(reply.event)
    noise = reply.update - fit_head(federation.workbench, agent.patients, FIT)
    assert 0.5 < noise.std() / OutputPerturbation(FIT, 1.0).sensitivity < 1.6  # 34 numbers


WEIGHTS = np.zeros(34, dtype=np.float32)


@pytest.mark.parametrize(
    "work",
    [
        FittedHead(replace(FIT, regularisation=0.04)),
        FittedHead(replace(FIT, row_norm=2.0)),
        FittedHead(replace(FIT, num_patients=3.0)),
        GradientSum(WEIGHTS),
        LocalUpdate(WEIGHTS, LocalSteps(1, 0.1, 0.0, None)),
    ],
    ids=["softer", "longer rows", "fewer patients", "gradients", "steps"],
)
def test_a_hospital_refuses_what_its_noise_is_not_for(make_federation, work):
    federation = make_federation(plan=perturbed())
    assert federation.weights.shape == WEIGHTS.shape
    reply, failure, charged = asked(federation, work)
    assert reply is None
    assert failure.code is FailureCode.REFUSED_POLICY
    assert not charged


@pytest.mark.parametrize("plan", [private_plan(), clipped_updates()])
def test_other_plans_let_no_fitted_head_go(make_federation, plan):
    federation = make_federation(plan=plan)
    reply, failure, _ = asked(federation, FittedHead(FIT))
    assert reply is None
    assert failure.code is FailureCode.REFUSED_POLICY


def test_a_plan_for_updates_lets_no_sum_of_gradients_go(make_federation):
    """It would leave without any noise."""
    federation = make_federation(plan=clipped_updates())
    reply, failure, _ = asked(federation, GradientSum(federation.weights))
    assert reply is None
    assert failure.code is FailureCode.REFUSED_POLICY


@pytest.mark.parametrize("strategy", ["one-shot", "ensemble"])
def test_a_run_ends_with_a_certificate_of_one_release(tiny_study, tmp_path, strategy):
    study = tiny_study(
        privacy=PERTURBED, federation=ONE_SHOT | {"strategy": strategy, "compare": ["no-privacy", "alone"]}
    )
    record = run_study(study, tmp_path / "run", Silent())
    certificate = json.loads((tmp_path / "run" / "certificate.json").read_text())
    statement = certificate["statement"]
    assert certificate["rounds"] == 1
    assert statement["unit"] == "patient"
    assert statement["trust"] == ("secure-aggregation" if strategy == "one-shot" else "nobody")
    assert 7.9 < statement["epsilon"] <= 8.0
    [(leaf, count)] = leaves(from_json(certificate["event"]))
    assert (leaf, count) == (release_event(plan_of(study).training), 1)
    references = record.results["references"]
    assert isinstance(references, dict)
    row, alone = references["no-privacy"], references["alone"]
    assert (row["private"], alone["private"]) == (False, True)


@pytest.mark.parametrize("plan", ["sparse-vector", "top-k"])
@pytest.mark.parametrize("strategy", ["selective", "fedavg"])
def test_a_run_that_shares_a_few_coordinates_has_a_certificate_of_its_total(tiny_study, tmp_path, plan, strategy):
    study = tiny_study(
        privacy={"plan": plan, "answers": 20, "clipping_norm": 0.01},
        federation={"strategy": strategy, "rounds": 3, "learning_rate": 0.1},
    )
    run_study(study, tmp_path / "run", Silent())
    certificate = json.loads((tmp_path / "run" / "certificate.json").read_text())
    statement = certificate["statement"]
    assert (statement["unit"], statement["relation"]) == ("hospital", "replace-one")
    assert statement["trust"] == "nobody"
    assert 7.9 < statement["epsilon"] <= 8.0


def test_the_public_number_is_spread_over_the_hospitals(tiny_study):
    part = plan_of(tiny_study(privacy=PERTURBED, federation=ONE_SHOT)).training
    assert isinstance(part, NoisedHead)
    assert part.mechanism.fit == HeadFit(0.01, 1.0, 32 / 3)


def test_a_fit_is_foreseen_as_it_is_promised(tiny_study):
    study = tiny_study(privacy=PERTURBED, federation=ONE_SHOT)
    assert 7.9 < estimate(study).statement.epsilon <= 8.0
    assert study.rounds == 1


def test_a_network_with_more_than_a_linear_head_is_refused(tiny_study):
    study = tiny_study(privacy=PERTURBED, federation=ONE_SHOT, model={"name": "small_cnn"})
    with pytest.raises(ModelError, match="one linear layer"):
        build_network(study, target=Target.CLASSES, num_classes=2, shape=(1, 16, 16))


@pytest.mark.parametrize(
    ("privacy", "federation", "part"),
    [
        (PERTURBED | {"num_patients": None}, ONE_SHOT, "num_patients is missing"),
        (PERTURBED | {"sampling_prob": 0.5}, ONE_SHOT, "remove sampling_prob"),
        (PERTURBED | {"trust": "coordinator"}, ONE_SHOT, "trust: input should be"),
        (PERTURBED, {"strategy": "fedsgd"}, 'what [federation] strategy = "fedsgd" asks'),
        (PERTURBED, ONE_SHOT | {"compare": ["pooled"]}, 'no reference "pooled"'),
        (PERTURBED, ONE_SHOT | {"rounds": 4}, "remove rounds"),
        (PERTURBED, {"strategy": "alone"}, "has one round and no steps, got rounds"),
        ({"plan": "dp-sgd"}, ONE_SHOT, "asks each hospital for (fit-head)"),
        ({"plan": "sparse-vector"}, {"strategy": "selective"}, "answers is missing"),
        ({"plan": "top-k", "answers": 3}, {"strategy": "fedsgd"}, 'what [federation] strategy = "fedsgd" asks'),
        (
            {"plan": "top-k", "answers": 3, "trust": "secure-aggregation"},
            {"strategy": "fedavg"},
            "trust: input should be",
        ),
        ({"plan": "dp-sgd", "answers": 3}, {}, "answers belongs to"),
        (
            {"plan": "top-k", "answers": 3, "answer_threshold": 0.1},
            {"strategy": "fedavg"},
            "answer_threshold belongs",
        ),
        (
            {"plan": "clipped-update", "trust": "nobody"},
            {"strategy": "fedavg", "compare": ["pooled"]},
            'use "pooled-no-privacy"',
        ),
    ],
)
def test_studies_that_do_not_fit_are_refused(tiny, privacy, federation, part):
    with pytest.raises(StudyError) as refused:
        estimate(parse_study(tiny(privacy=privacy, federation=federation)))
    assert part in str(refused.value)


def test_the_shares_of_a_sum_are_sized_for_the_honest(tiny_study):
    plan = plan_of(tiny_study(privacy=PERTURBED, federation=ONE_SHOT))
    assert plan.noiser == NoiseShares(3, colluders=1, dropouts=0)
