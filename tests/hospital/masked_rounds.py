"""A tiny federation whose hospitals answer under masks, and what its sum must be if every share of noise is known."""

import logging
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from tests.charges import charges_of
from tests.errors import raises_code
from tests.fixtures_federation import STUDY, private_plan
from tests.secure_aggregation.round.rounds import entropy_of

from wardround.agreed.masks import COUNT_COORDINATES, count_mechanism_of, fitting, mechanism_of, shares_for
from wardround.errors import FederationError
from wardround.federation.channel import InProcessChannel
from wardround.federation.masked import MaskedAggregator
from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.hospital.hospital import Hospital
from wardround.hospital.masked import MaskedRounds, _Attempt, counted_rows
from wardround.noisers import Trust
from wardround.privacy.plans.calibrate import with_shares
from wardround.privacy.plans.wording import clipping_terms
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.round.agreement import Agreement
from wardround.secure_aggregation.round.witness import WITNESSES
from wardround.simulation.federate import answer_exchanges
from wardround.work import Announce, CountPatients, GradientSum

CLASSES = ("ill", "well")


def masked_plan(hospitals=5, **fields):
    fields = {"trust": Trust.SECURE_AGGREGATION, "colluders": 1, "dropouts": 1, **fields}
    plan = private_plan(hospitals, **fields)
    part, count = plan.training, plan.count
    shares = shares_for(part.noise.noise_multiplier, part.clip.norm, 1 << 30, part.noiser)
    if count is None:
        return with_shares(plan, shares)
    return with_shares(
        plan, shares, shares_for(count.noise.noise_multiplier, 1.0, COUNT_COORDINATES, count.noiser)
    )


def counted_plan(hospitals=5, **fields):
    return masked_plan(hospitals, **{"num_patients": None, "count_noise_multiplier": 2.0, **fields})


class MaskedFederation:
    """Real hospitals around the agents of a tiny federation; `uploads` has what left them, in order."""

    def __init__(self, federation, folder):
        self.federation, plan = federation, federation.plan
        self.mechanism = fitting(mechanism_of(plan, federation.weights.size), plan)
        self.agreement = Agreement(
            "a run",
            "ab" * 32,
            self.mechanism,
            plan.releases,
            "0.1.0",
            clipping=clipping_terms(plan.training.clip),
            count=count_mechanism_of(plan),
        )
        identities = [Identity(name, SigningKey.new(entropy_of(name))) for name in federation.agents]
        pins = Pins({identity.hospital: identity.key.public for identity in identities})
        self.uploads = []
        self.parties = {}
        for agent, identity in zip(federation.agents.values(), identities, strict=True):
            party = MaskedRounds(agent, identity, pins, self.agreement, folder / f"{agent.name}.json")
            self.parties[agent.name] = party
            setattr(party, "upload", self._recorded(agent.name, party.upload))  # noqa: B010  # mypy knows methods
        self.channel = InProcessChannel(tuple(self.parties), self.answer)
        self.aggregator = MaskedAggregator(self.agreement)

    @property
    def hospitals(self):
        """The hospitals as they are now: tests put other ledgers and patients in."""
        return {
            name: Hospital(party._agent, CLASSES, party, party._identity) for name, party in self.parties.items()
        }

    def answer(self, requests):
        """What a simulation answers an exchange with."""
        return answer_exchanges(self.hospitals, self.federation.transaction)(requests)

    def _recorded(self, name, upload):
        def recorded():
            sent = upload()
            if isinstance(sent, bytes):
                self.uploads.append((name, sent))
            return sent

        return recorded

    def request(self, round=1):
        """What is summed in a round, as a strategy asks for it."""
        work = GradientSum(self.federation.weights) if round else CountPatients()
        return Request(STUDY, round, 1, work)

    def collect(self, request, channel=None):
        """The total of what all hospitals are asked."""
        requests = dict.fromkeys(self.channel.hospitals, request)
        return self.aggregator.collect(channel or self.channel, requests, 60.0)

    def ask(self, round=1):
        """The total of one round, which every hospital in it takes in."""
        total = self.collect(self.request(round))
        self.aggregator.close(self.channel, 60.0)
        return total

    def charges(self, name):
        """Attempts that a hospital's ledger was charged for."""
        return len(charges_of(self.federation.agents[name].account))


@contextmanager
def ends_the_run(caplog, why):
    """Passes if a hospital ends the run, and its own log, not the message to others, says why."""
    caplog.clear()
    with (
        caplog.at_level(logging.ERROR, "wardround.hospital"),
        raises_code(FederationError, "federation") as caught,
    ):
        yield
    assert "needs every party to keep to the protocol" in str(caught.value)
    assert re.search(why, caplog.text), caplog.text


def announce(party, request, attempt=1, hospitals=5, received=None):
    """What a hospital announces when it is told to begin an attempt."""
    announced = replace(request, work=Announce(request.work, attempt, hospitals, received))
    return party.announce(announced, announced.work)


def noised(party, mechanism, request):
    """What a hospital hides under its masks."""
    return party._noised(mechanism, _Attempt(request, request.work, None, None))  # type: ignore[arg-type]


def residue_bytes(mechanism, total):
    """A sum in grid steps as it is handed out."""
    residues = mechanism.in_ring(total)
    return residues.astype(residues.dtype.newbyteorder("<")).tobytes()


def rows_of(agent, request):
    """Gradients of the sampled patients with zeros for the witnesses; seeded agents draw the same again."""
    if isinstance(request.work, CountPatients):
        return list(counted_rows(len(agent.patients)))
    return [np.concatenate([gradient, np.zeros(WITNESSES)]) for gradient in gradients_of(agent, request)]


def gradients_of(agent, request):
    """Gradients of the sampled patients, not clipped; of networks that draw no numbers."""
    return agent.workbench.patient_gradients(request.work.weights, agent.sample(request), 0)


def cleared(mechanism, agent, request):
    """What one hospital adds before noise, in grid steps."""
    return mechanism.grid.sum_of(rows_of(agent, request))


def expected_total(masked, request, names):
    """Clear sum and the noise of some hospitals, in grid steps: nothing of masks, uploads or `encode` is in it."""
    mechanism = masked.mechanism if request.round else masked.agreement.count
    total = np.zeros(mechanism.dimension, dtype=np.int64)
    for name in names:
        agent = masked.federation.agents[name]
        total += cleared(mechanism, agent, request)
        total += discrete_gaussian(mechanism.dimension, mechanism.share_std, agent.noise_bytes(request))
    return total


def decoded(masked, total):
    """A sum of gradients as it is opened."""
    return masked.mechanism.decode(total)[:-WITNESSES].astype(np.float32)


def hospitals_of(federation):
    """The hospitals of a federation without masks."""
    return {name: Hospital(agent, CLASSES) for name, agent in federation.agents.items()}


def ledgers(federation):
    """What each hospital's ledger holds."""
    return {
        name: [(entry.event, entry.purpose, entry.release) for entry in charges_of(agent.account)]
        for name, agent in federation.agents.items()
    }


class Watching:
    """Another channel, which remembers the requests of every exchange."""

    def __init__(self, inner):
        self.inner, self.asked = inner, []
        self.hospitals = inner.hospitals

    def ask(self, requests, deadline_s):
        self.asked.append(requests)
        return self.inner.ask(requests, deadline_s)


def fails_at(party, step, code=FailureCode.INTERNAL):
    def failing(*_):
        if step == "confirm":  # costs nothing and is refused to nobody: it can only break
            raise RuntimeError("broken")
        return Failure(code, Stage.TRAINING)

    setattr(party, step, failing)
