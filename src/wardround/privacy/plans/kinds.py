"""The kinds of part that a privacy plan is made of: a closed sum; each holds only fields that mean something for it.

Functions over all of them (`costs`, `protects`, `releases`, `wording`) are one `match` each that ends in
`assert_never`: a new kind is a new class here, and the type checker lists the functions that do not know it.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from wardround.accounting.discrete import DiscreteShares
from wardround.accounting.events import GaussianEvent
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, Noiser, NoiseShares
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.per_patient.clipping_rules import Clipping, Flat
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.correlated import Correlation
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.pictures import LocalRelease
from wardround.privacy.updates import UpdateMechanism
from wardround.work import histogram_curves

Noise: TypeAlias = GaussianEvent | DiscreteShares
"""Noise on one sum: continuous, or whole-number shares on a grid (distributed discrete Gaussian, Kairouz et al. 2021,
https://arxiv.org/abs/2102.06387), which leave a hospital under masks only."""


@dataclass(frozen=True)
class Clip:
    """The bound on one patient's gradient, and the rule that brings a gradient to it.

    Attributes:
        norm: C > 0, L2 bound on a patient's gradient; infinity where gradients are not clipped.
        rule: of the clip; an adaptive norm starts at `norm`.
    """

    norm: float
    rule: Clipping | AdaptiveNorm = field(default_factory=Flat)

    @property
    def adaptive(self) -> AdaptiveNorm | None:
        """The rule by which the norm follows the gradients, where it does."""
        return self.rule if isinstance(self.rule, AdaptiveNorm) else None

    @property
    def fixed(self) -> Clipping:
        """The rule within one round; an adaptive norm is clipped to flat."""
        return Flat() if isinstance(self.rule, AdaptiveNorm) else self.rule

    @property
    def counted_coordinates(self) -> int:
        """Coordinates of a released sum that are no parameter: the count that an adaptive norm follows."""
        return 0 if self.adaptive is None else 1

    def accepts(self, asked: float | None) -> bool:
        """Returns whether a round may ask for this clipping norm: a number where norms adapt, else none."""
        if self.adaptive is None:
            return asked is None
        return asked is not None and 0 < asked < math.inf

    def asked_in(self, round: int, asked: float | None) -> bool:
        """Returns whether a strategy may ask for this clipping norm in a round (from 1); see `AdaptiveNorm.reaches`."""
        if self.adaptive is None or asked is None:
            return self.accepts(asked)
        return self.adaptive.reaches(asked, self.norm, round - 1)

    def gradient_norm(self, asked: float | None) -> float:
        """Returns the norm that gradients are clipped to in a round that asks for a clipping norm."""
        return self.norm if self.adaptive is None or asked is None else self.adaptive.gradient_norm(asked)

    def in_units(self, clipped: ClippedSum, num_patients: int, asked: float | None) -> ClippedSum:
        """Returns a round's sum as it is released: itself, or with the count that an adaptive norm needs."""
        if self.adaptive is None or asked is None:
            return clipped
        return self.adaptive.extended(clipped, num_patients, asked, self.norm)


UNCLIPPED = Clip(math.inf)


@dataclass(frozen=True)
class PublicSize:
    """The number of training patients over all hospitals, a public constant of the study."""

    num_patients: int

    def __post_init__(self) -> None:
        if self.num_patients < 1:
            raise PrivacyError(f"num_patients must be >= 1, got {self.num_patients}.")


@dataclass(frozen=True)
class NoisyCount:
    """The number of training patients is counted with noise: `NoisedCounts` of the same plan."""


@dataclass(frozen=True)
class ExactCount:
    """The number of training patients is asked for and answered as it is."""


Size: TypeAlias = PublicSize | NoisyCount


@dataclass(frozen=True)
class NoisedCounts:
    """Noise on the number of training patients, or on their numbers by class, before round 1.

    Sensitivity: a patient is one in one class, so counts move by at most 1 in L2 norm.

    Attributes:
        noise: of one count over all hospitals; the noise multiplier is its std.
        releases: counts over the whole run, spare attempts among them.
    """

    noise: Noise
    noiser: Noiser
    releases: int = 1

    def __post_init__(self) -> None:
        _check_shares(self.noise, self.noiser)


@dataclass(frozen=True)
class NoisedGradients:
    """Noise on every sum of clipped per-patient gradients: DP-SGD (Abadi et al. 2016, Algorithm 1).

    Sensitivity: one patient, added or removed with all pictures, moves a sum by at most `clip.norm` in L2 norm.

    Attributes:
        noise: of one sum; `noise.noise_multiplier` is std / `clip.norm`.
        sampling_prob: Poisson probability of a patient in one sum; 1 takes every patient.
        releases: sums of one hospital's patients over the whole run.
        size: the number of training patients that sums are divided by.
        centres: rounds at the start whose sum is of the patients' mean rows instead, of norm at most `clip.norm`.
        scores: rounds at the end whose sum is of moments of class scores instead, of norm at most `clip.norm` as well.
    """

    clip: Clip
    noise: Noise
    sampling_prob: float
    releases: int
    size: Size
    noiser: Noiser
    scores: int = 0
    centres: int = 0

    def __post_init__(self) -> None:
        _check_clip(self.clip)
        _check_sampling_prob(self.sampling_prob)
        _check_releases(self.releases)
        _check_shares(self.noise, self.noiser)
        others = self.scores + self.centres
        if min(self.scores, self.centres) < 0 or others >= self.releases or (others and self.clip.adaptive):
            raise PrivacyError(
                f"Rounds of scores and of mean rows must be fewer than the {self.releases} releases, at a norm that "
                f"does not adapt, got {self.scores} and {self.centres}."
            )


@dataclass(frozen=True)
class CorrelatedGradients:
    """Noise on sums of gradients that is correlated over rounds (DP-FTRL, matrix mechanism): one release a run.

    Attributes:
        clip: bound on one patient's gradient, the same in all rounds.
        noise: over the sensitivity of the whole run, `correlation.sensitivity * clip.norm`.
        correlation: of the rounds' noise, and each patient's rounds.
        size: the number of training patients that sums are divided by.
        noiser: who adds the noise; every hospital in every round.
    """

    clip: Clip
    noise: GaussianEvent
    correlation: Correlation
    size: Size
    noiser: ByEachHospital | NoiseShares

    def __post_init__(self) -> None:
        _check_clip(self.clip)
        by_hospitals(self.noiser)
        if self.clip.adaptive is not None:
            raise PrivacyError("Correlated noise needs one clipping norm for all rounds, got an adaptive one.")
        if isinstance(self.noiser, NoiseShares) and self.noiser.dropouts:
            raise PrivacyError(
                f"Correlated noise comes from every hospital in every round: dropouts must be 0, got "
                f"{self.noiser.dropouts}."
            )


@dataclass(frozen=True)
class NoisedUpdates:
    """Noise on each hospital's whole update; gradients are neither clipped nor noised.

    Attributes:
        mechanism: between an update and the wire; unit, relation and cost are the mechanism's.
        sampling_prob: Poisson probability of a patient in one local step; amplification is not counted.
        releases: updates of one hospital over the whole run.
    """

    mechanism: UpdateMechanism
    sampling_prob: float
    releases: int
    noiser: ByEachHospital | NoiseShares

    def __post_init__(self) -> None:
        _check_sampling_prob(self.sampling_prob)
        _check_releases(self.releases)
        by_hospitals(self.noiser)
        if self.mechanism.selects and not isinstance(self.noiser, ByEachHospital):
            raise PrivacyError(
                "Hospitals that choose coordinates must noise them alone: trust must be nobody, got shares of noise."
            )


@dataclass(frozen=True)
class NoisedHead:
    """Noise on the weights of a linear head that each hospital fits to the end, once (output perturbation)."""

    mechanism: OutputPerturbation
    noiser: ByEachHospital | NoiseShares

    def __post_init__(self) -> None:
        by_hospitals(self.noiser)


@dataclass(frozen=True)
class NoisedPictures:
    """Noise on every training picture and label, once, before round 1; training is post-processing.

    Attributes:
        release: of all pictures of one patient.
        sampling_prob: Poisson probability of a patient in one step on the noised pictures.
        size: the number of training patients; public either way, as neighbours replace a patient.
    """

    release: LocalRelease
    sampling_prob: float
    size: PublicSize | ExactCount
    hospitals: int

    def __post_init__(self) -> None:
        _check_sampling_prob(self.sampling_prob)
        ByEachHospital(self.hospitals)


@dataclass(frozen=True)
class NotPrivate:
    """No noise: epsilon is infinity.

    Attributes:
        clip: of gradients, so that a reference run differs from a private one by the noise alone; else `UNCLIPPED`.
        participation: Poisson probability of a patient in one sum, or the rounds of fixed cohorts.
        releases: sums of one hospital's patients over the whole run.
    """

    clip: Clip
    participation: float | Correlation
    releases: int
    size: PublicSize | ExactCount
    hospitals: int

    def __post_init__(self) -> None:
        if not isinstance(self.participation, Correlation):
            _check_sampling_prob(self.participation)
        _check_releases(self.releases)
        ByEachHospital(self.hospitals)


@dataclass(frozen=True)
class NothingTrained:
    """No training: the study evaluates a given model, and its promise is that of its evaluation.

    Attributes:
        noiser: of the evaluation.
    """

    noiser: ByEachHospital | NoiseShares

    def __post_init__(self) -> None:
        by_hospitals(self.noiser)


Training: TypeAlias = (
    NoisedGradients
    | CorrelatedGradients
    | NoisedUpdates
    | NoisedHead
    | NoisedPictures
    | NotPrivate
    | NothingTrained
)
"""The part that protects the answers of rounds 1, 2, ...; a plan has exactly one."""


@dataclass(frozen=True)
class NoisedHistograms:
    """Noise on the histograms of the test patients' scores by class, once, after the last round.

    Sensitivity: one test patient, added or removed with all pictures, moves the sum by at most `sensitivity` in L2 norm
    (`wardround.privacy.histograms`).

    Attributes:
        noise: of one sum over all hospitals; the noise multiplier is its std over the sensitivity.
        classes: of the model, public in the study.
        releases: sums over the whole run, spare attempts among them.
    """

    noise: Noise
    classes: int
    noiser: ByEachHospital | NoiseShares
    releases: int = 1

    def __post_init__(self) -> None:
        _check_releases(self.releases)
        by_hospitals(self.noiser)
        _check_shares(self.noise, self.noiser)

    @property
    def sensitivity(self) -> float:
        """L2 norm by which one test patient moves the sum: 1 of two classes, else sqrt(classes)."""
        return math.sqrt(histogram_curves(self.classes))


@dataclass(frozen=True)
class OpenHistograms:
    """The histograms of the test patients' scores as they are: epsilon is infinity, and the ledger lists it apart."""

    hospitals: int

    def __post_init__(self) -> None:
        ByEachHospital(self.hospitals)


Evaluation: TypeAlias = NoisedHistograms | OpenHistograms
"""The part that protects what leaves about test patients; a plan has at most one."""

Part: TypeAlias = NoisedCounts | Training | Evaluation
"""One part of a plan."""


class About(StrEnum):
    """The persons that a part of a plan is about; no person is among both (`[data] test_fraction`)."""

    TRAINING = "training"
    TEST = "test"


def _check_clip(clip: Clip) -> None:
    if not 0 < clip.norm < math.inf:
        raise PrivacyError(f"A private plan must clip: clipping_norm must be > 0 and finite, got {clip.norm}.")


def _check_sampling_prob(sampling_prob: float) -> None:
    if not 0 < sampling_prob <= 1:
        raise PrivacyError(f"sampling_prob must lie in (0, 1], got {sampling_prob}.")


def _check_releases(releases: int) -> None:
    if releases < 1:
        raise PrivacyError(f"A plan needs at least one release, got {releases}.")


def by_hospitals(noiser: Noiser) -> ByEachHospital | NoiseShares:
    """Returns a noiser that hospitals are themselves; the coordinator is refused."""
    if isinstance(noiser, ByCoordinator):
        raise PrivacyError("Hospitals must noise this themselves: trust cannot be coordinator.")
    return noiser


def _check_shares(noise: Noise, noiser: Noiser) -> None:
    """Refuses discrete shares of noise that are not those of the noiser's honest hospitals."""
    if not isinstance(noise, DiscreteShares):
        return
    if not isinstance(noiser, NoiseShares):
        raise PrivacyError("Discrete shares are noise of hospitals under secure-aggregation, got another noiser.")
    if noise.shares != noiser.honest:
        raise PrivacyError(
            f"Discrete shares must be those of {noiser.honest} honest hospitals, got {noise.shares}; size the grid "
            "by the plan."
        )
