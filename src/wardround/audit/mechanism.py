"""The audit of a study's mechanism through its real path: ledger, sampling, clip, grid, noise shares, masks, strategy.

Nothing of a real patient is read. Virtual patients (`wardround.audit.canaries`) are dealt out to the study's hospitals,
and the attacker sees what the plan's guarantee is against: the released sums; with `trust = "nobody"` every hospital's
answer. The score of audit coordinate j is the sum of what was released of it over all rounds.

| audit | data | bounds |
|---|---|---|
| canaries | one run, each virtual patient in with a fair coin | one run (any mechanism); f-DP |
| two worlds | many runs of one round, with and without one virtual patient who takes part | Clopper-Pearson; GDP |
| count, two worlds | the same, and the count of patients before round 1 | Clopper-Pearson; GDP |

With sampling, the two worlds are of the patient who was drawn: the plan with sampling probability 1.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wardround.accounting.events import Event, NoEvent, event_of_leaves, sorted_leaves
from wardround.accounting.second import second_opinion
from wardround.agreed.plans import plan_of
from wardround.agreed.schedule import sum_std
from wardround.agreed.strategies import releases_after, strategy_of
from wardround.audit.bounds import Bound, Float64, epsilon_of_mu, mu_of_epsilon
from wardround.audit.canaries import canary_materials, canary_workbench
from wardround.audit.noise import NoiseCheck, check_noise
from wardround.audit.trials import canaries, canaries_fdp, two_worlds, two_worlds_gdp
from wardround.config import Study
from wardround.errors import FederationError, StudyError
from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel
from wardround.federation.messages import Answer, Failures, Replies, Requests, Total
from wardround.federation.strategy import Strategy
from wardround.ledger.file import LedgerFile
from wardround.noisers import ByEachHospital, NoiseShares
from wardround.privacy.plans.kinds import CorrelatedGradients, NoisedGradients, NotPrivate
from wardround.privacy.plans.plan import Plan
from wardround.randomness import Stream
from wardround.simulation.availability import allowed_missing, availability_of
from wardround.simulation.federate import federate_apart
from wardround.simulation.materials import Materials
from wardround.types import HospitalName, Progress, Vector
from wardround.work import CountClasses, CountPatients, GradientSum, LocalUpdate, RowSum

_ATTACKED = GradientSum | RowSum | CountPatients | CountClasses

_DELTAS = (0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
"""Deltas at which the least Gaussian mechanism above the claim is sought, beside the plan's own.

Where epsilon is 0 the delta is more than the mechanism needs, and says nothing.
"""


@dataclass(frozen=True)
class Claim:
    """The promise for the releases that were attacked.

    Attributes:
        epsilon: by the plan's accountant, at the plan's delta.
        mu: of the least Gaussian mechanism whose epsilon is no smaller at any of several deltas; infinity without a
            promise.
        gaussian_epsilon: epsilon of that mechanism at the plan's delta.
        releases: that it is for.
        what: the releases in words.
    """

    epsilon: float
    mu: float
    gaussian_epsilon: float
    releases: int
    what: str

    def is_contradicted(self, bound: Bound) -> bool:
        """Returns whether a lower bound lies above this promise: bounds on mu are held against mu."""
        return bound.epsilon > self.epsilon if bound.mu is None else bound.mu > self.mu

    def is_within_reach(self, bound: Bound) -> bool:
        """Returns whether the ceiling of a bound lies above this promise, so that its trials could contradict it."""
        return bound.ceiling > (self.epsilon if bound.mu is None else self.gaussian_epsilon)


@dataclass(frozen=True)
class Attack:
    """The bounds of one attack, and the promise for what was attacked.

    `charged` is what the ledgers of the simulated hospitals hold after it: of the hospital that was charged most.
    `noise` is the outcome for coordinates without a patient; None where their noise is not that of independent sums.
    `stopped` is the reason for which honest hospitals ended the run themselves, such as noise that is missing from the
    noise-only coordinates: it contradicts the claim as well.
    """

    name: str
    claim: Claim
    bounds: tuple[Bound, ...]
    charged: Event = field(default_factory=NoEvent)
    stopped: str = ""
    noise: NoiseCheck | None = None

    @property
    def contradictions(self) -> tuple[Bound, ...]:
        """The bounds above the promise."""
        return tuple(bound for bound in self.bounds if self.claim.is_contradicted(bound))


def why_not(study: Study, plan: Plan) -> str:
    """Returns why a study's mechanism cannot be audited; empty if it can."""
    part = plan.training
    if not isinstance(part, NoisedGradients | CorrelatedGradients | NotPrivate):
        return f'the mechanism of plan = "{study.privacy.plan}" releases no gradients'
    if isinstance(part, CorrelatedGradients) and study.federation.strategy != "fedsgd":
        return "correlated noise is audited in sums of all hospitals"
    if study.federation.strategy not in ("fedsgd", "fedavg", "fedprox"):
        return f'strategy = "{study.federation.strategy}" has no virtual patients'
    if isinstance(part, NotPrivate) and study.federation.strategy != "fedsgd":
        return "local steps without noise release no sums"
    return ""


def audit_canaries(study: Study, size: int, coins: Stream, alpha: float, progress: Progress) -> Attack:
    """Returns the one-run bounds of a study's mechanism over all of its rounds of gradients.

    Args:
        study: whose plan, strategy and hospitals are used; its pictures and network are not.
        size: virtual patients, a square number.
        coins: of their inclusion.
        alpha: probability that one of the bounds is above the truth.
        progress: called with rounds done and in all.

    Raises:
        StudyError: the mechanism cannot be audited (code `audit-plan`).
    """
    plan = _plan(study)
    is_in = coins.uniform(size) < 0.5
    names = hospital_names(study, plan)
    owner = np.arange(size) % len(names)
    present = {name: np.flatnonzero(is_in & (owner == k)).tolist() for k, name in enumerate(names)}
    materials = canary_materials(canary_workbench(size, _clip(plan)), present)
    scores, alone = np.zeros(size), list[Float64]()
    with LedgerFile(":memory:") as ledgers:
        rounds = study.training_rounds
        stopped, found = "", releases_of(study, plan, materials, rounds, "audit/canaries", ledgers)
        try:
            for round, seen in enumerate(found, start=1):
                scores += seen.of(owner, names)
                alone += [vector[:size][~is_in].astype(np.float64) for vector in seen.vectors]
                progress(round, rounds)
        except FederationError as error:
            if availability_of(study) is not None:
                raise  # hospitals that the study has absent
            stopped = str(error)
        charges = [event_of_leaves(sorted_leaves(part.counts)) for part in ledgers.book().parts.values()]
    delta, half = plan.delta, alpha / 2
    bounds = (canaries(scores, is_in, delta, half), canaries_fdp(scores, is_in, delta, half))
    claim = claim_of(plan, releases_after(study, rounds), f"the {rounds} rounds of gradients")
    charged = max(charges, key=lambda event: second_opinion(event, delta).lower)
    noise = check_noise(alone, noise_std(study, plan)) if alone and _is_independent(study, plan) else None
    return Attack("virtual patients in one run", claim, () if stopped else bounds, charged, stopped, noise)


def audit_two_worlds(study: Study, runs: int, alpha: float, progress: Progress, *, count: bool = False) -> Attack:
    """Returns the bounds from `runs` independent runs of one round with, and as many without, one virtual patient.

    With `count` the runs end at the released count of patients before round 1, of a plan that counts them.

    Raises:
        StudyError: the mechanism cannot be audited (code `audit-plan`).
    """
    plan = _plan(study)
    part = plan.training
    if isinstance(part, NoisedGradients):
        plan = trained_by(plan, replace(part, sampling_prob=1.0))
    names, bench = hospital_names(study, plan), canary_workbench(1, _clip(plan))
    scores: dict[bool, list[float]] = {False: [], True: []}
    for is_in in (False, True):
        present: dict[HospitalName, list[int]] = {name: [] for name in names}
        present[names[0]] = [0] if is_in else []
        materials = canary_materials(bench, present)
        for run in range(runs):
            label = f"audit/{'with' if is_in else 'without'}/{run}"
            with LedgerFile(":memory:") as ledgers:
                [seen] = releases_of(study, plan, materials, 0 if count else 1, label, ledgers)
            scores[is_in].append(float(seen.of(np.zeros(1, dtype=np.int64), names)[0]))
            progress(run + 1 + runs * is_in, 2 * runs)
    without, within = (np.array(scores[world]) for world in (False, True))
    delta, half = plan.delta, alpha / 2
    bounds = (two_worlds(without, within, delta, half), two_worlds_gdp(without, within, delta, half))
    if count:
        return Attack("the count of patients, two worlds", claim_of(plan, 0, "the count before round 1"), bounds)
    claim = claim_of(plan, releases_after(study, 1), "round 1, the patient drawn")
    return Attack("one patient, two worlds", claim, bounds)


def trained_by(plan: Plan, training: NoisedGradients) -> Plan:
    """Returns a plan with another training part."""
    return replace(plan, parts=tuple(training if one is plan.training else one for one in plan.parts))


def _is_independent(study: Study, plan: Plan) -> bool:
    """Returns whether every release is a sum of gradients with noise of its own."""
    return isinstance(plan.training, NoisedGradients) and study.federation.strategy == "fedsgd"


def noise_std(study: Study, plan: Plan) -> float | None:
    """Returns the std of the noise in a released sum, or in a hospital's own answer; None where it is none."""
    part = plan.training
    if not isinstance(part, NoisedGradients) or part.clip.adaptive is not None:
        return None
    if isinstance(plan.noiser, NoiseShares) and availability_of(study) is None and not study.leaves_one_out:
        return sum_std(study, part)
    return part.noise.noise_multiplier * part.clip.norm  # at least, with shares missing


def claim_of(plan: Plan, releases: int, what: str) -> Claim:
    """Returns what a plan promises of `releases` of its training part, with the least Gaussian mechanism above it."""
    epsilon = plan.epsilon_after(releases)
    if math.isinf(epsilon):
        return Claim(math.inf, math.inf, math.inf, releases, what)
    points = [(replace(plan, delta=delta).epsilon_after(releases), delta) for delta in (plan.delta, *_DELTAS)]
    mu = max(mu_of_epsilon(at, delta) for at, delta in points if at > 0 or delta == plan.delta)
    return Claim(epsilon, mu, max(epsilon, epsilon_of_mu(mu, plan.delta)), releases, what)


def hospital_names(study: Study, plan: Plan) -> tuple[HospitalName, ...]:
    """Returns the names of the study's hospitals."""
    names = study.hospitals.names or [f"hospital-{k + 1}" for k in range(plan.hospitals)]
    return tuple(HospitalName(name) for name in names)


@dataclass(frozen=True)
class Seen:
    """The releases of one round as the attacker sees them: the sum, or each hospital's answer, as gradients.

    Of the counts before round 1 coordinate 0 counts the virtual patients.
    """

    total: Vector | None
    answers: Mapping[HospitalName, Vector]

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """The releases, each with noise of its own."""
        return tuple(self.answers.values()) if self.total is None else (self.total,)

    def of(self, owner: Any, names: Sequence[HospitalName]) -> Float64:
        """Returns what was released of each coordinate by the hospital that owns it, (coordinate,); 0 if it is away."""
        if self.total is not None:
            return self.total[: len(owner)].astype(np.float64)
        nothing = np.zeros(len(owner))
        rows = np.stack([self.answers.get(name, nothing)[: len(owner)] for name in names])
        return np.asarray(rows[owner, np.arange(len(owner))], dtype=np.float64)

    def whole(self, names: Iterable[HospitalName], size: int) -> Float64:
        """Returns the sum, or every hospital's answer of `size` numbers in turn, 0 of one that is away, (number,)."""
        if self.total is not None:
            return self.total.astype(np.float64)
        return np.concatenate([self.answers.get(name, np.zeros(size)) for name in names], dtype=np.float64)


@dataclass(frozen=True)
class _Tap:
    """A channel and an aggregator that pass everything on, and keep what was released."""

    channel: Channel
    inner: Aggregator
    answers: dict[HospitalName, Vector] = field(default_factory=dict)
    totals: list[Vector] = field(default_factory=list)

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        """See `Channel`."""
        return self.channel.hospitals

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        """See `Channel`."""
        replies, failures = self.channel.ask(requests, deadline_s)
        for name, reply in replies.items():
            work = requests[name].work
            if isinstance(reply, Answer) and isinstance(work, _ATTACKED | LocalUpdate):
                self.answers[name] = -reply.update if isinstance(work, LocalUpdate) else reply.update
        return replies, failures

    def collect(self, channel: Channel, requests: Requests, deadline_s: float) -> Total:
        """See `Aggregator`."""
        total = self.inner.collect(channel, requests, deadline_s)
        if total.update is not None and isinstance(next(iter(requests.values())).work, _ATTACKED):
            self.totals.append(total.update)
        return total


def releases_of(
    study: Study, plan: Plan, materials: Materials, rounds: int, label: str, ledgers: LedgerFile
) -> Iterator[Seen]:
    """Returns what the attacker sees of each round of a federation with these patients; reading it asks.

    Of no round at all it is what counts the patients before round 1.
    """
    alone = isinstance(plan.noiser, ByEachHospital) and not isinstance(plan.training, NotPrivate)
    federation = federate_apart(study, plan, materials, materials.hospitals, ledgers, label=label)
    of_study: Any = federation.coordinator.strategy
    tap = _Tap(federation.coordinator.channel, of_study.aggregator)
    classes, missing = len(materials.images.class_names), allowed_missing(study, plan)
    strategy = strategy_of(study, plan, tap, classes=classes, allowed_missing=missing)
    return _asked(strategy, tap, materials.workbench.initial_weights, rounds, alone=alone)


def _asked(strategy: Strategy, tap: _Tap, weights: Vector, rounds: int, *, alone: bool) -> Iterator[Seen]:
    state = strategy.init(weights, tap)
    for round in range(min(rounds, 1), rounds + 1):
        if round:
            tap.answers.clear()
            state = strategy.update(state, tap, round)
        yield Seen(None, dict(tap.answers)) if alone else Seen(tap.totals[-1], {})


def _plan(study: Study) -> Plan:
    plan = plan_of(study)
    reason = why_not(study, plan)
    if reason:
        raise StudyError(
            f"`[privacy] plan` and `[federation] strategy` must release gradient sums or local steps to be audited: "
            f"{reason}. Audit its accounting alone.",
            code="study-audit-plan",
        )
    return plan


def _clip(plan: Plan) -> float:
    part = plan.training
    norm = part.clip.norm if isinstance(part, NoisedGradients | CorrelatedGradients) else 1.0
    return norm if math.isfinite(norm) else 1.0
