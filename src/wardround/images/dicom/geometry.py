"""Slices in space: where each lies, in which order they make a volume, and the volume's axes.

DICOM measures in LPS (towards the patient's left, back and head); everything here is turned to RAS+ at once.
Source: DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.images.decode.raw import Affine
from wardround.images.dicom.values import first_with, grouped, is_grouped, num_frames, numbers, whole_number

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

UNPLACED = "slices without position, orientation or spacing"
MIXED = "slices of different sizes, spacings or orientations"
REPEATED = "two slices or more at one position"
UNEVEN = "a slice missing, or slices at uneven distances"
TILTED = "slices that shift sideways, as with a tilted gantry"

UNEVENNESS = 0.2
"""Largest distance of a slice from its place, as a share of the distance between slices.

Positions are often rounded to 0.1 mm; where a slice is missing, another lies a third away at least.
"""

_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_SAME_MM = 1e-3


class NoStack(DataError):
    """Slices that make no volume, for one of the reasons above."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"a series must be one stack of even slices, this one has {reason}. Leave it out, or export it again."
        )
        self.reason = reason


@dataclass(frozen=True)
class Plane:
    """One slice.

    Args:
        position: centre of the first pixel, mm in LPS.
        orientation: unit vectors along a row, then along a column.
        spacing: mm between rows, then between columns.
        size: rows, columns.
        thickness: mm to the next slice where the header says so; needed for a volume of one slice.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    size: tuple[int, int]
    thickness: float | None


@dataclass(frozen=True)
class Grid:
    """The arrangement of slices in a volume.

    Args:
        order: index of the slice at each place along the third axis.
        shape: columns, rows, slices.
        affine: from (column, row, slice) to mm in RAS+.
    """

    order: tuple[int, ...]
    shape: tuple[int, int, int]
    affine: Affine


def planes_of(found: "Dataset") -> tuple[Plane, ...]:
    """Returns every frame of a file as a slice.

    Raises:
        NoStack: a frame does not say its place.
    """
    if num_frames(found) != 1 and not is_grouped(found):
        raise NoStack(UNPLACED)
    size = (whole_number(found, "Rows", 0), whole_number(found, "Columns", 0))
    return tuple(_plane(groups, size) for groups in grouped(found))


def _plane(groups: "list[Dataset]", size: tuple[int, int]) -> Plane:
    def said(keyword: str, count: int) -> tuple[float, ...] | None:
        place = first_with(groups, keyword)
        return None if place is None else numbers(place, keyword, count)

    position, spacing = said("ImagePositionPatient", 3), said("PixelSpacing", 2)
    orientation = said("ImageOrientationPatient", 6)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        raise NoStack(UNPLACED)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(row @ column) > 1e-2:
        raise NoStack(UNPLACED)
    unit = (*(row / lengths[0]).tolist(), *(column / lengths[1]).tolist())
    thickness = said("SpacingBetweenSlices", 1) or said("SliceThickness", 1)
    return Plane(position, unit, spacing, size, abs(thickness[0]) if thickness else None)


def grid_of(planes: Sequence[Plane]) -> Grid:
    """Slices in the order of their positions along their common normal.

    Raises:
        NoStack: they make no volume: `MIXED`, `REPEATED`, `UNEVEN`, `TILTED` or `UNPLACED`.
    """
    first = planes[0]
    if not all(
        plane.size == first.size
        and np.allclose(plane.orientation, first.orientation, atol=1e-3)
        and np.allclose(plane.spacing, first.spacing, rtol=1e-3)
        for plane in planes
    ):
        raise NoStack(MIXED)
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    positions = np.array([plane.position for plane in planes])
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    step = _step(positions, normal, first)
    columns = np.stack([row * first.spacing[1], column * first.spacing[0], step], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = _TO_RAS @ columns
    affine[:3, 3] = _TO_RAS @ positions[0]
    shape = (first.size[1], first.size[0], len(planes))
    return Grid(tuple(order.tolist()), shape, affine)


def _step(positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], first: Plane) -> Any:
    """Returns the step from one slice to the next, mm."""
    if len(positions) == 1:
        if not first.thickness:
            raise NoStack(UNPLACED)
        return normal * first.thickness
    heights = positions @ normal
    if np.diff(heights).min() < _SAME_MM:
        raise NoStack(REPEATED)
    places = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - places).max() > UNEVENNESS * (places[1] - places[0]):
        raise NoStack(UNEVEN)
    sideways = positions - positions[0] - np.outer(heights - heights[0], normal)
    if np.linalg.norm(sideways, axis=1).max() > max(first.spacing):
        raise NoStack(TILTED)
    return (positions[-1] - positions[0]) / (len(positions) - 1)


def canonical(affine: Affine) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the axes of a grid in the order nearest to right, front, top; and those that run backwards."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order = max(permutations(range(3)), key=lambda p: sum(abs(cosines[k, p[k]]) for k in range(3)))
    return order, tuple(k for k in range(3) if cosines[k, order[k]] < 0)


def turned(volume: npt.NDArray[Any], affine: Affine) -> npt.NDArray[Any]:
    """Returns a volume (column, row, slice) with its axes nearest to RAS+."""
    order, backwards = canonical(affine)
    return np.ascontiguousarray(np.flip(volume.transpose(order), backwards))


def turned_back(volume: npt.NDArray[Any], affine: Affine) -> npt.NDArray[Any]:
    """Returns (column, row, slice) of a volume whose axes `turned` brought nearest to RAS+."""
    order, backwards = canonical(affine)
    return np.ascontiguousarray(np.flip(volume, backwards).transpose(np.argsort(order)))


def turned_affine(shape: tuple[int, int, int], affine: Affine) -> Affine:
    """Returns the affine of `turned`."""
    order, backwards = canonical(affine)
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, old in enumerate(order):
        turn[old, new] = -1 if new in backwards else 1
        if new in backwards:
            turn[old, 3] = shape[old] - 1
    made: Affine = affine @ turn
    return made
