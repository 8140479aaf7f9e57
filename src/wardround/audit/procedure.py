"""The audit of the whole procedure: one patient less, through the study's own reader, division, cache and rounds.

The neighbour is read anew (`wardround.simulation.neighbours`).

Two exact tests need no statistics. No other patient changes place, label or a bit of the network's input. With one seed
in both worlds, the first released sum moves by one clipping norm at most: samples, noise and masks are those of the
study, and the same, so that noise which follows the data would move it as well. With centre rounds that is the sum of
mean rows, and the first sum of gradients of rows less one centre is held to the same. Both worlds are then repeated,
and an attacker who knows all patients projects the released sums on that difference, the best test there is where noise
is normal (Jagielski et al. 2020, https://arxiv.org/abs/2006.07709). Of local steps, and with centre rounds, the model
is projected. Scores are kept in a folder, so that an interrupted audit goes on, and one with more runs adds to them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import releases_after
from wardround.audit.bounds import Float64
from wardround.audit.mechanism import Attack, claim_of, noise_std, releases_of, trained_by, why_not
from wardround.audit.noise import LEVEL, ParameterNoise, check_parameters
from wardround.audit.shadows import models_of
from wardround.audit.trials import Scores, two_worlds, two_worlds_gdp
from wardround.config import Study
from wardround.coordinator.observer import Observer
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.calibrate import not_private
from wardround.privacy.plans.kinds import NoisedGradients
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of
from wardround.simulation.availability import availability_of
from wardround.simulation.materials import Materials
from wardround.simulation.neighbours import Neighbours, neighbours_of

ROUNDS = 3
"""Rounds of a repetition that train, at most: each costs as much as a round of a run."""
_RUNS = 6
"""Runs of which the noise of each parameter is compared."""
_ROUNDING = 1e-4
"""A sum of float32 gradients may be longer than its clip by this part of it."""


@dataclass(frozen=True)
class Procedure:
    """The outcome for one patient.

    Attributes:
        through: the way by which the patient was left out, in words.
        moved: of these, those whose place or label changed, who vanished, or who appeared.
        changed: of these, those of whose input a bit changed.
        clips: the distance of the two sums of round 1 under one seed, in clipping norms, or that of the first gradients
            after centre rounds, if it is larger; None where no sum is released.
        noise: of each parameter of the network in the first sum of several runs; likewise empty.
        attack: the repetitions.
    """

    through: str
    others: int
    moved: int
    changed: int
    clips: float | None
    noise: tuple[ParameterNoise, ...]
    attack: Attack

    @property
    def contradictions(self) -> tuple[str, ...]:
        """A sentence for each exact test that fails."""
        found = []
        if self.moved:
            found.append(
                f"leaving one patient out gives {self.moved} of {self.others} others another place or label, or none"
            )
        if self.changed:
            found.append(f"leaving one patient out changes the network's input of {self.changed} others")
        if self.clips is not None and self.clips > 1 + _ROUNDING:
            found.append(f"one patient moves the sum by {self.clips:.3f} clipping norms")
        found += [
            f"{one.parameter} has {one.present:.1%} of the variance of the plan's noise in {one.numbers} numbers, and "
            f"{one.least:.1%} in one of them"
            for one in self.noise
            if one.p_present < LEVEL
        ]
        return tuple(f"whole procedure: {one}" for one in found)

    def to_json(self) -> dict[str, object]:
        """Returns the exact tests as one JSON object."""
        return {
            "through": self.through, "others": self.others, "moved": self.moved, "changed": self.changed,
            "clips": self.clips, "noise": [asdict(one) for one in self.noise],
        }  # fmt: skip


def audit_procedure(
    study: Study, observer: Observer, *, runs: int, alpha: float, keep: Path | None = None
) -> Procedure | str:
    """Returns what leaving one patient out changes; or the reason why it was not tried.

    Args:
        study: is read, dealt out and trained for `ROUNDS` rounds, after its centre rounds.
        observer: is told of progress.
        runs: of each of the two worlds.
        alpha: probability that one of the bounds is above the truth.
        keep: private folder in which scores are kept; None keeps none.

    Raises:
        RecordError: the folder has scores of another study (code `record-audit`).
    """
    plan = plan_of(study)
    reason = why_not(study, plan)
    if reason:
        return reason
    rounds = min(study.centre_rounds + ROUNDS, study.training_rounds)
    study = study.model_copy(update={"federation": study.federation.model_copy(update={"rounds": rounds})})
    with TemporaryDirectory(prefix="wardround-audit-") as folder:
        both = neighbours_of(study, observer, Path(folder))
        alike = study.model_copy(update={"study": study.study.model_copy(update={"seed": 0})})
        has_sums, everyone = study.federation.strategy == "fedsgd", _everyone(plan)
        is_sum = has_sums and not study.centre_rounds
        known = 1 if is_sum else rounds
        without, within = (_seen(alike, everyone, part, known, "alike") for _, part in _worlds(both))
        direction, length = within - without, _distance(without, within)
        direction = direction / length if length else direction
        length = _centred_distance(alike, everyone, both) if has_sums and study.centre_rounds else length
        std = noise_std(study, plan) if has_sums and availability_of(study) is None else None
        noise = () if std is None else _parameter_noise(study, plan, both.whole, std)
        observer.stage("whole procedure, two worlds")
        about = {
            "study": study.digest, "plan": plan.epsilon_after(1), "rounds": rounds,
            "of": "releases" if is_sum else "model",
            "direction": sha256(direction.tobytes()).hexdigest()[:16],
        }  # fmt: skip
        scores = Scores(keep, about)
        for run in range(runs):
            for world, part in _worlds(both):
                if not scores.has(world, run):
                    seen = _seen(study, plan, part, rounds, f"{'with' if world else 'without'}/{run}")
                    scores.add(world, run, float(seen @ direction))
            observer.progress(run + 1, runs)
    bounds = tuple(
        bound(scores.of(False), scores.of(True), plan.delta, alpha / 2) for bound in (two_worlds, two_worlds_gdp)
    )
    claim = claim_of(plan, releases_after(study, rounds), f"the first {rounds} rounds")
    attack = Attack("one patient less, whole procedure", claim, bounds)
    clip = clip_of(plan.training)
    clips = length / clip.norm if has_sums and plan.is_private and clip.adaptive is None else None
    return Procedure(both.through, both.others, len(both.moved), len(both.changed), clips, noise, attack)


def _parameter_noise(study: Study, plan: Plan, materials: Materials, std: float) -> tuple[ParameterNoise, ...]:
    """Returns the noise of each parameter in the first sum of `_RUNS` runs; of answers, in those of each hospital."""
    runs = np.stack([_sums(study, plan, materials, 1, f"parameters/{run}") for run in range(_RUNS)])
    network = materials.workbench.network.trained
    sizes = {name: one.numel() for name, one in network.named_parameters() if one.requires_grad}
    answers = range(runs.shape[1] // sum(sizes.values()))
    several = {f"{name}, answer {k + 1}" if k else name: size for k in answers for name, size in sizes.items()}
    return check_parameters(runs, several, std)


def _worlds(both: Neighbours) -> Iterator[tuple[bool, Materials]]:
    yield False, both.less
    yield True, both.whole


def _seen(study: Study, plan: Plan, materials: Materials, rounds: int, label: str) -> Float64:
    """Returns the sums of some rounds, added up; of local steps, and with centre rounds, the model after them."""
    if study.federation.strategy == "fedsgd" and not study.centre_rounds:
        return _sums(study, plan, materials, rounds, label)
    made = models_of(study, plan, materials, materials.hospitals, f"audit/procedure/{label}", averaged=False)
    return next(islice(made, rounds - 1, None)).astype(np.float64)


def _sums(study: Study, plan: Plan, materials: Materials, rounds: int, label: str) -> Float64:
    with LedgerFile(":memory:") as ledgers:
        found = releases_of(study, plan, materials, rounds, f"audit/procedure/{label}", ledgers)
        size = materials.workbench.initial_weights.size
        return np.asarray(sum(seen.whole(materials.hospitals, size) for seen in found))


def _distance(without: Float64, within: Float64) -> float:
    return float(np.linalg.norm(within - without))


def _centred_distance(study: Study, plan: Plan, both: Neighbours) -> float:
    """Returns the larger distance of two sums under one seed: of mean rows, and of gradients of rows less one centre.

    A run's centre follows from released sums, which differ in both worlds. A round of gradients promises one clip for
    every centre; here it is half of the unit vector along the noised sum without the patient.
    """
    found = _distance(*(_sums(study, plan, part, 1, "alike") for _, part in _worlds(both)))
    if not isinstance(plan.training, NoisedGradients):
        return found
    noised = _sums(study, plan, both.less, 1, "centre")
    centre = (noised / max(2 * float(np.linalg.norm(noised)), 1e-300)).astype(np.float32)
    plan = trained_by(plan, replace(plan.training, centres=0))
    benches = (replace(part, workbench=part.workbench.centred(centre)) for _, part in _worlds(both))
    return max(found, _distance(*(_sums(study, plan, part, 1, "alike") for part in benches)))


def _everyone(plan: Plan) -> Plan:
    """Returns a plan of which every patient takes part in every release; without noise where rounds share theirs."""
    part = plan.training
    if not isinstance(part, NoisedGradients):
        return not_private(plan, 1)
    return trained_by(plan, replace(part, sampling_prob=1.0))
