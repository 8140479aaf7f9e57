"""One patient moves the whole-number sum by at most the bound, whatever their gradient; order changes no bit."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.cases import examples, family

from wardround.errors import PrivacyError
from wardround.secure_aggregation.integers.grid import _PIECE, LARGEST_BOUND, Grid

DIMENSION = 6
FLOATS = st.one_of(
    st.floats(width=32),
    st.floats(),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e38, -1e38, 1e200, 1e308, 5e-324, 1e-45, 0.5, -0.5, 0.0]),
)
GRADIENTS = st.lists(hnp.arrays(np.float64, DIMENSION, elements=FLOATS), max_size=5)
BOUNDS = st.one_of(st.integers(2, 40), st.sampled_from([1 << 20, 3_141_592, LARGEST_BOUND]))


def squared_norm(row):
    return sum(int(value) ** 2 for value in row)


@given(GRADIENTS, hnp.arrays(np.float64, DIMENSION, elements=FLOATS), BOUNDS, st.floats(1e-6, 1e6))
@example([], np.full(DIMENSION, 1e38), 1 << 20, 1.0)
@example([], np.full(DIMENSION, np.nan), 1 << 20, 1.0)
@example([], np.array([1e38, 0, 0, 0, 0, 0]), LARGEST_BOUND, 1.0)
@example([], np.full(DIMENSION, 0.4999), 3, 1.0)
@examples(150)
def test_neighbours_differ_by_at_most_the_bound_in_whole_numbers(others, patient, bound, clipping_norm):
    grid = Grid(clipping_norm, bound, DIMENSION)
    moved = grid.sum_of([*others, patient]) - grid.sum_of(others)
    assert squared_norm(moved) <= bound**2
    assert moved.dtype == np.int64
    np.testing.assert_array_equal(moved, grid.sum_of([patient]))


@pytest.mark.parametrize("gradient", ["equal", "one huge", "single 1e38", "normal", "half steps"])
def test_long_rows_keep_the_bound_and_use_it(gradient):
    for bound in (600, 1 << 20, LARGEST_BOUND):
        dimension = 100_000
        grid = Grid(1.0, bound, dimension)
        row = {
            "equal": np.full(dimension, 7.0, np.float32),
            "one huge": np.r_[1e30, np.ones(dimension - 1)].astype(np.float64),
            "single 1e38": np.full(dimension, 1e38, np.float32),
            "normal": np.random.default_rng(1).normal(size=dimension).astype(np.float32),
            "half steps": np.full(dimension, 1.5) / grid.steps_per_unit,
        }[gradient]
        norm = squared_norm(grid.sum_of([row]))
        assert norm <= bound**2
        if bound > 10 * np.sqrt(dimension):
            assert norm > 0.99 * (bound - np.sqrt(dimension) / 2) ** 2 or gradient == "half steps"


def test_a_row_over_the_bound_is_left_out_whole():
    # One step of tightening is not enough for a crafted row: the check is what counts, not the clip.
    def is_within(grid, *row):
        with np.errstate(over="ignore"):
            return grid._is_within(float(np.dot(row, row)))

    grid = Grid(1.0, 5, 4)
    assert is_within(grid, 3.0, 4.0, 0.0, 0.0)
    assert not is_within(grid, 3.0, 4.0, 1.0, 0.0)
    wide = Grid(1.0, LARGEST_BOUND, 4)
    assert is_within(wide, LARGEST_BOUND, 0.0, 0.0, 0.0)
    assert not is_within(wide, LARGEST_BOUND, 1.0, 0.0, 0.0)
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        assert not is_within(wide, bad, 0.0, 0.0, 0.0)


def test_the_check_decides_even_where_the_clip_was_wrong(monkeypatch):
    grid = Grid(1.0, 1 << 20, 4)
    monkeypatch.setattr(Grid, "steps_per_unit", float(1 << 21))
    assert not grid.sum_of([np.array([1.0, 0.0, 0.0, 0.0])]).any()
    assert grid.sum_of([np.array([0.5, 0.0, 0.0, 0.0])]).tolist() == [1 << 20, 0, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_patient_without_a_finite_gradient_is_left_out_and_moves_nobody_else(bad):
    grid = Grid(1.0, 1 << 20, 3)
    good = np.array([0.1, -0.2, 0.3])
    np.testing.assert_array_equal(grid.sum_of([np.array([bad, 0.0, 0.0]), good]), grid.sum_of([good]))


def test_rounding_is_to_the_nearest_step_of_the_clipped_gradient():
    grid = Grid(2.0, 1000, 4)
    steps = (1000 - 1) / 2.0
    small = np.array([0.5, -0.25, 0.125, 0.0])
    np.testing.assert_array_equal(grid.sum_of([small]), np.rint(small * steps))
    large = np.array([30.0, -40.0, 0.0, 0.0])  # norm 50, clipped to 2
    np.testing.assert_array_equal(grid.sum_of([large]), np.rint(large * (2 / 50) * steps))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_batches_and_memory_layout_do_not_change_a_bit(dtype):
    random = np.random.default_rng(3)
    gradients = (random.normal(size=(40, 10_001)) * random.lognormal(size=(40, 1), sigma=4)).astype(dtype)
    grid = Grid(1.0, 1 << 21, 10_001)
    whole = grid.sum_of(gradients)
    np.testing.assert_array_equal(whole, grid.sum_of(gradients[random.permutation(40)]))
    np.testing.assert_array_equal(whole, sum(grid.sum_of(gradients[k : k + 7]) for k in range(0, 40, 7)))
    np.testing.assert_array_equal(whole, grid.sum_of(np.asfortranarray(gradients)))
    np.testing.assert_array_equal(whole, grid.sum_of(np.repeat(gradients, 2, axis=1)[:, ::2]))


def rounded_in_one_piece(grid, gradient):
    """A row as its definition has it, on whole arrays, held against the bound in Python's whole numbers."""
    row = np.zeros(grid.dimension)
    row[: gradient.size] = gradient
    norm = np.sqrt(np.add.reduce(np.square(row)))
    if norm > grid.clipping_norm:
        row *= grid.clipping_norm / norm
    row = np.rint(row * grid.steps_per_unit).astype(np.int64)
    return row if squared_norm(row.tolist()) <= grid.bound**2 else 0 * row


DIMENSIONS = (1, 129, _PIECE - 1, _PIECE, _PIECE + 1, 2 * _PIECE + 9, 100_003)


@pytest.mark.parametrize("dimension", family(DIMENSIONS, keep=[1, _PIECE, 2 * _PIECE + 9]))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_piece_by_piece_a_row_is_bit_for_bit_what_it_is_in_one(dimension, dtype):
    random = np.random.default_rng(dimension)
    for bound in (int(np.sqrt(dimension)) + 1, 1 << 20, LARGEST_BOUND):
        grid = Grid(0.7, bound, dimension)
        for size in (1e-5, 1.0, 1e5):
            gradient = (size * random.normal(size=dimension) * random.lognormal(size=dimension)).astype(dtype)
            np.testing.assert_array_equal(grid.sum_of([gradient]), rounded_in_one_piece(grid, gradient))
            squares = grid._squares(gradient, 0, dimension, np.empty(_PIECE))
            assert squares == np.add.reduce(np.square(gradient.astype(np.float64)))


def test_coordinates_that_a_gradient_lacks_are_zeros():
    random = np.random.default_rng(4)
    grid = Grid(1.0, 1 << 20, 3 * _PIECE)
    for size in (0, 5, _PIECE, 2 * _PIECE + 77, 3 * _PIECE):
        gradient = random.normal(size=size).astype(np.float32)
        padded = np.pad(gradient, (0, 3 * _PIECE - size))
        np.testing.assert_array_equal(grid.sum_of([gradient]), grid.sum_of([padded]))
        assert not grid.sum_of([gradient])[size:].any()


def test_a_patient_left_out_in_the_middle_of_a_row_leaves_nothing_behind(monkeypatch):
    grid = Grid(1.0, 1 << 20, 2 * _PIECE)
    monkeypatch.setattr(Grid, "steps_per_unit", float(1 << 21))  # what is longer than a half fails the check
    first, second = np.zeros(2 * _PIECE), np.zeros(2 * _PIECE)
    first[0] = first[-1] = 0.4  # either piece is within the bound, both together are not
    second[1] = 0.25
    assert not grid.sum_of([first]).any()
    np.testing.assert_array_equal(grid.sum_of([first, second, first]), grid.sum_of([second]))
    assert grid.sum_of([second])[1] == 1 << 19


def test_an_empty_sample_is_zeros():
    total = Grid(1.0, 100, 5).sum_of([])
    assert total.dtype == np.int64
    assert total.tolist() == [0] * 5


def test_the_gradient_is_not_written_to():
    gradient = np.full(3, 5.0)
    Grid(1.0, 100, 3).sum_of([gradient])
    assert gradient.tolist() == [5.0] * 3


@pytest.mark.parametrize(
    ("clipping_norm", "bound", "dimension", "match"),
    [
        (0.0, 10, 4, "clipping_norm"),
        (np.inf, 10, 4, "clipping_norm"),
        (np.nan, 10, 4, "clipping_norm"),
        (1e-320, 1 << 20, 4, "clipping_norm"),
        (1.0, 0, 4, "between 1 and"),
        (1.0, LARGEST_BOUND + 1, 4, "between 1 and"),
        (1.0, 10, 400, "half the root"),
        (1.0, 10, 0, "dimension"),
    ],
)
def test_a_grid_that_cannot_keep_its_bound_is_refused(clipping_norm, bound, dimension, match):
    with pytest.raises(PrivacyError, match=match):
        Grid(clipping_norm, bound, dimension)


def test_a_gradient_of_another_shape_is_refused():
    for shape in (5, (1, 4), (4, 1), ()):
        with pytest.raises(PrivacyError, match="shape"):
            Grid(1.0, 10, 4).sum_of([np.zeros(shape)])
