"""Schemes that give no guarantee, each beside its repair: the generic attack must catch the first and pass the second.

Nothing here can be reached from a study. Each scheme is a function `release(dataset, seed)` of a data set and the seed
of its secrets, and what is claimed for it is beside it (`wardround.audit.schemes`). A data set is a tuple of patients,
and a patient an array of gradients, (picture, number). The clipping norm is 1, noise is normal of standard deviation
z, or Laplace.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from wardround.accounting.events import Event, GaussianEvent, PoissonSampledEvent, PureEvent, SelfComposedEvent
from wardround.audit.bounds import Float64
from wardround.audit.schemes import (
    ALPHA,
    FIRST,
    NEIGHBOURS,
    OTHERS,
    REPLACED,
    RUNS,
    WIDTH,
    Claim,
    Dataset,
    Found,
    Pairs,
    Release,
    audit_scheme,
)

_ROUNDS, _UNUSED = 8, 100


@dataclass(frozen=True)
class Scheme:
    """A scheme of the literature or a common error, and its repair.

    Attributes:
        how: the reason for which it gives no guarantee.
        source: where it was published or described.
        repaired: the scheme with the error taken out.
        claim: the event that is claimed for the broken scheme.
        repaired_claim: for the repaired one.
        neighbours: pairs of data sets that the claim is for.
    """

    name: str
    how: str
    source: str
    broken: Release
    repaired: Release
    claim: Event
    repaired_claim: Event
    neighbours: Pairs = NEIGHBOURS


@dataclass(frozen=True)
class Tried:
    """The outcome for one scheme, or for its repair where it is not `broken`."""

    scheme: Scheme
    broken: bool
    found: Found

    @property
    def name(self) -> str:
        """Name of the scheme; a repair's ends in ", repaired"."""
        return self.scheme.name if self.broken else f"{self.scheme.name}, repaired"

    def to_json(self) -> dict[str, object]:
        """Returns the outcome as one JSON object."""
        found = self.found
        return {
            "name": self.name, "broken": self.broken, "caught": found.caught, "claimed": found.claimed,
            "delta": found.delta, "lower_bound": found.epsilon, "ceiling": found.ceiling, "method": "Clopper-Pearson",
            "statistic": found.statistic, "pair": found.pair, "counted": found.counted,
            "false_positives": found.false_positives, "false_negatives": found.false_negatives,
            "confidence": found.confidence, "how": self.scheme.how, "source": self.scheme.source,
        }  # fmt: skip


def try_all(seed: int = 0, runs: int = RUNS) -> list[Tried]:
    """Returns the outcome of every scheme and its repair, with fixed seeds."""
    return [
        try_one(scheme, seed + number, runs, broken=is_broken)
        for number, scheme in enumerate(SCHEMES)
        for is_broken in (True, False)
    ]


def try_one(scheme: Scheme, seed: int, runs: int, *, broken: bool) -> Tried:
    """Returns the outcome of one scheme, or of its repair."""
    release, claim = (scheme.broken, scheme.claim) if broken else (scheme.repaired, scheme.repaired_claim)
    return Tried(
        scheme, broken,
        audit_scheme(release, scheme.neighbours, Claim.of(claim), runs=runs, seed=2 * seed + broken, alpha=ALPHA),
    )  # fmt: skip


def _total(gradients: Iterable[Float64]) -> Float64:
    """Returns the sum of gradients, each clipped to 1."""
    clipped = (gradient * min(1.0, 1.0 / max(float(np.linalg.norm(gradient)), 1e-300)) for gradient in gradients)
    return np.asarray(sum(clipped, np.zeros(WIDTH)))


def _means(dataset: Dataset) -> list[Float64]:
    return [patient.mean(axis=0) for patient in dataset]


def _sum(dataset: Dataset) -> Float64:
    """Returns the sum of the patients' mean gradients, each clipped."""
    return _total(_means(dataset))


def _unclipped(dataset: Dataset) -> Float64:
    return np.asarray(sum(_means(dataset), np.zeros(WIDTH)))


def _per_picture(dataset: Dataset) -> Float64:
    """Every picture's gradient clipped and added, as if it were a patient."""
    return _total(gradient for patient in dataset for gradient in patient)


def _clip_of_mean(dataset: Dataset) -> Float64:
    """The clipped mean over patients, for noise that hides a clipped patient."""
    return len(OTHERS) * _total([_unclipped(dataset) / max(1, len(dataset))])


def _centred(dataset: Dataset) -> Float64:
    """Gradients less their mean over the batch before the clip, as batch statistics do."""
    middle = _unclipped(dataset) / max(1, len(dataset))
    return _total(gradient - middle for gradient in _means(dataset))


def _by_position(dataset: Dataset) -> Float64:
    """Half of the patients, by position in a permuted list."""
    order = np.random.default_rng(11).permutation(len(dataset))
    return _sum(tuple(dataset[k] for k in order[: len(dataset) // 2]))


def _by_own_name(dataset: Dataset) -> Float64:
    """About half of the patients, each by a draw of the own name."""
    return _sum(tuple(patient for patient in dataset if float(patient[0, 0]) > 0))


def _noise(seed: int, *shape: int, z: float = 1.0) -> Float64:
    return np.asarray(z * np.random.default_rng(seed).normal(size=shape))


def _noised(value: Callable[[Dataset], Float64] = _sum, *, z: float = 1.0, rounds: int = 1) -> Release:
    """Returns a scheme that releases a value with normal noise in each of some rounds."""
    return lambda dataset, seed: value(dataset) + _noise(seed, rounds, WIDTH, z=z)


def _seeded(of: Callable[[int], int]) -> Release:
    """Returns a scheme whose noise is drawn from a function of the secrets."""
    return lambda dataset, seed: _sum(dataset) + _noise(of(seed), WIDTH)


def _bypass(dataset: Dataset, seed: int) -> Float64:
    """The first number is of a layer outside the wrapper, and is released as it is."""
    noise = _noise(seed, WIDTH)
    noise[0] = 0.0
    return _sum(dataset) + noise


def _two(dataset: Dataset, seed: int, *, second: float, reused: bool, z: float = 1.0) -> Float64:
    """Two answers with noise for each of them, the second `second` times the first."""
    noise, total = _noise(seed, 2, WIDTH, z=z), _sum(dataset)
    return np.stack([total + noise[0], second * total + noise[0 if reused else 1]])


def _sampled(dataset: Dataset, seed: int, *, noised: bool) -> Float64:
    """A Poisson sample; if it is empty nothing is noised, and exact zeros are released."""
    generator = np.random.default_rng(seed)
    drawn = tuple(patient for patient in dataset if generator.random() < 0.5)
    return _sum(drawn) + 2.0 * generator.normal(size=WIDTH) if noised or drawn else np.zeros(WIDTH)


def _divided(dataset: Dataset, seed: int, *, by: int | None) -> Float64:
    """A noised sum with numbers that no patient has, divided by the number of patients, or by a public constant."""
    noise = _noise(seed, WIDTH + _UNUSED)
    noise[:WIDTH] += _sum(dataset)
    return noise / (max(1, len(dataset)) if by is None else by)


def _pixels(dataset: Dataset, seed: int, *, scalar: bool) -> Float64:
    """Pictures of sixteen pixels in [-1/2, 1/2] with Laplace noise for their L1 sensitivity, at epsilon 1."""
    pictures = np.concatenate(dataset).clip(-0.5, 0.5)
    noise = np.random.default_rng(seed).laplace(scale=WIDTH, size=(len(pictures), 1 if scalar else WIDTH))
    return pictures + noise


_MANY = np.random.default_rng(8).normal(size=(61, 1, WIDTH))
_LONG_LIST: Pairs = ((tuple(_MANY[:60]), (*_MANY[:60], np.abs(_MANY[60]))),)


def _epoch(dataset: Dataset, seed: int, *, shuffled: bool, z: float = 0.15) -> Float64:
    """Sums of eight batches: every patient in exactly one of them, or in each with probability 1/8."""
    generator = np.random.default_rng(seed)
    sums = z * generator.normal(size=(_ROUNDS, WIDTH))
    for gradient in _means(dataset):
        taken = (
            [generator.integers(_ROUNDS)] if shuffled else np.flatnonzero(generator.random(_ROUNDS) < 1 / _ROUNDS)
        )
        sums[taken] += _total([gradient])
    return sums


def _clear_at_times(dataset: Dataset, seed: int) -> Float64:
    """One release in ten has no noise."""
    noise = _noise(seed, WIDTH + 1)
    return _sum(dataset) + (0.0 if abs(noise[-1]) > 1.645 else 2.0) * noise[:-1]


def _laplace(dataset: Dataset, seed: int, *, scale: float) -> Float64:
    return _sum(dataset) + np.random.default_rng(seed).laplace(scale=scale, size=WIDTH)


_ONE, _HALF, _PURE = GaussianEvent(1.0), GaussianEvent(2.0), PureEvent(3.0)
_SAMPLED = PoissonSampledEvent(0.5, GaussianEvent(2.0))
_EPOCH = SelfComposedEvent(PoissonSampledEvent(1 / _ROUNDS, GaussianEvent(0.15)), _ROUNDS)
_PICTURES: Pairs = (((np.zeros((1, WIDTH)),), (FIRST[None],)),)

SCHEMES: tuple[Scheme, ...] = (
    Scheme(
        "one scalar Laplace draw an image",
        "all pixels have the same noise, so that differences of pixels have none",
        "published local-privacy code for medical pictures, which adds one draw to a whole array",
        partial(_pixels, scalar=True), partial(_pixels, scalar=False), PureEvent(1.0), PureEvent(1.0), _PICTURES,
    ),
    Scheme(
        "weight noise without a bound on the weights",
        "nothing bounds how far one patient moves the weights, so that no noise is enough",
        "published federated training with Gaussian noise on the weights and no clip",
        _noised(_unclipped), _noised(), _ONE, _ONE,
    ),
    Scheme(
        "gradients that bypass the noise",
        "parameters outside the private optimizer are released as they are",
        "custom layers and buffers that a privacy wrapper has no hook for",
        _bypass, _noised(), _ONE, _ONE,
    ),
    Scheme(
        "the same noise at every hospital",
        "hospitals with one seed draw one noise, which the difference of two answers takes off",
        "published simulations that seed every client alike",
        partial(_two, second=0.0, reused=True), partial(_two, second=0.0, reused=False), _ONE, _ONE,
    ),
    Scheme(
        "noise shares short against an insider",
        "a hospital that takes its own share off the sum is left with less noise than was promised",
        "Truex et al. 2019, https://arxiv.org/abs/1812.03224, sizes shares for colluders; shares of sigma^2 / n do not",
        _noised(z=math.sqrt(1 / 2)), _noised(), _ONE, _ONE,
    ),
    Scheme(
        "noise missing on an empty sample",
        "an empty sample is released as exact zeros, which shows that the patient was not drawn",
        "early returns in training loops",
        partial(_sampled, noised=False), partial(_sampled, noised=True), _SAMPLED, _SAMPLED,
    ),
    Scheme(
        "division by the realised batch",
        "the spread of the noise shows the number of patients in the batch",
        "pitfall of private training loops that average over the drawn batch",
        partial(_divided, by=None), partial(_divided, by=len(OTHERS)), _ONE, _ONE,
    ),
    Scheme(
        "an accountant reset every round",
        "each round is charged as if it were the only one",
        "published per-round budgets of federated training",
        _noised(z=2.0, rounds=_ROUNDS), _noised(z=2.0, rounds=_ROUNDS), _HALF, SelfComposedEvent(_HALF, _ROUNDS),
    ),
    Scheme(
        "a division that moves other patients",
        "leaving one patient out of a permuted list moves others into and out of training",
        "seeded splits by permutation, https://arxiv.org/abs/2006.07709 for the attack",
        _noised(_by_position), _noised(_by_own_name), _ONE, _ONE, _LONG_LIST,
    ),
    Scheme(
        "noise divided by the number of hospitals",
        "n shares of std z / n add up to z / sqrt(n)",
        "a common error: variances add up, standard deviations do not",
        _noised(z=math.sqrt(4) / 4), _noised(), _ONE, _ONE,
    ),
    Scheme(
        "a clip of each picture",
        "a patient with many pictures moves the sum by as many clips",
        "training loops whose unit is the picture, with a claim for the patient",
        _noised(_per_picture), _noised(), _ONE, _ONE,
    ),
    Scheme(
        "a clip of the mean over patients",
        "one long gradient turns the whole clipped mean",
        "loops that clip the gradient of a batch, as is usual without privacy",
        _noised(_clip_of_mean), _noised(), _ONE, _ONE,
    ),
    Scheme(
        "batch statistics before the clip",
        "one patient moves the gradients of all others, each by up to a clip",
        "batch normalisation, and centring over the batch",
        _noised(_centred), _noised(), _ONE, _ONE,
    ),
    Scheme(
        "noise reused between rounds",
        "the difference of two rounds has no noise",
        "seeds that do not depend on the round",
        partial(_two, second=-1.0, reused=True, z=2.0), partial(_two, second=-1.0, reused=False, z=2.0),
        SelfComposedEvent(_HALF, 2), SelfComposedEvent(_HALF, 2),
    ),
    Scheme(
        "noise from a public seed",
        "an attacker draws the same noise and takes it off",
        "seeded training for reproducibility, with a claim of privacy",
        _seeded(lambda _: 1), _noised(), _ONE, _ONE,
    ),
    Scheme(
        "noise from a small seed",
        "an attacker tries all seeds, and exact sums recur",
        "32-bit seeds and timestamps; here seven bits",
        _seeded(lambda seed: seed % 128), _noised(), _ONE, _ONE,
    ),
    Scheme(
        "Poisson samples accounted, shuffled batches drawn",
        "each patient takes part in one round for certain, and not in none with probability 1/e",
        "Chua et al. 2024, https://arxiv.org/abs/2403.17673",
        partial(_epoch, shuffled=True), partial(_epoch, shuffled=False), _EPOCH, _EPOCH,
    ),
    Scheme(
        "answers that failed after they left",
        "a repeated answer has fresh noise and is charged once",
        "charges that are written when a round ends",
        _noised(z=2.0, rounds=4), _noised(z=2.0), _HALF, _HALF,
    ),
    Scheme(
        "a removal's epsilon for a replaced patient",
        "replacing one patient moves the sum by two clips",
        "accountants used for another neighbouring relation than their own",
        _noised(), _noised(), _ONE, GaussianEvent(0.5), REPLACED,
    ),
    Scheme(
        "a delta that is larger than claimed",
        "now and then a release has no noise at all",
        "a fallback on failure, such as a timeout of the sampler",
        _clear_at_times, _noised(z=2.0), _HALF, _HALF,
    ),
    Scheme(
        "Laplace noise for an L2 clip",
        "a gradient with an L2 norm of 1 has an L1 norm of up to the root of its length",
        "libraries in which the clip and the noise are set apart from each other",
        partial(_laplace, scale=1 / 3), partial(_laplace, scale=math.sqrt(WIDTH) / 3), _PURE, _PURE,
    ),
)  # fmt: skip
