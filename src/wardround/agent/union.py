"""Hospitals of one process answering as one: the sum of their answers, without the answers.

Released: under a sum that nobody opens, the noised sum of the clipped gradients (or of the counts) of all hospitals
that answer, and nothing else; a single hospital's reply never exists here, which is what the statement says of it.

Why it is the same release as the sum of single replies. Each hospital samples its own patients from its own stream,
so the same patients are drawn. A sum over hospitals of sums over their patients is the sum over the union, each
gradient clipped once; one patient is in one hospital, so the sensitivity stays `clipping_norm`. Each hospital's part
of the noise is normal, of one std s, and independent of the others' parts, so the parts of the m hospitals that answer
add up to a normal variate of std s sqrt(m): it is drawn once, from a stream of its own. A hospital that fails adds
neither patients nor noise, as before. Seeded, the noise differs in value from that of single replies, not in law.

What stays hospital by hospital: admission and the charge on disk, before any gradient is computed. This serves
simulation: where hospitals are real, each draws its part itself, as whoever draws the whole noise can subtract it.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wardround.agent.agent import Agent, admit_all
from wardround.federation.messages import Failure, FailureCode, Request, Requests, Stage, Task, Total
from wardround.randomness import Indices
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Sample
from wardround.types import HospitalName, Vector

_log = logging.getLogger("wardround.agent")


@dataclass(frozen=True)
class Union:
    """Several agents of one process whose answers are only ever summed.

    Attributes:
        agents: by hospital; they share one plan, one source of randomness and one workbench.
        transaction: opens the ledger file once, so that all charges of a round reach the disk together.
    """

    agents: Mapping[HospitalName, Agent]
    transaction: Callable[[], AbstractContextManager[object]]

    def answer_sum(self, requests: Requests) -> Total | None:
        """The sum of what the agents would reply; None, with nobody asked, where the task has no common sum."""
        request = next(iter(requests.values()))
        if request.task not in (Task.COUNT, Task.GRADIENT_SUM):
            return None
        if any(other is not request for other in requests.values()):
            raise ValueError("hospitals that answer with one sum are asked with one request")
        failures = admit_all(self.agents, requests, self.transaction)
        admitted = [self.agents[name] for name in requests if name not in failures]
        if not admitted:
            return Total(None, {}, failures)
        try:
            update = self._released(admitted, request)
        except Exception:
            _log.exception("training failed")
            broken = Failure(FailureCode.INTERNAL, Stage.TRAINING)
            return Total(None, {}, {name: failures.get(name, broken) for name in requests})
        return Total(update, {agent.name: agent.event_of(request) for agent in admitted}, failures)

    def _released(self, admitted: list[Agent], request: Request) -> Vector:
        first, hospitals = admitted[0], len(admitted)
        plan, randomness = first.plan, first.randomness
        noise = randomness.stream("all hospitals", "noise", request.task.value, request.round, request.attempt)
        if request.task is Task.COUNT:
            return plan.hospital_count(sum(len(agent.patients) for agent in admitted), noise, hospitals)
        if request.weights is None:
            raise ValueError("a gradient sum needs weights")
        sample = Sample(self._patients, self._chosen(admitted, request))
        [clipped] = first.workbench.gradient_sums(
            request.weights, [sample], plan.gradient_norm(request.clipping_norm),
            randomness.stream("dropout", request.round).seed(), plan.rule,
        )  # fmt: skip
        whole = plan.in_units(clipped, len(sample.chosen), request.clipping_norm)
        return plan.hospital_release(whole, noise, hospitals)

    def _chosen(self, admitted: list[Agent], request: Request) -> Indices:
        """This round's patients of some hospitals, each drawn by its own, as positions in the union."""
        return np.concatenate([self._starts[agent.name] + agent.sample(request).chosen for agent in admitted])

    @cached_property
    def _patients(self) -> TrainingPatients:
        """Patients of all hospitals, one after the other."""
        parts = [agent.patients for agent in self.agents.values()]
        return TrainingPatients(
            rows=np.concatenate([part.rows for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            starts=np.concatenate([[0], *(part.counts for part in parts)]).cumsum(),
        )

    @cached_property
    def _starts(self) -> dict[HospitalName, int]:
        """Position of each hospital's first patient in the union."""
        sizes = [len(agent.patients) for agent in self.agents.values()]
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        return dict(zip(self.agents, starts, strict=True))
