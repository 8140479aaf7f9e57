"""The cost of sums of discrete Gaussian shares: by the accountants of the continuous Gaussian, and a computed slack.

A sum of whole numbers x, which one unit moves by at most D in L2 norm, is released with h independent shares of noise,
each a discrete Gaussian N_Z(σ²) in each of d coordinates. A sum of discrete Gaussians is no discrete Gaussian, and a
discrete one is no rounded continuous one, but their probabilities differ by factors next to one. By Poisson summation

    sum over whole k of exp(-(k-c)² / 2s²) = s sqrt(2π) (1 + e),   |e| <= e(s) = 2 Σ_m>=1 exp(-2π² s² m²)

for any c. From that follow a slack of the shares, by completing the square in their convolution, and a slack of
smoothing a continuous Gaussian of variance h σ² - r² to whole numbers: for each sample that may have been drawn, the
release has, up to a factor within exp(±η), the probabilities of something computed from a Gaussian release with noise
multiplier sqrt(h σ² - r²) / D, and η = d (slack of shares + slack of smoothing). Over T releases, each chosen after the
earlier ones, factors multiply. With M the releases and G what is computed from Gaussians,
M(X) <= e^Tη G(X) <= e^Tη (e^ε G(X') + δ) <= e^(ε + 2Tη) M(X') + e^Tη δ: both are charged. Unlike releases, such as a
count and the sums after it, have an η each, and Σ η_i stands for T η.

The proof is in docs/secure-aggregation.md, "What a sum of shares costs". Sources: Canonne, Kamath and Steinke 2020,
https://arxiv.org/abs/2004.00010; Kairouz, Liu and Steinke 2021, https://arxiv.org/abs/2102.06387, whose τ bounds the
ratio here.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import ComposedEvent, Event, GaussianEvent, PoissonSampledEvent, leaves
from wardround.accounting.mechanisms import check_delta
from wardround.errors import PrivacyError

SMOOTHING = 3
"""r in grid steps: it takes 9 off the variance and leaves a slack of 2e-77 for each coordinate."""


@dataclass(frozen=True, slots=True)
class DiscreteShares:
    """A release of whole numbers with discrete Gaussian shares of noise, of which h are unknown to the adversary.

    Attributes:
        share_std: parameter σ of a share, in grid steps.
        shares: h >= 1, those that are surely there and that the adversary does not know.
        sensitivity: D >= 1, L2 norm by which one unit moves the sum, in grid steps.
        dimension: coordinates d.
        smoothing: r >= 1, in grid steps; smaller costs less of the variance and more slack.

    Raises:
        PrivacyError: a parameter that does not hold, or noise too small for the smoothing.
    """

    share_std: int
    shares: int
    sensitivity: int
    dimension: int
    smoothing: int = SMOOTHING

    def __post_init__(self) -> None:
        for name in ("share_std", "shares", "sensitivity", "dimension", "smoothing"):
            if getattr(self, name) < 1:
                raise PrivacyError(f"{name} must be a whole number >= 1, got {getattr(self, name)}.")
        if self.shares * self.share_std**2 <= self.smoothing**2:
            raise PrivacyError(
                f"shares x share_std² must be above the squared smoothing, {self.smoothing**2}, got "
                f"{self.shares} x {self.share_std**2}. Choose a finer grid."
            )

    @property
    def noise_multiplier(self) -> float:
        """Noise multiplier of the continuous Gaussian that stands in: sqrt(h σ² - r²) / D, rounded down."""
        exact = Fraction(self.shares * self.share_std**2 - self.smoothing**2, self.sensitivity**2)
        root = math.sqrt(exact)
        while Fraction(root) ** 2 > exact:
            root = math.nextafter(root, 0)
        return root

    @property
    def event(self) -> GaussianEvent:
        """The release as accountants know it, up to `slack`."""
        return GaussianEvent(self.noise_multiplier)

    @property
    def slack(self) -> float:
        """η: the probabilities of one release are those of `event`'s post-processing up to a factor within exp(±η)."""
        each = slack_of_shares(self.share_std, self.shares) + slack_of_smoothing(self.smoothing)
        return self.dimension * each * (1 + 1e-9)


Part: TypeAlias = tuple[DiscreteShares, Callable[[GaussianEvent], Event]]
"""One noised sum, as the adversary sees it, and all that is released of its kind, given what one of them is."""


def slack_of_shares(share_std: float, shares: int) -> float:
    """Returns a bound on |ln| of the sum of that many discrete Gaussians over one discrete Gaussian, in one coordinate.

    >>> slack_of_shares(8.0, 10) < 1e-200
    True
    """
    total = 0.0
    for k in range(1, shares):
        small, large = share_std * math.sqrt(k / (k + 1)), share_std * math.sqrt(k + 1)
        above = math.log1p(_excess(small)) + math.log1p(_excess(large))
        below = math.log1p(_excess(share_std)) + math.log1p(_excess(share_std * math.sqrt(k)))
        total += max(above, below + _minus_log1m(_excess(small)))
    return total


def slack_of_smoothing(smoothing: float) -> float:
    """Returns a bound, in one coordinate, on |ln| of a discrete Gaussian over a continuous one smoothed to integers."""
    return math.log1p(_excess(smoothing)) + _minus_log1m(_excess(smoothing))


def epsilon_of_parts(
    parts: Sequence[Part], delta: float, accountant: AccountantKind = AccountantKind.PLD
) -> float:
    """Returns epsilon at `delta` of sums noised by discrete Gaussian shares.

    It is that of Gaussians plus 2Tη, at exp(-Tη) delta.

    `parts` are the kinds of sums, such as a count and training, each with all that is released of it, given what one
    is: for training, a Poisson-sampled event composed T times. The slack of each is counted in its own event.

    Guarantee:
        With an accountant that is an upper bound: (epsilon, delta)-DP for one unit added or removed, of all of them
        composed, in any order, later sums free to depend on earlier ones. What the slack adds is rounded up to the
        next float.

    Raises:
        PrivacyError: the noise is so coarse that the slack is 1 or more, or an event holds no such release.

    >>> from wardround.accounting.events import PoissonSampledEvent, SelfComposedEvent
    >>> release = DiscreteShares(share_std=2**20, shares=9, sensitivity=3 * 2**20, dimension=10**6)
    >>> training = release, lambda one: SelfComposedEvent(PoissonSampledEvent(0.02, one), 2_000)
    >>> round(epsilon_of_parts([training], 1e-5), 3)
    5.616
    """
    check_delta(delta)
    event, slack = _composed(parts)
    epsilon = epsilon_of(event, math.nextafter(delta * math.exp(-slack), 0), accountant)
    return math.nextafter(epsilon + 2 * slack, math.inf)


def _composed(parts: Sequence[Part]) -> tuple[Event, float]:
    """Returns the Gaussians that stand in for all parts, and the slack of all of their releases."""
    events = tuple(make_event(release.event) for release, make_event in parts)
    counts = [_releases_in(event, release) for event, (release, _) in zip(events, parts, strict=True)]
    slack = sum(count * release.slack for count, (release, _) in zip(counts, parts, strict=True))
    if not slack < 1:
        raise PrivacyError(
            f"The noise must be fine enough for a slack below 1, got {slack:.3g} over {sum(counts)} releases. "
            "Choose a finer grid, or more smoothing."
        )
    return ComposedEvent(events), slack


def _releases_in(event: Event, release: DiscreteShares) -> int:
    """T, the times that the release is in the event, sampled or not."""
    releases = sum(
        count
        for leaf, count in leaves(event)
        if release.event == (leaf.event if isinstance(leaf, PoissonSampledEvent) else leaf)
    )
    if not releases:
        raise PrivacyError("make_event must return an event that holds the release it is given, got one without.")
    return releases


def _excess(std: float) -> float:
    """e(s), rounded up: terms fall faster than exp(-2π² s²) each, and nothing vanishes to zero."""
    first = math.exp(-2 * math.pi**2 * std**2)
    if first > 0.1:
        return math.inf
    return 2 * first / (1 - first) * (1 + 1e-9) + sys.float_info.min


def _minus_log1m(excess: float) -> float:
    return -math.log1p(-excess) if excess < 1 else math.inf
