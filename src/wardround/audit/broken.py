"""Published schemes that give no guarantee, each beside its repair: an audit must catch the first and pass the second.

Nothing here can be reached from a study. Each scheme is a function of the world (is the patient in?), a generator and a
number of runs that returns the attacker's statistics, (run, statistic); what is claimed for it is beside it. All
gradients have norm C = 1 after a clip. Noise is normal of standard deviation z, or Laplace.

Every statistic of a scheme is fixed beforehand. k statistics are each tested at alpha / k, by Clopper-Pearson, and by
mu-GDP where a Gaussian mechanism is claimed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import Event, GaussianEvent, PoissonSampledEvent, PureEvent, SelfComposedEvent
from wardround.audit.bounds import Bound, Float64, mu_of_epsilon
from wardround.audit.trials import two_worlds, two_worlds_gdp

DELTA, ALPHA = 1e-5, 0.001
RUNS = 3000
"""Runs of each world."""

Release = Callable[[bool, np.random.Generator, int], Float64]

_HOSPITALS, _ROUNDS, _WIDTH = 2, 16, 400


@dataclass(frozen=True)
class Scheme:
    """A scheme of the literature or a common error, and its repair.

    Attributes:
        name: of the scheme.
        how: the reason for which it gives no guarantee.
        source: where it was published or described.
        broken: the scheme.
        repaired: the scheme with the error taken out.
        claim: the event that is claimed for the broken scheme.
        repaired_claim: for the repaired one.
    """

    name: str
    how: str
    source: str
    broken: Release
    repaired: Release
    claim: Event
    repaired_claim: Event


@dataclass(frozen=True)
class Tried:
    """The outcome for one scheme or one repair.

    Attributes:
        name: of the scheme; a repair's ends in ", repaired".
        broken: whether it is the broken one.
        claimed: epsilon at `DELTA`.
        bounds: lower bounds, of all statistics.
        caught: whether a bound lies above the claim.
        how: the reason for which the broken one gives no guarantee.
        source: where it is described.
    """

    name: str
    broken: bool
    claimed: float
    bounds: tuple[Bound, ...]
    caught: bool
    how: str
    source: str

    def to_json(self) -> dict[str, object]:
        """Returns the outcome as one JSON object."""
        best = max(self.bounds, key=lambda bound: bound.epsilon)
        return {
            "name": self.name, "broken": self.broken, "caught": self.caught, "claimed": self.claimed, "delta": DELTA,
            "lower_bound": best.epsilon, "ceiling": best.ceiling, "method": best.method, "trials": best.trials,
            "confidence": 1 - ALPHA, "how": self.how, "source": self.source,
        }  # fmt: skip


def decide(
    release: Release, claim: Event, generator: np.random.Generator, runs: int
) -> tuple[tuple[Bound, ...], bool]:
    """Returns all bounds of a release, and whether one of them contradicts the claim; it knows nothing else of it."""
    without, within = release(False, generator, runs), release(True, generator, runs)
    epsilon = epsilon_of(claim, DELTA)
    is_gaussian = not isinstance(claim, PureEvent | PoissonSampledEvent)
    each = ALPHA / (without.shape[1] * (1 + is_gaussian))
    bounds, caught = list[Bound](), False
    for k in range(without.shape[1]):
        bounds.append(two_worlds(without[:, k], within[:, k], DELTA, each))
        caught |= bounds[-1].epsilon > epsilon
        if is_gaussian:
            bounds.append(two_worlds_gdp(without[:, k], within[:, k], DELTA, each))
            caught |= (bounds[-1].mu or 0.0) > mu_of_epsilon(epsilon, DELTA)
    return tuple(bounds), caught


def try_all(seed: int = 0, runs: int = RUNS) -> list[Tried]:
    """Returns the outcome of every scheme and its repair, with fixed seeds."""
    found = []
    for number, scheme in enumerate(SCHEMES):
        for is_broken, release, claim in (
            (True, scheme.broken, scheme.claim),
            (False, scheme.repaired, scheme.repaired_claim),
        ):
            generator = np.random.default_rng([seed, number, is_broken])
            bounds, caught = decide(release, claim, generator, runs)
            name = scheme.name if is_broken else f"{scheme.name}, repaired"
            epsilon = epsilon_of(claim, DELTA)
            found.append(Tried(name, is_broken, epsilon, bounds, caught, scheme.how, scheme.source))
    return found


def _normal(generator: np.random.Generator, *shape: int) -> Float64:
    return generator.normal(size=shape)


def _weights(*, clipped: bool) -> Release:
    """Noise on trained weights for a sensitivity of 1; a patient moves them by 10 if nothing bounds them."""

    def release(is_in: bool, generator: np.random.Generator, runs: int) -> Float64:
        return is_in * (1.0 if clipped else 10.0) + _normal(generator, runs, 1)

    return release


def _bypass(*, noised: bool) -> Release:
    """A gradient (1, 1) / sqrt(2) whose second coordinate, of a layer outside the wrapper, is released as it is."""

    def release(is_in: bool, generator: np.random.Generator, runs: int) -> Float64:
        noise = _normal(generator, runs, 2) * [1.0, float(noised)]
        return np.asarray(is_in / math.sqrt(2) + noise)

    return release


def _same_noise(*, same: bool) -> Release:
    """Answers of two hospitals, each with full noise: the first, and the difference of both."""

    def release(is_in: bool, generator: np.random.Generator, runs: int) -> Float64:
        noise = _normal(generator, runs, 2)
        first, second = is_in + noise[:, 0], noise[:, 0] if same else noise[:, 1]
        return np.stack([first, first - second], axis=1)

    return release


def _shares(*, honest: int) -> Release:
    """The sum of two hospitals' shares of std 1 / sqrt(honest), less the share that one of them knows."""

    def release(is_in: bool, generator: np.random.Generator, runs: int) -> Float64:
        shares = _normal(generator, runs, _HOSPITALS) / math.sqrt(honest)
        return np.asarray(is_in + (shares.sum(axis=1) - shares[:, 0])[:, None])

    return release


def _empty(*, noised: bool, z: float = 2.0, q: float = 0.5) -> Release:
    """A Poisson sample of one patient or none; if it is empty nothing is noised, and exact zeros are released."""

    def release(is_in: bool, generator: np.random.Generator, runs: int) -> Float64:
        drawn = (generator.random(runs) < q) & is_in
        sums = drawn + z * _normal(generator, runs)
        sums = sums if noised else np.where(drawn, sums, 0.0)
        return np.stack([sums, np.abs(sums)], axis=1)

    return release


def _divided(*, by_realised: bool) -> Release:
    """A noised sum over 4 or 5 patients, divided by their number: the spread of unused coordinates shows the number."""

    def release(is_in: bool, generator: np.random.Generator, runs: int) -> Float64:
        patients = 4 + is_in
        divisor = patients if by_realised else 4
        used = (patients + _normal(generator, runs)) / divisor
        spread = (_normal(generator, runs, _WIDTH) / divisor).std(axis=1)
        return np.stack([used, spread], axis=1)

    return release


def _rounds(is_in: bool, generator: np.random.Generator, runs: int) -> Float64:
    """The sum of the releases of all rounds."""
    return np.asarray((is_in + 2.0 * _normal(generator, runs, _ROUNDS)).sum(axis=1, keepdims=True))


def _pixels(*, scalar: bool) -> Release:
    """A picture of two pixels in [0, 1] with Laplace noise of scale 2, the L1 sensitivity, for epsilon 1."""

    def release(is_in: bool, generator: np.random.Generator, runs: int) -> Float64:
        noise = generator.laplace(scale=2.0, size=(runs, 2))
        picture = np.array([float(is_in), 0.0]) + (noise[:, :1] if scalar else noise)
        return np.stack([picture[:, 0], picture[:, 0] - picture[:, 1]], axis=1)

    return release


def _division(*, by_position: bool, patients: int = 60) -> Release:
    """Half of the patients trained on: by their position in a permuted list, or each by a draw of their own.

    The attacker projects the sum on the difference of the two worlds' sums without noise.
    """
    fixed = np.random.default_rng(7)
    gradients = fixed.normal(size=(patients + 1, 8))
    gradients /= np.linalg.norm(gradients, axis=1, keepdims=True)
    own = fixed.random(patients + 1) < 0.5
    own[-1] = True  # the patient who is left out is trained on

    def total(is_in: bool) -> Float64:
        count = patients + is_in
        if by_position:
            order = np.random.default_rng(11).permutation(count)
            return np.asarray(gradients[order[: count // 2]].sum(axis=0))
        return np.asarray(gradients[:count][own[:count]].sum(axis=0))

    difference = total(True) - total(False)
    direction = difference / np.linalg.norm(difference)

    def release(is_in: bool, generator: np.random.Generator, runs: int) -> Float64:
        return ((total(is_in) + _normal(generator, runs, 8)) @ direction)[:, None]

    return release


_ONE, _HALF = GaussianEvent(1.0), GaussianEvent(2.0)
_SAMPLED = PoissonSampledEvent(0.5, GaussianEvent(2.0))

SCHEMES: tuple[Scheme, ...] = (
    Scheme(
        "one scalar Laplace draw an image",
        "all pixels have the same noise, so that differences of pixels have none",
        "published local-privacy code for medical pictures, which adds one draw to a whole array",
        _pixels(scalar=True), _pixels(scalar=False), PureEvent(1.0), PureEvent(1.0),
    ),
    Scheme(
        "weight noise without a bound on the weights",
        "nothing bounds how far one patient moves the weights, so that no noise is enough",
        "published federated training with Gaussian noise on the weights and no clip",
        _weights(clipped=False), _weights(clipped=True), _ONE, _ONE,
    ),
    Scheme(
        "gradients that bypass the noise",
        "parameters outside the private optimizer are released as they are",
        "custom layers and buffers that a privacy wrapper has no hook for",
        _bypass(noised=False), _bypass(noised=True), _ONE, _ONE,
    ),
    Scheme(
        "the same noise at every hospital",
        "hospitals with one seed draw one noise, which the difference of two answers takes off",
        "published simulations that seed every client alike",
        _same_noise(same=True), _same_noise(same=False), _ONE, _ONE,
    ),
    Scheme(
        "noise shares short against an insider",
        "a hospital that takes its own share off the sum is left with less noise than was promised",
        "Truex et al. 2019, https://arxiv.org/abs/1812.03224, sizes shares for colluders; shares of sigma^2 / n do not",
        _shares(honest=_HOSPITALS), _shares(honest=_HOSPITALS - 1), _ONE, _ONE,
    ),
    Scheme(
        "noise missing on an empty sample",
        "an empty sample is released as exact zeros, which shows that the patient was not drawn",
        "early returns in training loops",
        _empty(noised=False), _empty(noised=True), _SAMPLED, _SAMPLED,
    ),
    Scheme(
        "division by the realised batch",
        "the spread of the noise shows the number of patients in the batch",
        "pitfall of private training loops that average over the drawn batch",
        _divided(by_realised=True), _divided(by_realised=False), _ONE, _ONE,
    ),
    Scheme(
        "an accountant reset every round",
        "each round is charged as if it were the only one",
        "published per-round budgets of federated training",
        _rounds, _rounds, _HALF, SelfComposedEvent(_HALF, _ROUNDS),
    ),
    Scheme(
        "a division that moves other patients",
        "leaving one patient out of a permuted list moves others into and out of training",
        "seeded splits by permutation, https://arxiv.org/abs/2006.07709 for the attack",
        _division(by_position=True), _division(by_position=False), _ONE, _ONE,
    ),
)  # fmt: skip
