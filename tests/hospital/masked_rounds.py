"""A tiny federation whose hospitals answer under masks, and what its sum must be if every share of noise is known."""

import hashlib

import numpy as np
from tests.fixtures_federation import STUDY, private_plan
from tests.secure_aggregation.round.rounds import entropy_of
from wardround.privacy.variants import with_shares

from wardround.accounting.discrete import DiscreteShares
from wardround.accounting.terms import Trust
from wardround.agreed.masks import count_mechanism_of, counting, mechanism_of, shares_of_count
from wardround.federation.masked import MaskedChannel
from wardround.federation.messages import Request, Task
from wardround.hospital.masked import MaskedHospital
from wardround.hospital.masked_count import counted_rows
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.round.agreement import Agreement
from wardround.secure_aggregation.round.witness import WITNESSES


def masked_plan(hospitals=5, **fields):
    fields = {"trust": Trust.SECURE_AGGREGATION, "colluders": 1, "dropouts": 1, "hospitals": hospitals, **fields}
    plan = private_plan(**fields)
    sized = IntegerMechanism(
        plan.clipping_norm, plan.noise_multiplier, 1, hospitals, plan.colluders, plan.dropouts
    )
    shares = DiscreteShares(sized.share_std, sized.honest, sized.sensitivity, 1 << 30)
    return with_shares(plan, shares, shares_of_count(counting(plan)) if plan.is_counted else None)


def counted_plan(hospitals=5, **fields):
    return masked_plan(hospitals, **{"num_patients": None, "count_noise_multiplier": 2.0, **fields})


class MaskedFederation:
    """Real hospitals around the agents of a tiny federation; `uploads` has what left them, in order."""

    def __init__(self, federation, folder):
        self.federation, plan = federation, federation.plan
        self.mechanism = mechanism_of(plan, federation.weights.size, plan.num_patients)
        self.agreement = Agreement(
            "a run",
            "ab" * 32,
            self.mechanism,
            plan.releases,
            "0.1.0",
            clipping=plan.clipping_terms,
            count=count_mechanism_of(plan),
        )
        identities = [Identity(name, SigningKey.new(entropy_of(name))) for name in federation.agents]
        pins = Pins({identity.hospital: identity.key.public for identity in identities})
        self.uploads = []
        self.parties = {}
        for agent, identity in zip(federation.agents.values(), identities, strict=True):
            party = MaskedHospital(agent, identity, pins, self.agreement, folder / f"{agent.name}.json")
            self.parties[agent.name] = party
            setattr(party, "upload", self._recorded(agent.name, party.upload))  # noqa: B010  # mypy knows methods
        self.channel = MaskedChannel(self.parties, self.agreement, federation.ledgers.transaction)

    def _recorded(self, name, upload):
        def recorded():
            sent = upload()
            if isinstance(sent, bytes):
                self.uploads.append((name, sent))
            return sent

        return recorded

    def request(self, round=1):
        if round == 0:
            return Request(CountPatients(), STUDY, 0, 1)
        return Request(Task.GRADIENT_SUM, STUDY, round, 1, weights=self.federation.weights)

    def ask(self, round=1):
        """The total of one round; all hospitals are asked."""
        return self.channel.ask_sum(dict.fromkeys(self.channel.hospitals, self.request(round)), 0)

    def charges(self, name):
        """Attempts that a hospital's ledger was charged for."""
        return len(self.federation.ledgers.entries(name, "digest"))


def rows_of(agent, request):
    """Gradients of the sampled patients with zeros for the witnesses; seeded agents draw the same again."""
    if request.task is CountPatients():
        return list(counted_rows(len(agent.patients)))
    return [np.concatenate([gradient, np.zeros(WITNESSES)]) for gradient in agent.gradients(request)]


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


def hash_of(vector):
    return hashlib.sha256(np.ascontiguousarray(vector).data).hexdigest()
