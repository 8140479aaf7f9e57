import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from torch.func import functional_call

from wardround.models.catalogue import build
from wardround.models.network import Standardise
from wardround.models.networks.voxel_features import (
    AFAR,
    CURVED,
    SLOPED,
    SMOOTHED,
    WIDTHS,
    StandardiseContent,
    VoxelFeatures,
    gaussian,
    num_features,
)
from wardround.per_patient import PatientBatch, SlowPath, clipped_sum
from wardround.training.losses import dice_ce

# Three different sides, so that a swapped axis cannot hide.
SIZES = [(12, 17), (12, 17, 9)]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def pictures(count=2, channels=1, size=(12, 17)):
    return torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8, generator=generator(3))


def named(encoded, dimensions, channels=1):
    """Features by name, each (picture, channel or place, *space)."""
    axes = range(dimensions)
    names = [f"band {k}" for k in range(len(WIDTHS) + 1)]
    for width in SLOPED:
        names += [*(f"slope {width:g} {a}" for a in axes), f"steepness {width:g}"]
    names += [f"curvature {width:g} {a}" for width in CURVED for a in axes]
    names += [f"{way} {width:g} {a}" for width, _ in AFAR for way in ("back", "ahead") for a in axes]
    parts = encoded.split([*[channels] * len(names), encoded.shape[1] - channels * len(names)], dim=1)
    return dict(zip([*names, "place"], parts, strict=True))


def gaussian_of(values, width, order=0, axis=0):
    return gaussian_filter1d(values, width, axis=axis, order=order, truncate=8, mode="reflect")


@pytest.mark.parametrize("side", [1, 2, 40])
def test_every_row_of_a_blur_sums_to_one_and_of_a_derivative_to_zero(side):
    for width in (1.0, 2.0, 8.0):
        for shift in (0.0, -5.0, 10.0):
            blur = gaussian(side, width, shift=shift)
            assert blur.min() >= 0
            torch.testing.assert_close(blur.sum(dim=1), torch.ones(side))
            for order in (1, 2):
                rows = gaussian(side, width, order=order, shift=shift)
                torch.testing.assert_close(rows.sum(dim=1), torch.zeros(side), rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_away_from_the_borders_a_filter_is_scipys(order):
    width, values = 2.0, np.random.default_rng(0).normal(size=60)
    ours = gaussian(60, width, order=order).numpy() @ values
    theirs = width**order * gaussian_of(values, width, order)
    # Sixteen pixels are eight widths; the moments of a sampled Gaussian are those of a Gaussian to 1e-6.
    np.testing.assert_allclose(ours[16:-16], theirs[16:-16], atol=1e-5)


def test_a_slope_is_that_of_a_ramp_and_a_curvature_that_of_a_parabola():
    place = torch.arange(80.0)
    torch.testing.assert_close((gaussian(80, 2.0, order=1) @ (3 * place))[20:-20], torch.full((40,), 6.0))
    # In units of the width: width**2 times the second derivative.
    parabola = 0.5 * (place - 40).square()
    torch.testing.assert_close(
        (gaussian(80, 2.0, order=2) @ parabola)[20:-20], torch.full((40,), 4.0), rtol=0, atol=1e-3
    )


def test_a_shifted_row_looks_away_and_from_outside_at_the_border():
    values = torch.arange(60.0)
    seen = gaussian(60, 2.0, shift=5.0) @ values
    torch.testing.assert_close(seen[20:40], values[20:40] + 5)
    assert 55 < seen[-1] < 59
    assert (gaussian(4, 1.0, shift=1000.0) @ values[:4]).tolist() == [3.0] * 4


@pytest.mark.parametrize("size", SIZES)
def test_every_feature_is_the_filter_that_its_place_in_the_row_names(size):
    given, dimensions = pictures(size=size), len(size)
    values = Standardise(each_channel=True)(given)
    found = named(VoxelFeatures()(given), dimensions)

    def filtered(width, special=None, **options):
        result = values.double()
        for axis, side in enumerate(size):
            matrix = gaussian(side, width, **(options if axis == special else {})).double()
            result = torch.movedim(torch.tensordot(matrix, result, dims=([1], [axis + 2])), 0, axis + 2)
        return result.float()

    def same(name, expected):
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4)

    same("band 0", values - filtered(1.0))
    same("band 2", 2 * (filtered(2.0) - filtered(4.0)))
    same("band 4", 2 * filtered(8.0))
    for axis in range(dimensions):
        same(f"slope 2 {axis}", 3 * filtered(2.0, axis, order=1))
        same(f"curvature 2 {axis}", 3 * filtered(2.0, axis, order=2))
        same(f"back 2 {axis}", filtered(2.0, axis, shift=-5.0))
        same(f"ahead 4 {axis}", filtered(4.0, axis, shift=10.0))
    steepness = torch.cat([found[f"slope 4 {axis}"] for axis in range(dimensions)], dim=1).norm(
        dim=1, keepdim=True
    )
    same("steepness 4", steepness - 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_the_place_is_of_pixel_centres_between_the_borders(size):
    dimensions = len(size)
    place = named(VoxelFeatures()(pictures(size=size)), dimensions)["place"]
    assert torch.equal(place[0], place[1])
    for axis, side in enumerate(size):
        along = place[0, axis].movedim(axis, 0)
        assert torch.equal(
            along.amin(dim=tuple(range(1, dimensions))), along.amax(dim=tuple(range(1, dimensions)))
        )
        ends = along.flatten(1)[[0, -1], 0].tolist()
        assert ends == pytest.approx([1 / side - 1, 1 - 1 / side])
        torch.testing.assert_close(place[0, dimensions + axis], 2 * (place[0, axis].square() - 1 / 3))
    torch.testing.assert_close(place[0, 2 * dimensions], 2 * place[0, 0] * place[0, 1])
    torch.testing.assert_close(place[0, -1], 2 * place[0, dimensions - 2] * place[0, dimensions - 1])


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("size", SIZES)
def test_channels_are_filtered_each_by_itself(size, channels):
    given = pictures(channels=channels, size=size)
    together = VoxelFeatures()(given)
    assert together.shape == (2, num_features(len(size), channels), *size)
    found = named(together, len(size), channels)
    alone = named(VoxelFeatures()(given[:, -1:]), len(size))
    for name, feature in alone.items():
        torch.testing.assert_close(found[name][:, -1:] if name != "place" else found[name], feature)


@pytest.mark.parametrize("size", SIZES)
def test_a_pictures_features_do_not_depend_on_the_other_pictures(size):
    given = pictures(3, size=size)
    alone = torch.cat([VoxelFeatures()(picture[None]) for picture in given])
    # float32; matrix products of other sizes are summed in another order.
    torch.testing.assert_close(VoxelFeatures()(given), alone, rtol=1e-5, atol=1e-5)


def test_a_constant_picture_is_its_place_alone():
    found = named(VoxelFeatures()(torch.full((1, 1, 12, 17), 90, dtype=torch.uint8)), 2)
    for name, feature in found.items():
        constant = -0.5 if name.startswith("steepness") else 0.0
        if name != "place":
            # The mean of equal float32 numbers is rounded: 6e-8, over a floor of 0.01, times the gain.
            torch.testing.assert_close(feature, torch.full_like(feature, constant), rtol=0, atol=1e-4)


def test_brightness_and_contrast_hardly_move_the_features():
    dark = pictures(1) // 4
    torch.testing.assert_close(VoxelFeatures()(dark), VoxelFeatures()(2 * dark + 60), rtol=0, atol=0.02)


def made(size, **options):
    given = {"channels": 1, "num_classes": 3, "init_generator": generator(0)} | options
    return build("voxel_features", size=size, **given)


def test_the_encoding_is_fixed_and_the_trained_part_small():
    flat, solid = made((12, 17)), made((12, 17, 9))
    for net in (flat, solid):
        assert net.encode.state_dict() == {}
        assert not list(net.encode.parameters())
        assert not list(net.encode.buffers())
        assert not list(net.trained.buffers())
    assert (flat.num_parameters, solid.num_parameters) == (29 * 16 + 16 + 16 * 3 + 3, 723)
    assert made((12, 17, 9), width=8).num_parameters == 363


@pytest.mark.parametrize("size", SIZES)
def test_the_clipped_sum_is_that_of_each_picture_by_itself(size):
    net = made(size)
    inputs = net.encode(pictures(4, size=size))
    masks = torch.randint(0, 3, (4, *size), generator=generator(1))
    parameters = dict(net.trained.named_parameters())
    gradients = []
    for k in range(4):
        loss = dice_ce(functional_call(net.trained, parameters, (inputs[k : k + 1],)), masks[k : k + 1])
        parts = torch.autograd.grad(loss.sum(), list(parameters.values()))
        gradients.append(torch.cat([part.reshape(-1) for part in parts]))
    rows = torch.stack(gradients)
    clipping_norm = float(rows.norm(dim=1).median())
    expected = (rows * (clipping_norm / rows.norm(dim=1, keepdim=True)).clamp(max=1)).sum(dim=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPath)
        ours = clipped_sum(
            net.trained, dice_ce, PatientBatch(inputs, masks, torch.arange(4), 4), clipping_norm=clipping_norm
        )
    # The clip aims 2**-12 of itself below the norm.
    torch.testing.assert_close(ours.vector, expected, rtol=1e-3, atol=1e-4)
    assert 0 < ours.within < 4


BOXED = VoxelFeatures(boxed=True)


def padded(given, before, after):
    """Pictures with zeros at both ends of every axis of space."""
    widths = [width for axis in reversed(range(given.ndim - 2)) for width in (before[axis], after[axis])]
    return torch.nn.functional.pad(given, widths)


@pytest.mark.parametrize("size", SIZES)
def test_padding_moves_neither_places_nor_standardised_values(size):
    given = pictures(channels=2, size=size).clamp(min=1)
    before, after = (3, 0, 5)[: len(size)], (1, 6, 2)[: len(size)]
    wide = padded(given, before, after)
    inner = (..., *(slice(start, start + side) for start, side in zip(before, size, strict=True)))
    channels = num_features(len(size), 2) - num_features(len(size), 0)
    places = BOXED(given)[:, channels:]
    torch.testing.assert_close(BOXED(wide)[:, channels:][inner], places)
    values = StandardiseContent()(given)
    torch.testing.assert_close(StandardiseContent()(wide)[inner], values, rtol=1e-5, atol=1e-5)
    moved = VoxelFeatures()(wide)[:, channels:][inner]
    assert not torch.allclose(moved, places, atol=0.05)


def test_content_that_fills_the_grid_has_the_places_of_the_grid():
    given = pictures(size=(12, 17, 9)).clamp(min=1)
    torch.testing.assert_close(BOXED(given), VoxelFeatures()(given), rtol=1e-4, atol=1e-4)


def test_an_empty_picture_has_the_grid_as_its_box():
    empty = torch.zeros(1, 1, 12, 17, dtype=torch.uint8)
    assert BOXED(empty).isfinite().all()
    torch.testing.assert_close(BOXED(empty)[:, -5:], VoxelFeatures()(pictures(1))[:, -5:])


def test_boxes_are_of_each_picture_alone_and_bounded():
    given = pictures(3, size=(12, 17, 9))
    given[1, :, :8] = 0
    given[2, :, :, 5:] = 0
    together = BOXED(given)
    alone = torch.cat([BOXED(picture[None]) for picture in given])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert together[:, -9:-6].abs().max() <= 1.5


# Answers of boxed features -------------------------------------------------------------------------------


def boxed(size):
    return build("boxed_voxel_features", size=size, channels=1, num_classes=3, init_generator=generator(1))


@pytest.mark.parametrize("size", SIZES)
def test_probabilities_are_blurred_in_evaluation_alone(size):
    network = boxed(size)
    with torch.no_grad():
        network.trained.get_parameter("classifier.weight").normal_(0, 3, generator=generator(2))
        scores, answers = (
            network.trained.train(mode)(network.encode(pictures(size=size))) for mode in (True, False)
        )
    before, found = scores.softmax(dim=1).numpy(), answers.exp().numpy()
    width = (0, 0, *(SMOOTHED,) * len(size))
    expected, inside = (
        gaussian_filter(values, width, mode="constant", truncate=20) for values in (before, np.ones_like(before))
    )
    np.testing.assert_allclose(found, expected / inside, rtol=1e-4, atol=1e-6)  # the share of the weights inside
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.abs(found - before).max() > 0.1
    assert torch.equal(network.trained[:3](network.encode(pictures(size=size))), scores)


def test_of_certain_scores_the_logarithms_are_finite():
    network = boxed((12, 17))
    with torch.no_grad():
        network.trained.get_parameter("classifier.bias").copy_(torch.tensor([500.0, 0.0, -500.0]))
        answers = network.trained.eval()(network.encode(pictures()))
    assert torch.isfinite(answers).all()
