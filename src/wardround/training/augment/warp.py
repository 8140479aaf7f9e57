"""Pictures flipped, cut and read between their pixels: a whole batch at once, each picture by its own numbers.

Everything is element by element, or within one picture: no bit of a result depends on the other pictures in the batch.
So sums of products are written out; a matrix product may choose its order by the batch's size.

A place in a picture is counted in pixels along each axis of space, 0 being the middle of the first pixel.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Float64 = npt.NDArray[np.float64]


def flipped(pictures: Tensor, chosen: npt.NDArray[np.bool_]) -> Tensor:
    """Returns pictures (picture, channel, *space) flipped along the axes chosen for each, (picture, axis of space)."""
    if not chosen.any():
        return pictures
    made = pictures.clone()
    for axis in range(chosen.shape[1]):
        rows = torch.from_numpy(np.flatnonzero(chosen[:, axis])).to(pictures.device)
        if len(rows):
            made[rows] = made[rows].flip(2 + axis)
    return made


def cut(pictures: Tensor, corners: npt.NDArray[np.int64], size: Sequence[int]) -> Tensor:
    """Returns the box of a size, (axis,), at each picture's own corner, (picture, axis)."""
    made = pictures.new_empty((*pictures.shape[:2], *size))
    for number, corner in enumerate(corners.tolist()):
        box = (slice(None), *(slice(a, a + n) for a, n in zip(corner, size, strict=True)))
        made[number] = pictures[number][box]
    return made


def pull_matrix(angles: Sequence[float], zoom: float, spacing: Sequence[float]) -> Float64:
    """Returns the inverse of turning and growing about the middle, in pixels: the place that a pixel is read from.

    Args:
        angles: radians; of a picture the one in its plane, of a volume those about x, y and z, in this order.
        zoom: factor by which things grow.
        spacing: between neighbours along each axis, in any one unit.

    Returns:
        (axis of space, axis of space).
    """
    if len(spacing) == 2:
        turn = _turn(angles[0], 2, (0, 1))
    else:
        turn = _turn(angles[2], 3, (0, 1)) @ _turn(angles[1], 3, (2, 0)) @ _turn(angles[0], 3, (1, 2))
    scale = np.asarray(spacing, dtype=np.float64)
    return np.asarray(turn.T * scale / scale[:, None] / zoom)


def warped(
    values: Tensor,
    matrices: Float64,
    shifts: Float64,
    corners: npt.NDArray[np.int64],
    size: Sequence[int],
    *,
    nearest: bool,
) -> Tensor:
    """Returns a box of every picture, turned, scaled and shifted, float32 (picture, channel, *size).

    Beyond the edge of a picture or mask, its nearest pixel is seen. Matrices are those of `pull_matrix`, (picture,
    axis, axis); shifts of things in pixels, and corners of the boxes, are (picture, axis). `nearest` takes the nearest
    pixel's value (masks) instead of weighing its neighbours'.
    """
    grid = _grid(tuple(values.shape[2:]), matrices, shifts, corners, size).to(values.device)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(values.to(torch.float32), grid, mode, padding_mode="border", align_corners=False)


def _grid(
    space: tuple[int, ...], matrices: Float64, shifts: Float64, corners: npt.NDArray[np.int64], size: Sequence[int]
) -> Tensor:
    """Returns the place where each pixel is read, -1 and 1 being the edges, (picture, *size, axis from the last)."""
    sides = np.asarray(space, dtype=np.float64)
    middle = (sides - 1) / 2
    # In pixels: source = matrix (target - shift - middle) + middle.
    target = corners - shifts - middle
    first = middle + sum(target[:, other, None] * matrices[:, :, other] for other in range(len(space)))
    start = torch.from_numpy(((2 * first + 1) / sides - 1).astype(np.float32))
    slope = torch.from_numpy((2 * matrices / sides[:, None]).astype(np.float32))
    grid = torch.empty((len(start), *size, len(space)))
    for axis in range(len(space)):
        place = start[:, axis].reshape(-1, *[1] * len(space))
        for other, length in enumerate(size):
            shape = [-1 if at == other else 1 for at in range(len(space))]
            steps = torch.arange(length, dtype=torch.float32).reshape(1, *shape)
            place = place + slope[:, axis, other].reshape(-1, *[1] * len(space)) * steps
        grid[..., len(space) - 1 - axis] = place
    return grid


def _turn(angle: float, num_axes: int, plane: tuple[int, int]) -> Float64:
    """Returns a rotation in a plane, its first axis towards its second."""
    turn = np.eye(num_axes)
    a, b = plane
    turn[a, a] = turn[b, b] = math.cos(angle)
    turn[b, a] = math.sin(angle)
    turn[a, b] = -turn[b, a]
    return turn
