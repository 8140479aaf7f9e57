"""The guarantee has one owner: sampler, clip, noise and event all come from the fields of one `PrivacyPlan`.

What is released: in every round, a noised sum of clipped per-patient gradients over all hospitals (`fedsgd`), or
each hospital's own noised steps, or an update that passed a mechanism of its own (`updates`); before the first
round, where no public size was given, a noised count of patients. Everything else (the division by a public
constant, momentum, averaging, the model) is computed from these and costs nothing more.

To whom: `trust` says. Under `coordinator` the guarantee is against whoever sees the model; under
`secure-aggregation` also against the coordinator together with up to `colluders` hospitals, with up to
`dropouts` shares missing; under `nobody` against everyone but the patient's own hospital.

Sensitivity: one patient, with all their pictures, added or removed, moves a sum by at most `clipping_norm` in
L2 norm (`clipped_sum`) and a count by at most 1.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.discrete import DiscreteShares, Part, epsilon_of_parts
from wardround.accounting.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    NoEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from wardround.accounting.insiders import NoiseShares
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit, Trust
from wardround.errors import PrivacyError
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.per_patient.clipping_rules import Clipping, ClippingKind, rule_of
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.correlated import Correlation, Noise
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.pictures.release import LocalRelease
from wardround.privacy.updates import UpdateMechanism
from wardround.randomness import Indices, Stream, poisson_sample
from wardround.types import Vector


@dataclass(frozen=True)
class PrivacyPlan:
    """How a whole run protects a patient.

    Attributes:
        noise_multiplier: std of the noise that surely protects a sum, divided by `clipping_norm`; 0 when the
            run is not private.
        clipping_norm: L2 bound on one patient's gradient; infinity when the run is not private.
        sampling_prob: Poisson probability of a patient in one release; 1 takes everyone.
        releases: noised sums of one hospital's patients over the whole run.
        delta: target delta.
        trust: who adds noise.
        hospitals: hospitals in the federation.
        colluders: hospitals that may pool what they know; their noise shares protect nobody.
        dropouts: hospitals that may be missing from a round without the noise falling short.
        images_per_patient: a patient's gradient averages at most this many pictures.
        num_patients: public size of the training set over all hospitals, or None: counted privately.
        count_noise_multiplier: std of the noise of that count; 0 when nothing is counted.
        accountant: which accountant prints epsilon.
        clipping: how gradients are brought to the clipping norm.
        quantile: for adaptive clipping, the share of patients whose gradients should be left as they are.
        on_update: stands between a hospital's whole update and the wire; gradients are then neither clipped nor
            noised, and unit, relation and cost are the mechanism's.
        correlation: correlates the noise of the rounds. The sums of all of them are then one release, and
            `noise_multiplier` is over the sensitivity of the whole run.
        on_pictures: noises every picture and label once, before round 1; gradients are then computed from the noised
            pictures, neither clipped nor noised, and cost nothing. A release is one of all pictures.
        shares: the noise of every sum is whole numbers on a grid, a share from each hospital, and sums leave their
            hospitals under masks only. `noise_multiplier` is that of the shares that are surely there and unknown.
        count_shares: the noise of the count, likewise, where such a plan counts its patients.
    """

    noise_multiplier: float
    clipping_norm: float
    sampling_prob: float
    releases: int
    delta: float
    trust: Trust
    hospitals: int
    colluders: int = 0
    dropouts: int = 0
    images_per_patient: int = 8
    num_patients: int | None = None
    count_noise_multiplier: float = 0.0
    accountant: AccountantKind = AccountantKind.PLD
    clipping: ClippingKind = ClippingKind.FLAT
    quantile: float = 0.5
    on_update: UpdateMechanism | None = None
    correlation: Correlation | None = None
    on_pictures: LocalRelease | None = None
    shares: DiscreteShares | None = None
    count_shares: DiscreteShares | None = None

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        if not 0 < self.sampling_prob <= 1:
            raise PrivacyError(f"sampling_prob must lie in (0, 1], got {self.sampling_prob}.")
        if self.on_update is not None and self.noise_multiplier:
            raise PrivacyError("Noise goes on gradients or on updates, not on both: noise_multiplier must be 0.")
        if self.on_update is not None and self.trust is Trust.COORDINATOR:
            raise PrivacyError("A hospital's update must be noised by hospitals: trust cannot be coordinator.")
        if self.noises_gradients and not math.isfinite(self.clipping_norm):
            raise PrivacyError("A private plan must clip: clipping_norm must be finite, got infinity.")
        if self.is_private and not 0 < self.delta < 1:
            raise PrivacyError(f"delta must lie in (0, 1), got {self.delta}.")
        if self.releases < 1 or self.hospitals < 1:
            raise PrivacyError(
                f"A plan needs at least one release and one hospital, got {self.releases} and {self.hospitals}."
            )
        if self.correlation is not None:
            self._check_correlated()
        if self.on_pictures is not None:
            self._check_on_pictures()
        if self.shares is not None:
            self._check_shares(self.shares)
        elif self.count_shares is not None:
            raise PrivacyError(
                "A count has discrete shares where sums have them: give shares, or no count_shares."
            )
        if self.is_private and self.trust is Trust.SECURE_AGGREGATION:
            NoiseShares(self.hospitals, self.colluders, self.dropouts)  # refuses shares that nobody honest adds

    def _check_correlated(self) -> None:
        if self.sampling_prob < 1 or self.on_update is not None or self.clipping is ClippingKind.ADAPTIVE:
            raise PrivacyError(
                "Correlated noise needs fixed cohorts, noise on gradients and one clipping norm: sampling_prob must be "
                "1, and clipping not adaptive."
            )
        if self.releases != 1:
            raise PrivacyError(f"Correlated sums are one release: releases must be 1, got {self.releases}.")
        if self.is_private and (self.trust is Trust.COORDINATOR or self.dropouts):
            raise PrivacyError(
                f"Correlated noise must come from every hospital in every round, got trust {self.trust} and "
                f"{self.dropouts} dropouts; a share that is missing once is taken back later all the same."
            )

    def _check_shares(self, shares: DiscreteShares) -> None:
        if self.trust is not Trust.SECURE_AGGREGATION or not self.noises_gradients or self.correlation is not None:
            raise PrivacyError(
                f"Discrete shares are noise of every round under secure-aggregation, got trust {self.trust}; leave "
                "shares out."
            )
        if self.is_counted != (self.count_shares is not None):
            raise PrivacyError(
                "Rows on a grid are divided by a public number of patients, or by a count with shares of its own: give "
                f"one of num_patients and count_shares, got {self.num_patients} and {self.count_shares}."
            )
        honest = NoiseShares(self.hospitals, self.colluders, self.dropouts).honest
        for own, needed in ((shares, self.noise_multiplier), (self.count_shares, self.count_noise_multiplier)):
            if own is not None and (own.shares != honest or needed > own.noise_multiplier):
                raise PrivacyError(
                    f"Discrete shares must be those of {honest} hospitals and give noise_multiplier {needed}, got "
                    f"{own.shares} and {own.noise_multiplier}."
                )

    def _check_on_pictures(self) -> None:
        if self.noise_multiplier or self.on_update is not None or self.trust is not Trust.NOBODY:
            raise PrivacyError(
                "Noise on pictures is all the noise there is, and each hospital's own: noise_multiplier must be 0, "
                "on_update none, and trust nobody."
            )

    @property
    def is_private(self) -> bool:
        """False for the plan that promises nothing."""
        return self.noises_gradients or self.on_update is not None or self.on_pictures is not None

    @property
    def noises_gradients(self) -> bool:
        """Whether every sum of gradients is noised before anything is computed from it."""
        return self.noise_multiplier > 0

    @property
    def share_of_patients(self) -> float:
        """Expected share of the patients in one sum."""
        return self.sampling_prob if self.correlation is None else 1 / self.correlation.cohorts

    @property
    def unit(self) -> PrivacyUnit:
        """Who is protected."""
        own = self.on_update or self.on_pictures
        return PrivacyUnit.PATIENT if own is None else own.unit

    @property
    def relation(self) -> NeighboringRelation:
        """In what neighbouring data sets differ."""
        own = self.on_update or self.on_pictures
        return NeighboringRelation.ADD_OR_REMOVE_ONE if own is None else own.relation

    @property
    def is_counted(self) -> bool:
        """Whether the number of patients is a private, charged count rather than a public constant.

        Under a mechanism on updates nobody else needs it: each hospital divides by its own. Under one on pictures it
        is public, as neighbours replace a patient.
        """
        return self.num_patients is None and self.on_update is None and self.on_pictures is None

    @property
    def rule(self) -> Clipping:
        """How each gradient is brought to its norm."""
        return rule_of(self.clipping)

    @property
    def adaptive(self) -> AdaptiveNorm | None:
        """How the clipping norm follows the gradients, where it does."""
        return AdaptiveNorm(self.quantile) if self.clipping is ClippingKind.ADAPTIVE else None

    @property
    def counted_coordinates(self) -> int:
        """Coordinates of a released sum that are no parameter: the count that an adaptive norm follows."""
        return 0 if self.adaptive is None else 1

    @property
    def clipping_terms(self) -> dict[str, int | float | str]:
        """How gradients are brought to the clipping norm, with every parameter of the rule, by name."""
        rule = self.rule if self.adaptive is None else self.adaptive
        parameters = asdict(rule) if is_dataclass(rule) else {}
        return {
            "clipping": self.clipping.value,
            **{f"clipping_{name}": value for name, value in parameters.items()},
        }

    # What it costs ---------------------------------------------------------------------------------

    @property
    def release_event(self) -> Event:
        """One noised sum, or one update, or the correlated sums of a run, as the accountant sees it."""
        if self.on_update is not None:
            return self.on_update.event
        if self.on_pictures is not None:
            return NoEvent()  # computed from what was released before round 1
        if not self.is_private:
            return NonPrivateEvent()
        return PoissonSampledEvent(self.sampling_prob, GaussianEvent(self.noise_multiplier))

    @property
    def count_event(self) -> Event:
        """The noised count of patients."""
        if self.on_pictures is not None:
            return NoEvent()
        return GaussianEvent(self.count_noise_multiplier) if self.is_private else NonPrivateEvent()

    def event_after(self, releases: int, counts: int = 1) -> Event:
        """Everything charged once `releases` sums, or noised copies of the pictures, have been released.

        `counts` is how often patients were counted, in a plan that counts them: more than once where a count that was
        interrupted was asked for again.
        """
        if self.on_pictures is not None:
            return SelfComposedEvent(self.on_pictures.event, releases)
        steps = SelfComposedEvent(self.release_event, releases)
        if not self.is_counted:
            return steps
        counted = self.count_event if counts == 1 else SelfComposedEvent(self.count_event, counts)
        return ComposedEvent((counted, steps))

    def epsilon_after(self, releases: int, counts: int = 1) -> float:
        """Epsilon at `delta` once that much has been released (`event_after`); infinity when not private."""
        if not self.is_private:
            return math.inf
        if releases == 0 and not self.is_counted:
            return 0.0
        if self.shares is not None:
            return epsilon_of_parts(self.parts_after(releases, counts), self.delta, self.accountant)
        return epsilon_of(self.event_after(releases, counts), self.delta, self.accountant)

    def parts_after(self, releases: int, counts: int = 1) -> tuple[Part, ...]:
        """`event_after` with its noise in shares, first the sums, then the count; empty where there are no shares."""

        def sums(one: GaussianEvent) -> Event:
            return SelfComposedEvent(PoissonSampledEvent(self.sampling_prob, one), releases)

        parts: tuple[Part, ...] = ()
        if self.shares is not None and releases:
            parts = ((self.shares, sums),)
        if self.count_shares is not None:
            parts = (*parts, (self.count_shares, lambda one: SelfComposedEvent(one, counts)))
        return parts

    @property
    def epsilon(self) -> float:
        """Epsilon of the whole run at `delta`."""
        return self.epsilon_after(self.releases)

    # What is drawn ---------------------------------------------------------------------------------

    def sample(self, num_patients: int, stream: Stream) -> Indices:
        """The patients of one hospital in one release, as `release_event` has it."""
        if self.correlation is not None:
            raise PrivacyError("Under correlated noise a round's patients are its cohort; do not sample them.")
        return poisson_sample(num_patients, self.sampling_prob, stream)

    def accepts(self, clipping_norm: float | None) -> bool:
        """Whether a request may ask for a round of this clipping norm: a number where norms adapt, else none."""
        if self.adaptive is None:
            return clipping_norm is None
        return clipping_norm is not None and 0 < clipping_norm < math.inf

    def gradient_norm(self, clipping_norm: float | None) -> float:
        """What gradients are clipped to in a round for which a clipping norm is asked."""
        if self.adaptive is None or clipping_norm is None:
            return self.clipping_norm
        return self.adaptive.gradient_norm(clipping_norm)

    def in_units(self, clipped: ClippedSum, num_patients: int, clipping_norm: float | None) -> ClippedSum:
        """A round's sum as it is released: itself, or with the count that an adaptive norm needs."""
        if self.adaptive is None or clipping_norm is None:
            return clipped
        return self.adaptive.extended(clipped, num_patients, clipping_norm, self.clipping_norm)

    def hospital_release(self, clipped: ClippedSum, stream: Stream, hospitals: int = 1) -> Vector:
        """What a hospital lets go of a clipped sum: the sum with this hospital's part of the noise.

        Where `clipped` is the sum over the patients of several hospitals, the parts of all of them are one draw: a
        sum of m independent normal variates of std s is a normal variate of std s sqrt(m).

        Guarantee:
            With the shares of the other honest hospitals (under `secure-aggregation`), or with the
            coordinator's noise (under `coordinator`), or alone (under `nobody`), the noise on the sum has a
            std of at least noise_multiplier * clipping_norm. An empty sample is noised like any other.

        Raises:
            PrivacyError: the sum declares another sensitivity than this plan noises for, or the noise of its rounds
                is correlated.
        """
        self._check_sensitivity(clipped)
        self._check_unmasked()
        if self.correlation is not None:
            raise PrivacyError(
                "Under correlated noise a round's noise follows from earlier rounds'; draw no other."
            )
        std = self.hospital_std(self.noise_multiplier * self.clipping_norm) if self.noises_gradients else 0.0
        return _noised(clipped.vector.numpy(), std * math.sqrt(hospitals), stream)

    def correlated_release(
        self, clipped: ClippedSum, earlier: Sequence[Noise], stream: Stream
    ) -> tuple[Vector, Noise]:
        """What a hospital lets go of a round's clipped sum, and the noise in it, which it must keep secret.

        Args:
            clipped: sum over the round's cohort.
            earlier: this hospital's noise of the rounds before, the last one first.
            stream: of this round alone.

        Guarantee:
            With the shares of the other honest hospitals (under `secure-aggregation`), or alone (under `nobody`),
            the sums of all rounds are one Gaussian mechanism of `release_event`, if every round is answered once.

        Raises:
            PrivacyError: the sum declares another sensitivity than this plan noises for.
        """
        self._check_sensitivity(clipped)
        if self.correlation is None:
            raise PrivacyError("A plan must correlate its noise to release a round of it.")
        total = self.noise_multiplier * self.clipping_norm * self.correlation.sensitivity
        std = self.hospital_std(total) if self.noises_gradients else 0.0
        values = clipped.vector.numpy()
        noise = self.correlation.noise(earlier, values.size, std, stream)
        return (values + noise).astype(np.float32, copy=False), noise

    def _check_unmasked(self) -> None:
        if self.shares is not None:
            raise PrivacyError(
                "Noise in shares on a grid leaves a hospital under masks; release no sum without them."
            )

    def _check_sensitivity(self, clipped: ClippedSum) -> None:
        if clipped.sensitivity > self.clipping_norm:
            raise PrivacyError(
                f"A sum must have sensitivity <= {self.clipping_norm}, the plan's clipping_norm, "
                f"got {clipped.sensitivity}; clip with the plan's own norm."
            )

    def hospital_update(self, update: Vector, stream: Stream) -> Vector:
        """What a hospital lets go of its update, (parameter,): as it is, where its steps were noised already."""
        return update if self.on_update is None else self.on_update.release(update, self.hospital_std, stream)

    def hospital_head(self, fitted: npt.NDArray[np.float64], stream: Stream) -> Vector:
        """What a hospital lets go of a head that `wardround.training.convex.fit_head` fitted, (parameter,).

        Raises:
            PrivacyError: this plan's noise is meant for something else.
        """
        if isinstance(self.on_update, OutputPerturbation):
            return self.on_update.release_fitted(fitted, self.hospital_std, stream)
        if self.is_private:
            raise PrivacyError(
                "A fitted head must be noised by output perturbation, got a plan that noises otherwise."
            )
        return fitted.astype(np.float32)

    def hospital_count(self, num_patients: int, stream: Stream, hospitals: int = 1) -> Vector:
        """What a hospital, or several as in `hospital_release`, lets go of its number of patients, (1,)."""
        return self.hospital_counts(np.array([float(num_patients)]), stream, hospitals)

    def hospital_counts(self, counts: npt.NDArray[np.float64], stream: Stream, hospitals: int = 1) -> Vector:
        """What a hospital, or several as in `hospital_release`, lets go of its patients by class, (class,).

        Guarantee: a patient counts as one in one class, so counts move by at most 1 in L2 norm, as one count does.

        Raises:
            PrivacyError: this plan's noise is shares on a grid.
        """
        self._check_unmasked()
        std = self.hospital_std(self.count_noise_multiplier) if self.is_private else 0.0
        return _noised(counts, std * math.sqrt(hospitals), stream)

    def coordinator_noise(self, size: int, stream: Stream, *, counting: bool = False) -> Vector:
        """Noise that the coordinator adds to a sum, (size,): all of it under `coordinator`, else zeros."""
        scale = self.count_noise_multiplier if counting else self.noise_multiplier * self.clipping_norm
        std = scale if self.noises_gradients and self.trust is Trust.COORDINATOR else 0.0
        return _noised(np.zeros(size), std, stream)

    def hospital_std(self, total_std: float) -> float:
        """Std of one hospital's noise when `total_std` must surely stand on the sum."""
        if self.trust is Trust.COORDINATOR:
            return 0.0
        if self.trust is Trust.NOBODY:
            return total_std
        return NoiseShares(self.hospitals, self.colluders, self.dropouts).share(total_std)


def _noised(values: npt.NDArray[np.floating[Any]], std: float, stream: Stream) -> Vector:
    # A sum in double precision is noised in it: rounded first, it could move by more than its sensitivity.
    noisy = values.copy()
    if std > 0:
        stream.add_normal(noisy, std)
    return noisy.astype(np.float32, copy=False)
