"""Cover of a true region by a predicted one: their volumes, and the distances between their surfaces.

The surface of a region are its pixels or voxels that touch another one by a side, or the border of the picture.
Distances are Euclidean, between centres, in mm where a spacing is known.

Where a region is empty, conventions differ; these are ours.

| region | Dice | surface Dice | HD95 |
|---|---|---|---|
| empty in both | unknown | unknown | unknown |
| in the truth only (missed), or in the prediction only (imagined) | 0 | 0 | unknown |

Unknown is NaN here, and left out of means: nnU-Net does so with 0 / 0, for a 1 would pay for predicting nothing.
A distance to nothing has no number either (MONAI has infinity, some challenges the diagonal of the picture), so an
HD95 is a mean over fewer pictures, and has to be read beside the count of those missed and imagined.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wardround.training.metrics.bootstrap import Floats

Region = npt.NDArray[np.bool_]
"""True for each pixel or voxel that is part of it, (*space)."""

PERCENTILE = 95.0

_ROUNDING = 1 + 1e-9
"""A distance of exactly the tolerance counts as within it, whatever its last digit is."""


@dataclass(frozen=True)
class Overlap:
    """One region of one picture.

    Attributes:
        dice: Dice's coefficient; NaN when both are empty.
        hd95: the larger of the two 95th percentiles of distances from one surface to the other; NaN when either is
            empty.
        surface_dice: share of both surfaces that lies within the tolerance of the other one; NaN when both are
            empty. Nikolov et al. 2018, https://arxiv.org/abs/1809.04430, with surface voxels counted, not
            weighed by their area.
    """

    predicted: int
    true: int
    dice: float
    hd95: float
    surface_dice: float


def overlap(predicted: Region, true: Region, spacing: Sequence[float], tolerance: float) -> Overlap:
    """Returns volumes, overlap and distances of two regions on one grid, (*space); the tolerance is in its unit."""
    sizes = int(np.count_nonzero(predicted)), int(np.count_nonzero(true))
    if 0 in sizes:
        nothing = np.nan if sizes == (0, 0) else 0.0
        return Overlap(*sizes, dice=nothing, hd95=np.nan, surface_dice=nothing)
    from scipy import ndimage  # here: with spatial it takes half a second to import

    [box] = ndimage.find_objects((predicted | true).view(np.uint8))
    predicted, true = predicted[box], true[box]
    both = int(np.count_nonzero(predicted & true))
    there, back = _distances(_surface(predicted, spacing), _surface(true, spacing))
    within = np.count_nonzero(there <= tolerance * _ROUNDING) + np.count_nonzero(back <= tolerance * _ROUNDING)
    return Overlap(
        *sizes,
        dice=2 * both / sum(sizes),
        hd95=float(max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE))),
        surface_dice=float(within / (len(there) + len(back))),
    )


def _surface(region: Region, spacing: Sequence[float]) -> Floats:
    """Returns the centres of the surface pixels, (pixel, axis)."""
    from scipy import ndimage

    inner = ndimage.binary_erosion(region)
    centres: Floats = np.argwhere(region & ~inner).astype(np.float64) * np.asarray(spacing, dtype=np.float64)
    return centres


def _distances(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Returns the distances from each point of one surface to the nearest of the other, both ways.

    Trees of the surface points take time for surfaces, where a distance transform takes it for volumes: for organs
    half as much, for speckle twice as much.
    """
    from scipy import spatial

    there: Floats = spatial.cKDTree(second).query(first)[0]
    back: Floats = spatial.cKDTree(first).query(second)[0]
    return there, back
