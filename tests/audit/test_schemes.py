"""Any scheme in Python: every broken one is caught by the generic attack, and every one that keeps its claim passes."""

import math
from functools import partial

import numpy as np
import pytest
from tests.cases import family
from tests.errors import raises_code

from wardround.accounting.events import (
    GaussianEvent,
    LaplaceEvent,
    PoissonSampledEvent,
    PureEvent,
    SelfComposedEvent,
)
from wardround.audit import NEIGHBOURS, REPLACED, Claim, audit_scheme
from wardround.audit.broken import SCHEMES, _epoch, try_all, try_one
from wardround.audit.schemes import WIDTH
from wardround.errors import PrivacyError

FEW, RUNS = 600, 6000
SMALL = ("one scalar Laplace draw an image", "the same noise at every hospital", "noise reused between rounds")
NAMES = {scheme.name: scheme for scheme in SCHEMES}
ONE = GaussianEvent(1.0)


def clipped(gradient, norm=1.0):
    return gradient * min(1.0, norm / max(np.linalg.norm(gradient), 1e-300))


def total(dataset, clip=clipped):
    return sum((clip(patient.mean(axis=0)) for patient in dataset), np.zeros(WIDTH))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape or WIDTH)


@pytest.mark.parametrize("name", family(list(NAMES), keep=SMALL))
def test_every_broken_scheme_is_caught(name):
    assert try_one(NAMES[name], 2026, FEW if name in SMALL else RUNS, broken=True).found.caught


@pytest.mark.parametrize("name", family(list(NAMES), keep=["one scalar Laplace draw an image"]))
def test_every_repair_passes_at_the_same_power(name):
    found = try_one(NAMES[name], 2026, FEW if name in SMALL else RUNS, broken=False).found
    assert not found.caught
    assert found.epsilon <= found.ceiling


@pytest.mark.thorough
def test_another_seed_comes_to_the_same():
    assert [one.name for one in try_all(100, RUNS) if one.found.caught != one.broken] == []


# Schemes that the statistics were not made for.


def noise_by_the_norm(dataset, seed):
    """The noise follows the length of the private sum."""
    return total(dataset) + max(0.1, np.linalg.norm(total(dataset))) * normal(seed)


def largest_without_noise(dataset, seed):
    """The number that is largest in truth is chosen in the clear, and its value is noised."""
    at = np.argmax(np.abs(total(dataset)))
    return np.eye(WIDTH)[at] * (total(dataset)[at] + normal(seed)[0])


def bounded_noise(dataset, seed):
    """Uniform noise of the right variance."""
    return total(dataset) + math.sqrt(3) * np.random.default_rng(seed).uniform(-1, 1, size=WIDTH)


def clip_of_each_number(dataset, seed):
    """Every number of a gradient cut at C, with noise for an L2 norm of C."""
    return total(dataset, lambda gradient: gradient.clip(-1, 1)) + normal(seed)


def noise_on_some(dataset, seed):
    """A number in four gets no noise, another one in each run."""
    generator = np.random.default_rng(seed)
    return total(dataset) + generator.normal(size=WIDTH) * (generator.random(WIDTH) < 0.75)


def count_in_the_clear(dataset, seed):
    """The sum is noised, and the number of patients is not."""
    return np.append(total(dataset) + normal(seed), len(dataset))


def rounded_first(dataset, seed):
    """The sum is rounded to a coarse grid after the noise, which was drawn from a coarse grid of its own."""
    return total(dataset) + np.round(normal(seed))


def patient_weighted_by_pictures(dataset, seed):
    """The clipped mean is multiplied by the patient's number of pictures."""
    return sum((len(patient) * clipped(patient.mean(axis=0)) for patient in dataset), np.zeros(WIDTH)) + normal(
        seed
    )


def average_of_repeats(dataset, seed):
    """Four answers to one question, charged as one."""
    return total(dataset) + normal(seed, 4, WIDTH).mean(axis=0)


def order_kept(dataset, seed):
    """Each patient's noised gradient, with places for five of them."""
    rows = np.zeros((5, WIDTH))
    for k, patient in enumerate(dataset):
        rows[k] = clipped(patient.mean(axis=0)) + normal([seed, k])
    return rows


BLIND = (
    noise_by_the_norm, largest_without_noise, bounded_noise, clip_of_each_number, noise_on_some, count_in_the_clear,
    rounded_first, patient_weighted_by_pictures, average_of_repeats, order_kept,
)  # fmt: skip


@pytest.mark.parametrize("release", family(list(BLIND), keep=[count_in_the_clear]))
def test_broken_schemes_that_it_was_not_made_for_are_caught(release):
    runs = FEW if release is count_in_the_clear else RUNS
    assert audit_scheme(release, NEIGHBOURS, Claim.of(ONE), runs=runs).caught


# Noise that is as large as is claimed, or larger, and tied to the data, to other noise, or to few seeds.


def long(dataset):
    return any(np.linalg.norm(patient.mean(axis=0)) > 1 for patient in dataset)


def larger_beside_the_patient(dataset, seed):
    """Four times the noise that the claim needs, and five times with the patient."""
    return total(dataset) + (5 if long(dataset) else 4) * normal(seed)


def other_shape_beside_the_patient(dataset, seed):
    """Noise of three times the claim's spread: normal without the patient, Laplace with."""
    generator = np.random.default_rng(seed)
    return total(dataset) + 3 * (
        generator.laplace(scale=0.5**0.5, size=WIDTH) if long(dataset) else generator.normal(size=WIDTH)
    )


def seeded_by_the_batch(dataset, seed):
    """The seed is the private sum of a secret sample."""
    generator = np.random.default_rng(seed)
    drawn = total([patient for patient in dataset if generator.random() < 0.5])
    return drawn + 3 * normal(np.abs(drawn * 2**20).astype(np.uint64))


def sixteen_bits(dataset, seed):
    """Twice the noise that the claim needs, from 65,536 seeds."""
    return total(dataset) + 2 * normal(seed % 2**16)


def noise_on_a_grid(dataset, seed):
    """Twice the noise that the claim needs, all of it multiples of 2^-20, which the data are not."""
    return total(dataset) + 2 * np.round(normal(seed) * 2**20) / 2**20


def noise_in_single_precision(dataset, seed):
    return total(dataset) + 2 * normal(seed).astype(np.float32)


def drawn_anew_within_bounds(dataset, seed):
    """Noise of 1.2 times the claim's spread, drawn anew until every number lies within 2.5 of it."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=WIDTH)
    while (far := np.abs(noise) > 2.5).any():
        noise = np.where(far, generator.normal(size=WIDTH), noise)
    return total(dataset) + 1.2 * noise


def nearer_of_two(dataset, seed):
    """Two answers are drawn, and the one that is nearer to the truth is sent."""
    return total(dataset) + min(normal(seed, 2, WIDTH), key=np.linalg.norm)


def rounds_joined_by_the_patient(dataset, seed):
    """Eight rounds, whose noise is correlated only with the patient."""
    noise = 3 * normal(seed, 8, WIDTH)
    if long(dataset):
        noise[1:] = 0.9 * noise[:-1] + math.sqrt(1 - 0.81) * noise[1:]
    return total(dataset) + noise


def one_sample_for_all_rounds(dataset, seed):
    """A sample that is drawn once, and sixteen rounds accounted as sampled anew."""
    generator = np.random.default_rng(seed)
    drawn = total([patient for patient in dataset if generator.random() < 0.25])
    return drawn + 2 * generator.normal(size=(16, WIDTH))


HALF, HALF_A_CLIP = GaussianEvent(2.0), GaussianEvent(0.5)
TIED = (
    (larger_beside_the_patient, ONE), (other_shape_beside_the_patient, ONE),
    (seeded_by_the_batch, PoissonSampledEvent(0.5, ONE)), (sixteen_bits, ONE), (noise_on_a_grid, ONE),
    (noise_in_single_precision, ONE), (drawn_anew_within_bounds, ONE), (nearer_of_two, ONE),
    (rounds_joined_by_the_patient, SelfComposedEvent(HALF, 8)),
    (one_sample_for_all_rounds, SelfComposedEvent(PoissonSampledEvent(0.25, HALF), 16)),
)  # fmt: skip


@pytest.mark.parametrize(("release", "event"), family(TIED, keep=[TIED[4]]))
def test_noise_that_is_tied_to_something_is_caught(release, event):
    few = {"runs": FEW} if release is noise_on_a_grid else {}
    assert audit_scheme(release, NEIGHBOURS, Claim.of(event), **few).caught


@pytest.mark.thorough
@pytest.mark.parametrize("shuffled", [True, False])
def test_batches_that_were_shuffled_are_caught_where_the_noise_is_half_a_clip(shuffled):
    epoch = partial(_epoch, shuffled=shuffled, z=0.5)
    event = SelfComposedEvent(PoissonSampledEvent(1 / 8, HALF_A_CLIP), 8)
    assert audit_scheme(epoch, NEIGHBOURS[2:3], Claim.of(event)).caught == shuffled


def clear_at_times(dataset, seed):
    """Three releases in a hundred have no noise."""
    generator = np.random.default_rng(seed)
    return total(dataset) + (generator.random() > 0.03) * generator.normal(size=WIDTH)


@pytest.mark.thorough
def test_noise_that_is_absent_in_three_runs_of_a_hundred_is_caught():
    assert audit_scheme(clear_at_times, NEIGHBOURS[2:3], Claim.of(ONE), runs=32_000).caught


def randomised_response(dataset, seed, epsilon=1.0):
    generator = np.random.default_rng(seed)
    is_in = len(dataset) > 0
    return [float(is_in if generator.random() < 1 / (1 + math.exp(-epsilon)) else not is_in)]


def noisy_largest(dataset, seed, epsilon=1.0):
    scores = epsilon / 2 * total(dataset) + np.random.default_rng(seed).gumbel(size=WIDTH)
    return [float(np.argmax(scores))]


def laplace(dataset, seed, scale=2.0):
    return total(dataset, lambda g: g / max(1.0, np.abs(g).sum())) + np.random.default_rng(seed).laplace(
        scale=scale, size=WIDTH
    )


def sampled(dataset, seed, q=0.25):
    generator = np.random.default_rng(seed)
    return total([patient for patient in dataset if generator.random() < q]) + generator.normal(size=WIDTH)


KEPT = (
    (randomised_response, PureEvent(1.0), NEIGHBOURS[2:3]), (noisy_largest, PureEvent(1.0), NEIGHBOURS),
    (laplace, LaplaceEvent(2.0), NEIGHBOURS), (sampled, PoissonSampledEvent(0.25, ONE), NEIGHBOURS),
    (lambda dataset, seed: total(dataset) + 2 * normal(seed), ONE, REPLACED),
    (lambda dataset, seed: np.zeros(3), PureEvent(1e-3), NEIGHBOURS),
    (lambda dataset, seed: [seed % 2], PureEvent(1e-3), NEIGHBOURS),
)  # fmt: skip


@pytest.mark.parametrize(("release", "event", "pairs"), family(list(KEPT)))
def test_schemes_that_keep_their_claim_pass(release, event, pairs):
    found = audit_scheme(release, pairs, Claim.of(event), runs=FEW if release is randomised_response else RUNS)
    assert not found.caught


@pytest.mark.thorough
def test_a_tight_claim_is_contradicted_no_more_often_than_alpha():
    """Randomised response attains its claim exactly; alpha is raised so that the rate can be seen."""
    caught = [
        audit_scheme(
            randomised_response, NEIGHBOURS[2:3], Claim.of(PureEvent(1.0)), runs=200, seed=seed, alpha=0.1
        ).caught
        for seed in range(100)
    ]
    assert sum(caught) <= 19  # Bin(100, 0.1) exceeds 19 with probability 0.002
    weaker = partial(randomised_response, epsilon=3.0)
    assert audit_scheme(weaker, NEIGHBOURS[2:3], Claim.of(PureEvent(1.0)), runs=200).caught


def test_a_claim_of_one_pair_is_held_against_the_trade_off_that_it_leaves():
    claim = Claim(((math.log(3), 0.0),))
    assert claim.least_error(0.0) == 1.0
    assert claim.least_error(0.25) == pytest.approx(0.25)  # the corner, 1 / (1 + e^epsilon)
    assert claim.least_error(1.0) == 0.0
    assert Claim.of(ONE).least_error(0.5) == pytest.approx(0.1587, abs=0.01)  # Phi(Phi^-1(1 - 0.5) - 1)


@pytest.mark.parametrize(
    ("release", "runs", "code"),
    [
        (lambda dataset, seed: [0.0] * len(dataset), FEW, "privacy-audit-release"),
        (lambda dataset, seed: [0.0] * (1 + seed % 2), FEW, "privacy-audit-release"),
        (lambda dataset, seed: [0.0], 29, "privacy-audit-runs"),
    ],
)
def test_what_cannot_be_audited_is_refused(release, runs, code):
    with raises_code(PrivacyError, code):
        audit_scheme(release, NEIGHBOURS, Claim.of(ONE), runs=runs)
