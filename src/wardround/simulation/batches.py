"""Answers of several hospitals of one process, computed in common batches and charged by one write.

Every charge is on disk before any gradient is computed. Gradient sums at the same weights are evaluated in common
batches, which changes their cost and not their value.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from wardround.boundary.machine import raise_fault
from wardround.federation.messages import Answer, Failure, FailureCode, Failures, Request, Requests, Stage
from wardround.hospital.agent import Agent
from wardround.hospital.asked import Asked
from wardround.privacy.plans.releases import clip_of
from wardround.training.local import local_steps
from wardround.types import HospitalName
from wardround.work import GradientSum, LocalUpdate

_log = logging.getLogger("wardround.hospital")

Transaction = Callable[[], AbstractContextManager[object]]
"""Opens a ledger file once, so that all charges of a round reach the disk together."""


def admit_all(agents: Mapping[HospitalName, Agent], requests: Requests, transaction: Transaction) -> Failures:
    """Returns the hospitals that refuse; the charges of all others are on disk by one write."""
    failures: Failures = {}
    asked: Asked | None = None  # of the hospital before, with which most have plan, policy and request in common
    with transaction():
        for name, request in requests.items():
            agent = agents[name]
            asked = agent.asked(request, asked)
            failure = agent.admit(request, asked)
            if failure is not None:
                failures[name] = failure
    return failures


def answer_all(
    agents: Mapping[HospitalName, Agent], requests: Requests, transaction: Transaction
) -> dict[HospitalName, Answer | Failure]:
    """Returns the answers of several hospitals, each as if it were alone."""
    refusals = admit_all(agents, requests, transaction)
    admitted = {name: request for name, request in requests.items() if name not in refusals}
    answers: dict[HospitalName, Answer | Failure] = {**refusals}
    try:
        known = {name: agents[name].repeated(request) for name, request in admitted.items()}
        answers |= {name: reply for name, reply in known.items() if reply is not None}
        admitted = {name: request for name, request in admitted.items() if known[name] is None}
        together = [name for name, request in admitted.items() if isinstance(request.work, GradientSum)]
        answers |= _gradient_sums([agents[name] for name in together], [admitted[name] for name in together])
        together = [name for name, request in admitted.items() if isinstance(request.work, LocalUpdate)]
        answers |= _local_updates([agents[name] for name in together], [admitted[name] for name in together])
        for name, request in admitted.items():
            if name not in answers:
                answers[name] = agents[name].answer_alone(request)
    except Exception as error:
        raise_fault(error)
        _log.exception("training failed")
        broken = Failure(FailureCode.INTERNAL, Stage.TRAINING)
        answers |= {name: broken for name in admitted if name not in answers}
    return {name: answers[name] for name in requests}


def _gradient_sums(agents: Sequence[Agent], requests: Sequence[Request]) -> dict[HospitalName, Answer]:
    """Returns answers to gradient sums. All requests of a round carry the same weights array, and the same centre."""
    if not agents:
        return {}
    works = [request.work for request in requests if isinstance(request.work, GradientSum)]
    weights, asked, centre = works[0].weights, works[0].clipping_norm, works[0].centre
    if any(
        work.weights is not weights or work.clipping_norm != asked or work.centre is not centre for work in works
    ):
        raise ValueError(
            "gradient sums of one round start from one weights array, one clipping norm and one centre"
        )
    samples = [agent.sample(request) for agent, request in zip(agents, requests, strict=True)]
    clip, dropout = clip_of(agents[0].plan.training), agents[0].randomness.stream("dropout", requests[0].round)
    bench = agents[0].workbench.centred(centre)
    sums = bench.gradient_sums(weights, samples, clip.gradient_norm(asked), dropout.seed(), clip.fixed)
    return {
        agent.name: agent.release(request, work, clipped, sample)
        for agent, request, work, clipped, sample in zip(agents, requests, works, sums, samples, strict=True)
    }


def _local_updates(agents: Sequence[Agent], requests: Sequence[Request]) -> dict[HospitalName, Answer]:
    """Returns answers to rounds of local steps, taken side by side; a seeded run gives deployed hospitals' bits."""
    if not agents:
        return {}
    works = [request.work for request in requests if isinstance(request.work, LocalUpdate)]
    asked = list(zip(agents, requests, works, strict=True))
    runs = [agent.local_run(request, work) for agent, request, work in asked]
    bench, part, private = agents[0].workbench, agents[0].plan.training, agents[0].randomness.is_private
    answers: dict[HospitalName, Answer] = {}
    for place, weights, velocity in local_steps(bench, part, runs, may_round=private):
        agent, request, work = asked[place]
        answers[agent.name] = agent.updated(request, work, runs[place], weights, velocity)
    return answers
