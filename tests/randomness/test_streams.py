import numpy as np
import pytest
from scipy import stats
from tests.names import names

from wardround.randomness import Randomness, Stream, poisson_sample


def stream(*name, seed=1):
    return Randomness(seed, "study").stream(*name)


def normal(source, count):
    values = np.zeros(count)
    source.add_normal(values, 1.0)
    return values


def test_normal_variates_pass_where_two_thirds_and_three_halves_of_their_deviation_fail():
    # Kolmogorov-Smirnov on 40,000 draws: the wrong deviations are rejected with certainty.
    draws = normal(stream("noise"), 40_000)
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert stats.kstest(draws * 2 / 3, "norm").pvalue < 1e-12
    assert stats.kstest(draws * 3 / 2, "norm").pvalue < 1e-12


def test_tails_of_the_normal_variates_are_as_heavy_as_they_should_be():
    draws = np.abs(normal(stream("tails"), 2_000_000))
    for deviations in (3.0, 4.0):
        expected = 2 * stats.norm.sf(deviations) * draws.size
        assert abs((draws > deviations).sum() - expected) < 5 * np.sqrt(expected)


def test_both_halves_of_box_and_muller_are_independent():
    draws = normal(stream("pairs"), 1 << 16)
    half = draws.size // 2
    assert abs(np.corrcoef(draws[:half], draws[half:])[0, 1]) < 5 / np.sqrt(half)
    assert abs(np.corrcoef(draws[:half] ** 2, draws[half:] ** 2)[0, 1]) < 5 / np.sqrt(half)


def single(count, *name):
    values = np.zeros(count, dtype=np.float32)
    stream(*name).add_normal(values, 2.0)
    return values.astype(np.float64) / 2.0


def test_single_precision_variates_are_normal_in_the_middle_and_in_the_tails():
    draws = single(2_000_000, "single")
    assert stats.kstest(draws[:40_000], "norm").pvalue > 1e-3
    assert stats.kstest(draws[:40_000] * 1.05, "norm").pvalue < 1e-3
    for deviations in (0.001, 0.01, 1.0, 3.0, 4.0):
        expected = 2 * stats.norm.sf(deviations) * draws.size
        spread = np.sqrt(expected * (1 - expected / draws.size))
        assert abs((np.abs(draws) > deviations).sum() - expected) < 5 * spread
    half = draws.size // 2
    assert abs(np.corrcoef(draws[:half], draws[half:])[0, 1]) < 5 / np.sqrt(half)


def test_the_tail_of_a_single_precision_radius_is_refined_without_a_seam(monkeypatch):
    """With the bound moved into the middle half of all radii are refined: the last bits move, and nothing else."""
    coarse = single(100_000, "tail")
    monkeypatch.setattr("wardround.randomness.streams._TAIL", np.uint32(1 << 31))
    refined = single(100_000, "tail")
    assert stats.kstest(refined, "norm").pvalue > 1e-3
    assert (coarse != refined).any()
    assert np.allclose(coarse, refined, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_does_not_depend_on_the_number_of_threads(monkeypatch, dtype):
    rows = []
    for processors in (1, 2, 4):
        monkeypatch.setattr("os.cpu_count", lambda processors=processors: processors)
        values = np.ones((1 << 21) + 3, dtype=dtype)
        stream("threads").add_normal(values, 0.5)
        rows.append(values)
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])
    assert np.unique(rows[0]).size > 0.9 * rows[0].size  # no piece repeats another


def test_an_odd_number_of_variates_is_drawn():
    assert normal(stream("odd"), 7).shape == (7,)
    assert normal(stream("none"), 0).shape == (0,)


def test_uniforms_are_uniform_and_never_zero_or_one():
    draws = stream("uniform").uniform(50_000)
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert draws.min() > 0
    assert draws.max() < 1


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_not_even_the_extreme_words_give_zero_or_one(word, monkeypatch):
    monkeypatch.setattr(Stream, "words", lambda self, count: np.full(count, word, dtype=np.uint64))
    [draw] = stream("uniform").uniform(1)
    assert 0 < draw < 1


def test_a_seeded_stream_is_a_function_of_its_whole_name():
    base = normal(stream("hospital-1", "noise", 3), 8)
    assert np.array_equal(base, normal(stream("hospital-1", "noise", 3), 8))
    others = [
        stream("hospital-2", "noise", 3),
        stream("hospital-1", "sampling", 3),
        stream("hospital-1", "noise", 4),
        stream("hospital-1", "noise", 3, seed=2),
        Randomness(1, "other study").stream("hospital-1", "noise", 3),
        stream("hospital-1noise", 3),
        stream("hospital-1", "noise3"),
    ]
    assert all(not np.any(base == normal(other, 8)) for other in others)


def test_an_unseeded_stream_is_never_the_same_twice():
    randomness = Randomness(None)
    assert randomness.is_private
    assert not Randomness(0).is_private
    assert not np.any(normal(randomness.stream("a"), 8) == normal(randomness.stream("a"), 8))


def test_a_failing_entropy_source_stops_everything(monkeypatch):
    def no_entropy(count):
        raise OSError("no entropy")

    monkeypatch.setattr("os.urandom", no_entropy)
    with pytest.raises(OSError, match="no entropy"):
        Randomness(None).stream("noise")


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        Stream(b"short")


@pytest.mark.parametrize("sampling_prob", [0.05, 0.5, 0.9])
def test_poisson_sampling_takes_each_patient_independently(sampling_prob):
    num_patients, draws = 200, 2_000
    source, everyone = stream("sampling"), names(num_patients)
    taken = np.zeros((draws, num_patients), dtype=bool)
    for row in taken:
        row[poisson_sample(everyone, sampling_prob, source)] = True
    sizes = taken.sum(axis=1)
    expected_variance = num_patients * sampling_prob * (1 - sampling_prob)
    assert abs(taken.mean() - sampling_prob) < 5 * np.sqrt(sampling_prob / taken.size)
    # A sample of fixed size would have no variance at all.
    assert 0.85 < sizes.var() / expected_variance < 1.15


def test_full_participation_takes_everyone_and_draws_nothing():
    source = stream("full")
    assert poisson_sample(names(5), 1.0, source).tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(normal(source, 4), normal(stream("full"), 4))


def test_no_patients_give_an_empty_sample():
    assert poisson_sample(names(0), 0.5, stream("empty")).size == 0
