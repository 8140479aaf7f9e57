"""The guarantee has one owner: sampler, clip, noise and event all come from the fields of one `Plan`.

What is released: what `wording` says of each part. To whom: the part's noiser says. Under `ByCoordinator` the guarantee
is against any party that sees the model; under `NoiseShares` also against the coordinator together with up to
`colluders` hospitals, with up to `dropouts` shares missing; under `ByEachHospital` against every party but the
patient's own hospital. Everything else (the division by a public constant, momentum, averaging, the model) is computed
from releases and costs nothing more.

Parts about the same persons compose: the epsilon of a plan is that of the composition of the events of its parts about
training persons; that of an evaluation is of its own part alone, as nobody is both trained and tested on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import assert_never

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.discrete import DiscreteShares, epsilon_of_parts
from wardround.accounting.discrete import Part as DiscretePart
from wardround.accounting.events import ComposedEvent, Event, NoEvent, NonPrivateEvent, SelfComposedEvent
from wardround.accounting.terms import Division, NeighboringRelation, PrivacyUnit
from wardround.errors import PrivacyError
from wardround.noisers import Noiser, Trust, trust_of
from wardround.privacy.plans.costs import about, discrete_part, event_of, planned_releases, relation_of, unit_of
from wardround.privacy.plans.kinds import (
    About,
    CorrelatedGradients,
    Evaluation,
    ExactCount,
    NoisedCounts,
    NoisedGradients,
    NoisedHistograms,
    NoisedPictures,
    NoisyCount,
    NothingTrained,
    NotPrivate,
    OpenHistograms,
    Part,
    PublicSize,
    Training,
)
from wardround.privacy.plans.releases import noiser_of
from wardround.types import Persons


@dataclass(frozen=True)
class Plan:
    """The protection of a patient over a whole run.

    Attributes:
        parts: one training part, before it `NoisedCounts` where the number of patients is counted with noise, and
            behind it the evaluation where figures of test patients leave.
        delta: target delta of all parts together.
        images_per_patient: at most so many pictures of a patient are used.
        persons: knowledge of persons in the data (`ImageSet.persons`); where they are unnamed, each picture is a record
            of its own, and the guarantee of a patient is that of a picture.
        division: how patients came to their places; with one that couples patients, epsilon is for this division.

    Raises:
        PrivacyError: parts that contradict each other, or a delta that promises nothing.
    """

    parts: tuple[Part, ...]
    delta: float
    accountant: AccountantKind = AccountantKind.PLD
    images_per_patient: int = 8
    persons: Persons = Persons.NAMED
    division: Division = Division.BY_OWN_ID

    def __post_init__(self) -> None:
        trained = [part for part in self.parts if about(part) is About.TRAINING]
        if self.parts[len(trained) :] != tuple(part for part in self.parts if about(part) is About.TEST)[:1]:
            raise PrivacyError("A plan evaluates at most once, after training.")
        training = [part for part in trained if not isinstance(part, NoisedCounts)]
        if len(training) != 1:
            raise PrivacyError(f"A plan must have one training part, got {len(training)}.")
        counts = trained[:-1]
        if isinstance(trained[-1], NoisedCounts) or len(counts) > 1:
            raise PrivacyError("A plan counts patients at most once, before training.")
        needed = isinstance(self.training, NoisedGradients | CorrelatedGradients) and isinstance(
            self.training.size, NoisyCount
        )
        if needed != bool(counts):
            raise PrivacyError(
                "A plan divides by a public number of patients or by a count with noise of its own, and counts "
                "nothing else: give PublicSize, or NoisyCount and NoisedCounts."
            )
        if self.count is not None and isinstance(self.training, NoisedGradients | CorrelatedGradients):
            same = isinstance(self.count.noise, DiscreteShares) == isinstance(self.training.noise, DiscreteShares)
            if self.count.noiser != self.training.noiser or not same:
                raise PrivacyError("A count and the sums after it must be noised by the same, in the same way.")
        if isinstance(self.training, NothingTrained) and not (
            isinstance(self.evaluation, NoisedHistograms) and self.evaluation.noiser == self.training.noiser
        ):
            raise PrivacyError("A plan that trains nothing must evaluate, with noise of the same parties.")
        if self.is_private and not 0 < self.delta < 1:
            raise PrivacyError(f"delta must lie in (0, 1), got {self.delta}.")
        if self.images_per_patient < 1:
            raise PrivacyError(f"images_per_patient must be >= 1, got {self.images_per_patient}.")
        charged = isinstance(self.training, NoisedPictures) and self.training.release.images_per_patient
        if charged and charged != self.images_per_patient:
            raise PrivacyError(
                f"images_per_patient must be the {charged} pictures that are charged, got {self.images_per_patient}."
            )

    @cached_property
    def training(self) -> Training:
        """The part that protects the rounds."""
        return next(part for part in self.parts if isinstance(part, Training))

    @property
    def evaluation(self) -> Evaluation | None:
        """The part about test persons; None where no figure of them leaves."""
        part = self.parts[-1]
        return part if isinstance(part, NoisedHistograms | OpenHistograms) else None

    @property
    def main(self) -> Training | Evaluation:
        """The part that the plan's promise is of: training, or the evaluation where nothing is trained."""
        evaluation = self.evaluation
        is_all = isinstance(self.training, NothingTrained) and evaluation is not None
        return evaluation if is_all else self.training  # type: ignore[return-value]  # narrowed one line above

    @property
    def count(self) -> NoisedCounts | None:
        """The part that protects the number of patients, where it is counted with noise."""
        part = self.parts[0]
        return part if isinstance(part, NoisedCounts) else None

    @property
    def is_private(self) -> bool:
        """False for the plan that promises nothing."""
        return not isinstance(self.training, NotPrivate)

    @property
    def is_counted(self) -> bool:
        """True where patients are counted before round 1 as part of the plan: with noise, or in the open."""
        open_count = isinstance(self.training, NotPrivate) and isinstance(self.training.size, ExactCount)
        return self.count is not None or open_count

    @property
    def noiser(self) -> Noiser:
        """The parties that add the noise of the rounds."""
        return noiser_of(self.training)

    @property
    def trust(self) -> Trust:
        """The trust model, as a study file says it."""
        return trust_of(self.noiser)

    @property
    def hospitals(self) -> int:
        """Hospitals in the federation."""
        return self.noiser.hospitals

    @property
    def masked(self) -> DiscreteShares | None:
        """The shares of noise on every sum, where sums leave their hospitals under masks; else None."""
        match self.main:
            case (
                NoisedGradients(noise=DiscreteShares() as shares)
                | NoisedHistograms(noise=DiscreteShares() as shares)
            ):
                return shares
            case _:
                return None

    @property
    def public_size(self) -> int | None:
        """The number of training patients, where it is a public constant of the plan."""
        match self.training:
            case NoisedGradients() | CorrelatedGradients() | NoisedPictures() | NotPrivate() as part:
                return part.size.num_patients if isinstance(part.size, PublicSize) else None
            case _:
                return None

    @property
    def releases(self) -> int:
        """Releases of one hospital's patients over the whole run."""
        return planned_releases(self.main)

    @property
    def counts(self) -> int:
        """Counts of one hospital's patients over the whole run, in a plan that counts them; else 1, of nothing."""
        return 1 if self.count is None else planned_releases(self.count)

    @property
    def unit(self) -> PrivacyUnit:
        """The unit that is protected: of the training part, as far as the data know it."""
        unit = unit_of(self.training)
        is_picture = unit is PrivacyUnit.PATIENT and self.persons is Persons.UNNAMED
        return PrivacyUnit.PICTURE if is_picture else unit

    @property
    def relation(self) -> NeighboringRelation:
        """The relation between neighbouring data sets."""
        return relation_of(self.training)

    def event_after(self, releases: int, counts: int = 1) -> Event:
        """Returns everything charged once `releases` of the training part have been released.

        `counts` is the number of counts of patients, in a plan that counts them: more than one where a count that was
        interrupted was asked for again.
        """
        steps = event_of(self.main, releases)
        if not self.is_counted:
            return steps
        if self.count is None:
            counted: Event = NonPrivateEvent() if counts == 1 else SelfComposedEvent(NonPrivateEvent(), counts)
        else:
            counted = event_of(self.count, counts)
        return ComposedEvent((counted, steps))

    def epsilon_after(self, releases: int, counts: int = 1) -> float:
        """Returns epsilon at `delta` of `event_after`; infinity when not private.

        Never less than what a ledger composes of the same event, which knows no slack of shares: the two differ in
        their last digits, and a run is not refused what its plan foresees.
        """
        if not self.is_private:
            return math.inf
        if releases == 0 and not self.is_counted:
            return 0.0
        composed = epsilon_of(self.event_after(releases, counts), self.delta, self.accountant)
        if self.masked is None:
            return composed
        return max(composed, epsilon_of_parts(self.discrete_after(releases, counts), self.delta, self.accountant))

    def discrete_after(self, releases: int, counts: int) -> Sequence[DiscretePart]:
        """Returns `event_after` with its noise in shares, first the sums, then the count; empty without shares."""
        sums = () if releases == 0 else discrete_part(self.main, releases)
        return (*sums, *(() if self.count is None else discrete_part(self.count, counts)))

    @property
    def epsilon(self) -> float:
        """Epsilon of the whole run at `delta` for a training person, spare attempts included."""
        return self.epsilon_after(self.releases, self.counts)

    @property
    def evaluation_event(self) -> Event:
        """Everything that a test person is charged over the run, spare attempts included."""
        part = self.evaluation
        return NoEvent() if part is None else event_of(part, planned_releases(part))

    @property
    def evaluation_epsilon(self) -> float:
        """Epsilon of the whole run at `delta` for a test person, spare attempts included."""
        part = self.evaluation
        match part:
            case None:
                return 0.0
            case OpenHistograms():
                return math.inf
            case NoisedHistograms(releases=releases):
                composed = epsilon_of(self.evaluation_event, self.delta, self.accountant)
                shares = discrete_part(part, releases)
                return max(composed, epsilon_of_parts(shares, self.delta, self.accountant)) if shares else composed
            case _:
                assert_never(part)
