import importlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from wardround.training.metrics.surfaces import overlap

GRIDS = {"2-D": ((24, 31), (0.7, 1.3)), "3-D": ((14, 15, 16), (0.7, 1.3, 2.9))}


def monai() -> Any:
    return importlib.import_module("monai.metrics")


def blob(shape, seed):
    """A region with a rough surface; it may touch the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    return noise > np.quantile(noise, 0.8)


def box(shape, *slices):
    region = np.zeros(shape, dtype=bool)
    region[tuple(slice(*part) for part in slices)] = True
    return region


def as_batch(region):
    return torch.from_numpy(region)[None, None].float()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
# MONAI 1.6 warns of an argument that it passes to itself.
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_distances_and_overlap_are_monais(grid, tolerance):
    for seed in range(5):
        shape, spacing = GRIDS[grid]
        predicted, true = blob(shape, seed), blob(shape, seed + 100)
        ours = overlap(predicted, true, spacing, tolerance)
        metrics, pair = monai(), (as_batch(predicted), as_batch(true))
        hd95 = metrics.compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
        nsd = metrics.compute_surface_dice(*pair, [tolerance], include_background=True, spacing=spacing)
        assert ours.hd95 == pytest.approx(float(hd95), rel=1e-6)
        assert ours.surface_dice == pytest.approx(float(nsd), rel=1e-6)
        assert ours.dice == pytest.approx(float(metrics.compute_dice(*pair, include_background=True)), rel=1e-6)
        assert (ours.predicted, ours.true) == (predicted.sum(), true.sum())


@given(st.integers(0, 10_000))
def test_prediction_and_truth_may_change_places(seed):
    first, second = blob((9, 10), seed), blob((9, 10), seed + 1)
    there, back = overlap(first, second, (1.0, 2.0), 1.0), overlap(second, first, (1.0, 2.0), 1.0)
    assert there.dice == back.dice
    assert there.hd95 == back.hd95
    assert there.surface_dice == pytest.approx(back.surface_dice)
    assert (there.predicted, there.true) == (back.true, back.predicted)


@pytest.mark.parametrize("axis", range(3))
def test_a_box_that_is_moved_lies_as_many_mm_away_as_its_axis_says(axis):
    spacing = (0.5, 1.5, 4.0)
    slices = [(4, 9), (4, 10), (4, 11)]
    moved = list(slices)
    moved[axis] = (slices[axis][0] + 3, slices[axis][1] + 3)
    ours = overlap(box((20, 20, 20), *moved), box((20, 20, 20), *slices), spacing, 0.0)
    assert ours.hd95 == pytest.approx(3 * spacing[axis])


def test_the_same_region_is_perfect():
    region = blob((12, 13, 14), 3)
    ours = overlap(region, region, (1.0, 1.0, 1.0), 0.0)
    assert (ours.dice, ours.hd95, ours.surface_dice) == (1.0, 0.0, 1.0)


def test_a_distance_of_exactly_the_tolerance_is_within_it_whatever_its_last_digit():
    above = 0
    for step in range(5, 60):
        # Five rows of 0.2 mm apart, beside a row that both share; 1.4 - 0.4 is a little more than 1.
        first, second = (
            box((80, 3), (0, 1), (0, 3)) | box((80, 3), (at, at + 1), (0, 3)) for at in (step, step + 5)
        )
        above += 0.2 * (step + 5) - 0.2 * step > 1
        assert overlap(first, second, (0.2, 1.0), 1.0).surface_dice == 1.0
        assert overlap(first, second, (0.2, 1.0), 0.999).surface_dice == 0.5
    assert above


def test_a_region_that_is_empty_in_both_has_no_number():
    nothing = np.zeros((4, 5), dtype=bool)
    ours = overlap(nothing, nothing, (1.0, 1.0), 1.0)
    assert np.isnan([ours.dice, ours.hd95, ours.surface_dice]).all()


@pytest.mark.parametrize("missed", [True, False])
def test_a_region_missed_or_imagined_has_dice_zero_and_no_distance(missed):
    nothing, something = np.zeros((4, 5), dtype=bool), box((4, 5), (1, 3), (1, 3))
    predicted, true = (nothing, something) if missed else (something, nothing)
    ours = overlap(predicted, true, (1.0, 1.0), 1.0)
    assert (ours.dice, ours.surface_dice) == (0.0, 0.0)
    assert np.isnan(ours.hd95)
