"""A few coordinates of a hospital's update, chosen and noised, with the total they cost.

What is released: at most a public number of coordinates, each with its place. The published variants of selective
sharing (Shokri and Shmatikov 2015, https://doi.org/10.1145/2810103.2813687; Li et al. 2019,
https://arxiv.org/abs/1910.00962) charge an epsilon for each parameter, which adds up to thousands for an update
(`wardround.reproduce.accounting`). Here epsilon is that of the whole update, places and values together.

Every coordinate is cut to [-truncation, truncation] first. When a hospital's data are replaced, it can go from one end
to the other, so its value moves by at most 2 truncation; its size lies in [0, truncation] and moves by at most
truncation. Sizes may rise and fall together or against each other, so no bound for monotone queries is used.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import ComposedEvent, Event, GaussianEvent, PureEvent, SelfComposedEvent
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import PrivacyError
from wardround.privacy.updates import Share
from wardround.randomness import Stream, gumbel, laplace
from wardround.types import Vector


@dataclass(frozen=True)
class _Choosing:
    """Fields of both mechanisms: a hospital chooses and noises by itself, and neighbours replace all of its data."""

    truncation: float
    answers: int
    values_share: float = field(default=0.5, kw_only=True)

    unit = PrivacyUnit.HOSPITAL
    relation = NeighboringRelation.REPLACE_ONE
    selects = True
    bound_name = "truncation"

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        if not 0 < self.truncation < float("inf"):
            raise PrivacyError(f"truncation must be > 0 and finite, got {self.truncation}.")
        if self.answers < 1:
            raise PrivacyError(f"answers must be at least 1, got {self.answers}; it is a number of coordinates.")
        if not 0 < self.values_share < 1:
            raise PrivacyError(f"values_share must lie between 0 and 1, got {self.values_share}.")

    @property
    def what(self) -> str:
        """See `UpdateMechanism`."""
        return (
            f"at most {self.answers:,} coordinates of each hospital's update, their places and their noised values"
        )

    @property
    def bound(self) -> float:
        """The bound on each coordinate."""
        return self.truncation


@dataclass(frozen=True)
class SparseVector(_Choosing):
    """The sparse vector technique: coordinates are gone through in a random order until enough were large.

    Guarantee:
        (epsilon, 0)-DP for one hospital whose data are replaced, whatever the update is. Lyu, Su and Li 2017,
        Algorithm 7 and its theorem, https://arxiv.org/abs/1603.01699: with queries of sensitivity D the threshold
        gets Laplace noise of scale D / epsilon_1 once, each query 2 c D / epsilon_2, and after c answers it stops;
        that costs epsilon_1 + epsilon_2 however many queries there were. epsilon_1 : epsilon_2 = 1 : (2c)^(2/3) is
        their best split. The c values are then c Laplace releases of sensitivity 2 truncation, epsilon_3 / c each.
        What was not reached or was not large enough is zero in the reply.

        The order is drawn without looking at the update. Laplace noise cannot be made of the hospitals' shares, so each
        hospital adds all of it: `trust` is nobody.

    Attributes:
        truncation: bound on the size of each coordinate.
        answers: c, at most so many coordinates are released.
        epsilon: of one release, everything counted.
        threshold: sizes from here on are large; public.
        values_share: epsilon_3 / epsilon.
    """

    epsilon: float
    threshold: float = 0.0

    name = "sparse vector (Laplace noise on a threshold, on sizes and on values)"

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        super().__post_init__()
        PureEvent(self.epsilon)  # refuses what is no epsilon
        if not 0 <= self.threshold < float("inf"):
            raise PrivacyError(f"threshold must be >= 0 and finite, got {self.threshold}.")

    @property
    def epsilons(self) -> tuple[float, float, float]:
        """The epsilons of the threshold, of all sizes and of all values; their sum is `epsilon`."""
        ratio = (2 * self.answers) ** (2 / 3)
        choosing = self.epsilon * (1 - self.values_share)
        return choosing / (1 + ratio), choosing * ratio / (1 + ratio), self.epsilon * self.values_share

    @property
    def event(self) -> Event:
        """See `UpdateMechanism`."""
        return PureEvent(self.epsilon)

    @property
    def noise_multiplier(self) -> float:
        """Scale of the Laplace noise on a value, over what the value can move by."""
        return self.answers / self.epsilons[2]

    def release(self, update: Vector, share: Share, stream: Stream) -> Vector:
        """See `UpdateMechanism`. A coordinate that is not a number becomes zero before anything else."""
        bounded = truncated(update, self.truncation)
        for_threshold, for_sizes, for_values = self.epsilons
        order = np.argsort(stream.words(bounded.size), kind="stable")
        bar = self.threshold + self.truncation / for_threshold * laplace(stream, 1)[0]
        blurred = np.abs(bounded) + 2 * self.answers * self.truncation / for_sizes * laplace(stream, bounded.size)
        chosen = order[blurred[order] >= bar][: self.answers]
        values = bounded[chosen]
        values += 2 * self.truncation * self.answers / for_values * laplace(stream, chosen.size)
        return _placed(truncated(values, self.truncation), chosen, update.size)


@dataclass(frozen=True)
class GumbelTopK(_Choosing):
    """The largest coordinates by the exponential mechanism, and Gaussian noise on them.

    Guarantee:
        Gumbel noise of scale 2 truncation / e on each size, and the c largest of these, is c choices in a row by the
        exponential mechanism, each e-DP: Durfee and Rogers 2019, https://arxiv.org/abs/1905.04273. The c values
        then move by at most 2 truncation sqrt(c) in L2 norm. `event` is all of it, c pure releases and a Gaussian one,
        for one hospital whose data are replaced. That the exponential mechanism is tighter than any e-DP release (its
        range is bounded) is not used.

        Each hospital chooses for itself, so its noise is all its own: `trust` is nobody.

    Attributes:
        truncation: bound on the size of each coordinate.
        answers: c, so many coordinates are released.
        noise_multiplier: std of the noise on the values over 2 truncation sqrt(c).
        values_share: about the share of the cost that the values take.
    """

    noise_multiplier: float

    name = "exponential (for the places) and Gaussian (for the values)"

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        super().__post_init__()
        GaussianEvent(self.noise_multiplier)  # refuses what is no noise

    @property
    def epsilon_of_a_choice(self) -> float:
        """So that c choices cost (1 - values_share) / values_share times the values, where c e^2 is to 1 / z^2."""
        odds = (1 - self.values_share) / self.values_share
        return float(np.sqrt(odds / self.answers)) / self.noise_multiplier

    @property
    def event(self) -> Event:
        """See `UpdateMechanism`."""
        choices = SelfComposedEvent(PureEvent(self.epsilon_of_a_choice), self.answers)
        return ComposedEvent((choices, GaussianEvent(self.noise_multiplier)))

    def release(self, update: Vector, share: Share, stream: Stream) -> Vector:
        """See `UpdateMechanism`. A coordinate that is not a number becomes zero before anything else."""
        bounded = truncated(update, self.truncation)
        count = min(self.answers, bounded.size)
        scale = 2 * self.truncation / self.epsilon_of_a_choice
        blurred = np.abs(bounded) + scale * gumbel(stream, bounded.size)
        chosen = np.argpartition(blurred, bounded.size - count)[bounded.size - count :]
        values = bounded[chosen]
        stream.add_normal(values, self.noise_multiplier * 2 * self.truncation * float(np.sqrt(self.answers)))
        return _placed(values, chosen, update.size)


def truncated(values: npt.NDArray[np.floating], bound: float) -> npt.NDArray[np.float64]:
    """Each number cut to [-bound, bound], in double precision; zero where it is no number."""
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=bound, neginf=-bound)
    return np.clip(wide, -bound, bound)


def _placed(values: npt.NDArray[np.float64], places: npt.NDArray[np.intp], size: int) -> Vector:
    released = np.zeros(size, dtype=np.float32)
    released[places] = values
    return released
