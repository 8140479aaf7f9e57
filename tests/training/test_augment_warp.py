"""Reading pictures between their pixels, held against MONAI and against whole turns."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.layers.spatial_transforms import AffineTransform
from monai.transforms.intensity.array import ScaleIntensity, ShiftIntensity

from wardround.training.augment.augmentation import BRIGHTNESS, CONTRAST, PUBLIC_GREY, Augmentation, draws_of
from wardround.training.augment.warp import pull_matrix, warped

angles = st.floats(-math.pi, math.pi)


def still(count, space):
    """No shift, no corner."""
    shifts: Any = np.zeros((count, len(space)))
    return shifts, shifts.astype(np.int64)


def noise(count, space, channels=2):
    values = np.random.default_rng(0).integers(0, 256, (count, channels, *space), dtype=np.uint8)
    return torch.from_numpy(values)


@settings(deadline=None)
@given(angles, angles, angles, st.floats(0.2, 5))
def test_a_pull_matrix_turns_and_shrinks_by_the_inverse(x, y, z, zoom):
    for num_axes in (2, 3):
        matrix = pull_matrix([x, y, z], zoom, [1.0] * num_axes) * zoom
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(num_axes), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)


@settings(deadline=None)
@given(angles, angles, angles, st.floats(0.3, 4), st.floats(0.3, 4), st.floats(0.3, 4))
def test_a_turn_keeps_distances_in_millimetres(x, y, z, a, b, c):
    spacing = np.array([a, b, c])
    step = np.array([1.0, -2.0, 3.0])
    moved = pull_matrix([x, y, z], 1.0, [a, b, c]) @ step
    assert np.linalg.norm(moved * spacing) == pytest.approx(np.linalg.norm(step * spacing))


@pytest.mark.parametrize(
    ("space", "mode"), [((9, 12), "bilinear"), ((6, 5, 8), "nearest"), ((6, 5, 8), "bilinear")]
)
def test_a_batch_is_warped_as_monai_warps_it(space, mode):
    count, generator = 5, np.random.default_rng(1)
    values = noise(count, space).float()
    matrices = np.stack(
        [pull_matrix(generator.uniform(-0.5, 0.5, 3).tolist(), 1.1, [1.0] * len(space)) for _ in range(count)]
    )
    shifts = generator.uniform(-1.5, 1.5, (count, len(space)))
    corners = np.zeros((count, len(space)), dtype=np.int64)
    ours = warped(values, matrices, shifts, corners, space, nearest=mode == "nearest")
    middle = (np.array(space) - 1) / 2
    theta = np.tile(np.eye(len(space) + 1), (count, 1, 1))
    theta[:, :-1, :-1] = matrices
    theta[:, :-1, -1] = middle - np.einsum("nij,nj->ni", matrices, shifts + middle)
    layer = AffineTransform(mode=mode, padding_mode="border", align_corners=False)
    theirs = layer(values, torch.from_numpy(theta).float())
    tolerance = 255 * 1e-4  # float32 places, 1e-6 of a side, times a slope of 255 a pixel
    assert ((ours - theirs).abs() <= tolerance).float().mean() > (0.99 if mode == "nearest" else 0.999)


def test_a_quarter_turn_is_the_arrays_own():
    values = noise(1, (7, 7))
    turn = pull_matrix([math.pi / 2], 1.0, [1.0, 1.0])[None]
    shifts, corners = still(1, (7, 7))
    made = warped(values, turn, shifts, corners, (7, 7), nearest=False).round()
    assert torch.equal(made, values.rot90(1, (2, 3)).float())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_whole_shift_moves_things_by_whole_voxels_towards_larger_places(axis):
    space = (6, 5, 8)
    values = noise(1, space)
    shifts, corners = still(1, space)
    shifts[0, axis] = 2
    made = warped(values, np.eye(3)[None], shifts, corners, space, nearest=False).round()
    expected = values.narrow(2 + axis, 0, 1).expand_as(values).float().clone()
    expected.narrow(2 + axis, 2, space[axis] - 2).copy_(values.narrow(2 + axis, 0, space[axis] - 2))
    assert torch.equal(made, expected)


def test_a_zoom_of_two_shows_the_middle_half():
    picture = torch.zeros((1, 1, 8, 8), dtype=torch.uint8)
    picture[..., 2:6, 2:6] = 200
    shifts, corners = still(1, (8, 8))
    matrix = pull_matrix([0.0], 2.0, [1, 1])[None]
    made = warped(picture, matrix, shifts, corners, (8, 8), nearest=True)
    assert (made == 200).all()


@pytest.mark.parametrize("space", [(9, 12), (6, 5, 8)])
def test_a_box_is_a_piece_of_the_whole(space):
    values = noise(3, space)
    matrices = np.stack([pull_matrix([0.1 * k, 0.2, -0.1], 1.05, [1.0] * len(space)) for k in range(3)])
    shifts, zero = np.full((3, len(space)), 0.7), np.zeros((3, len(space)), dtype=np.int64)
    whole = warped(values, matrices, shifts, zero, space, nearest=False)
    corners = zero + np.arange(3)[:, None] % 2
    boxes = warped(values, matrices, shifts, corners, [4] * len(space), nearest=False)
    for box, picture, corner in zip(boxes, whole, corners, strict=True):
        expected = picture[(slice(None), *(slice(c, c + 4) for c in corner))]
        torch.testing.assert_close(box, expected, rtol=0, atol=255 * 1e-4)  # float32 places


def test_light_is_monais_scaling_about_grey_and_shift():
    values = noise(4, (9, 12))
    made, _ = Augmentation(brightness=0.2, contrast=0.3)(values, None, keys=np.arange(4, dtype=np.uint64), seed=9)
    for row in range(4):
        drawn = draws_of(9, row)
        scaled = ScaleIntensity(minv=None, maxv=None, factor=float(drawn.between(CONTRAST, 0.3)))(
            values[row].float() - PUBLIC_GREY
        )
        expected = ShiftIntensity(offset=PUBLIC_GREY + 255 * float(drawn.between(BRIGHTNESS, 0.2)))(scaled)
        expected = torch.as_tensor(expected).clamp(0, 255)
        assert ((made[row].float() - expected).abs() <= 0.5 + 1e-3).all()  # rounding, and float32
