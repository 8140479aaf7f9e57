"""A patient's number follows from key, purpose and own id alone, and is uniform; purposes and keys are independent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wardround.randomness import Places, Randomness, names_of

MANY = 20_000
PLACES = Places.of_seed(3)


def numbers(purpose, places=PLACES, ids=range(MANY)):
    return np.array([places.of(purpose, f"p{number}") for number in ids])


def uniform_p_values(found):
    """Of the distribution, of neighbouring ids' independence, and of the lowest bits that are used."""
    pairs = np.histogram2d(found[::2], found[1::2], bins=8, range=[[0, 1], [0, 1]])[0]
    low = (found * 2.0**53).astype(np.uint64) & np.uint64(15)
    return [
        stats.kstest(found, "uniform").pvalue,
        stats.chisquare(pairs.ravel()).pvalue,
        stats.chisquare(np.bincount(low.astype(int), minlength=16)).pvalue,
    ]


@pytest.mark.parametrize("purpose", ["test", "hospital"])
def test_numbers_are_uniform_and_independent_between_patients(purpose):
    assert min(uniform_p_values(numbers(purpose))) > 1e-4


@pytest.mark.parametrize(
    "broken",
    [
        lambda found: found**1.1,  # a few per cent too many below a threshold
        lambda found: np.sort(found.reshape(-1, 2), axis=1).ravel(),  # uniform, and neighbours know of each other
        lambda found: np.floor(found * 2.0**50) * 2.0**-50,  # bits that are never set
    ],
)
def test_the_check_of_uniformity_sees_what_is_not_uniform(broken):
    assert min(uniform_p_values(broken(numbers("test")))) < 1e-4


@pytest.mark.parametrize(
    "other",
    [
        lambda: numbers("validation"),
        lambda: numbers("test", Places.of_seed(4)),
        lambda: numbers("test", Places(bytes(32))),
        lambda: numbers("test", ids=range(MANY, 2 * MANY)),
    ],
)
def test_numbers_of_another_purpose_key_or_patient_are_independent(other):
    first, second = numbers("test"), other()
    table = np.histogram2d(first, second, bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-4
    same = np.histogram2d(first, first, bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(same.ravel()).pvalue < 1e-4


@given(st.tuples(st.text(max_size=4), st.text(max_size=4)), st.tuples(st.text(max_size=4), st.text(max_size=4)))
def test_two_pairs_of_purpose_and_id_never_have_one_number(first, second):
    assert (PLACES.of(*first) == PLACES.of(*second)) == (first == second)


def test_a_number_is_below_one_and_the_same_again():
    assert all(0 <= one < 1 for one in numbers("test", ids=range(100)))
    assert PLACES.of("test", "p7") == Places.of_seed(3).of("test", "p7")


def test_a_file_name_that_is_no_text_is_an_id():
    odd = b"scan-\xff.png".decode("utf-8", "surrogateescape")
    assert PLACES.of("test", odd) != PLACES.of("test", "scan-.png")
    assert names_of([odd]).shape == (1, 2)


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        Places(b"short")


@given(st.lists(st.text(max_size=5), unique=True, max_size=20))
def test_names_are_distinct_and_each_follows_from_its_own_id(ids):
    names = names_of(ids)
    assert names.shape == (len(ids), 2)
    assert len({tuple(name) for name in names.tolist()}) == len(ids)
    for number, one in enumerate(ids):
        assert np.array_equal(names_of([one])[0], names[number])


def test_a_draw_by_name_is_the_same_whoever_else_is_named_and_in_whatever_order():
    names = names_of(map(str, range(50)))

    def drawn(kept):
        stream = Randomness(5, "study").stream("sampling")
        stream.uniform_of(names[kept])
        return stream.uniform_of(names[kept])  # the second call as well, whatever the first one drew

    whole = drawn(np.arange(50))
    for kept in (np.arange(1, 50), np.arange(50)[::-1], np.array([17]), np.delete(np.arange(50), 30)):
        assert np.array_equal(drawn(kept), whole[kept])
    assert drawn(np.zeros(0, dtype=int)).size == 0


def test_draws_by_name_are_uniform_and_new_at_every_call_and_in_every_stream():
    names = names_of(map(str, range(MANY)))
    stream = Randomness(5, "study").stream("sampling")
    first, second = stream.uniform_of(names), stream.uniform_of(names)
    other = Randomness(5, "study").stream("another").uniform_of(names)
    assert stats.kstest(first, "uniform").pvalue > 1e-4
    for another in (second, other):
        table = np.histogram2d(first, another, bins=10, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(table.ravel()).pvalue > 1e-4
    assert not np.array_equal(stream.words(MANY), stream.words(MANY))
    assert not np.isin(first, stream.uniform(MANY)).any()
