"""Hospitals of one process answering as one: the sum of their answers, without the answers.

Released: under a sum whose parts no party sees, the noised sum of clipped gradients (or of counts) of all hospitals
that answer, and nothing else; a single hospital's reply never exists here, which is what the statement says of it.

Why it is the same release as the sum of single replies. Each hospital samples its own patients from its own stream,
so the same patients are drawn. A sum over hospitals of sums over their patients is the sum over the union, each
gradient clipped once; one patient is in one hospital, so the sensitivity stays `clipping_norm`. Each hospital's part
of the noise is normal, of one std s, and independent of the others' parts, so the parts of the m hospitals that answer
add up to a normal variate of std s sqrt(m): it is drawn once, from a stream of its own. A hospital that fails adds
neither patients nor noise, as before. Seeded, the noise differs in value from that of single replies, not in law.

What stays hospital by hospital: admission and the charge on disk, before any gradient is computed. This serves
simulation: where hospitals are real, each draws its part itself, as a party that draws the whole noise can subtract it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from wardround.boundary.machine import raise_fault
from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel
from wardround.federation.messages import Failure, FailureCode, Request, Requests, Stage, Total
from wardround.hospital.agent import Agent
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.plans.releases import clip_of, noised_counts, noised_sum
from wardround.randomness.sampling import Indices
from wardround.simulation.availability import Availability
from wardround.simulation.batches import Transaction, admit_all
from wardround.training.patients import Sample, TrainingPatients, united
from wardround.types import HospitalName, Vector
from wardround.work import CountPatients, GradientSum, RowSum, ScoreSum

_log = logging.getLogger("wardround.hospital")


@dataclass(frozen=True)
class JointSum:
    """An aggregator for hospitals of one process whose answers are only ever summed.

    Attributes:
        agents: by hospital; they share one plan, one source of randomness and one workbench.
        transaction: of the ledger file.
        otherwise: forms sums of work that the hospitals have no common sum for.
        availability: hospitals that are away or late; the late ones are asked and charged, one by one, in vain.
    """

    agents: Mapping[HospitalName, Agent]
    transaction: Transaction
    otherwise: Aggregator
    availability: Availability | None = None

    def collect(self, channel: Channel, requests: Requests, deadline_s: float) -> Total:
        """See `Aggregator`."""
        request = next(iter(requests.values()))
        missing: set[HospitalName] = set()
        if self.availability is not None:
            missing = set().union(*self.availability.silent(channel.hospitals, requests))
        in_time = {name: asked for name, asked in requests.items() if name not in missing}
        if not in_time or not isinstance(request.work, CountPatients | GradientSum | RowSum | ScoreSum):
            return self.otherwise.collect(channel, requests, deadline_s)
        total = self._answered(in_time)
        if not missing:
            return total
        _, others = channel.ask({name: requests[name] for name in requests if name in missing}, deadline_s)
        failures = total.failures | others
        return Total(total.update, total.events, {name: failures[name] for name in requests if name in failures})

    def _answered(self, requests: Requests) -> Total:
        """Returns the sum of what these hospitals would answer."""
        request = next(iter(requests.values()))
        if any(other is not request for other in requests.values()):
            raise ValueError("hospitals that answer with one sum are asked with one request")
        failures = admit_all(self.agents, requests, self.transaction)
        admitted = [self.agents[name] for name in requests if name not in failures]
        if not admitted:
            return Total(None, {}, failures)
        try:
            update = self._released(admitted, request)
        except Exception as error:
            raise_fault(error)
            _log.exception("training failed")
            broken = Failure(FailureCode.INTERNAL, Stage.TRAINING)
            return Total(None, {}, {name: failures.get(name, broken) for name in requests})
        event = admitted[0].event_of(request)
        return Total(update, {agent.name: event for agent in admitted}, failures)

    def _released(self, admitted: list[Agent], request: Request) -> Vector:
        first, work, hospitals = admitted[0], request.work, len(admitted)
        plan, randomness = first.plan, first.randomness
        noise = randomness.stream("all hospitals", "noise", work.name, request.round, request.attempt)
        if isinstance(work, CountPatients):
            count = np.array([float(sum(len(agent.patients) for agent in admitted))])
            return noised_counts(plan.count, count, noise, hospitals)
        if isinstance(work, RowSum | ScoreSum):
            parts = [agent.statistic_sum(request, work) for agent in admitted]
            total = torch.stack([part.vector for part in parts]).sum(0)
            return noised_sum(plan.training, ClippedSum(total, parts[0].sensitivity), noise, hospitals)
        assert isinstance(work, GradientSum), "asked for nothing else"
        sample, clip = Sample(self._patients, self._chosen(admitted, request)), clip_of(plan.training)
        [clipped] = first.workbench.centred(work.centre).gradient_sums(
            work.weights, [sample], clip.gradient_norm(work.clipping_norm),
            randomness.stream("dropout", request.round).seed(), clip.fixed,
        )  # fmt: skip
        whole = clip.in_units(clipped, len(sample.chosen), work.clipping_norm)
        return noised_sum(plan.training, whole, noise, hospitals)

    def _chosen(self, admitted: list[Agent], request: Request) -> Indices:
        """Returns this round's patients of some hospitals, each drawn by its own, as positions in the union."""
        drawn = [agent.sample(request).chosen for agent in admitted]
        starts = [self._starts[agent.name] for agent in admitted]
        firsts: Indices = np.repeat(starts, [len(chosen) for chosen in drawn])
        return firsts + np.concatenate(drawn)

    @cached_property
    def _patients(self) -> TrainingPatients:
        """Patients of all hospitals, one after the other."""
        return united([agent.patients for agent in self.agents.values()])

    @cached_property
    def _starts(self) -> dict[HospitalName, int]:
        """Position of each hospital's first patient in the union."""
        sizes = [len(agent.patients) for agent in self.agents.values()]
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        return dict(zip(self.agents, starts, strict=True))
