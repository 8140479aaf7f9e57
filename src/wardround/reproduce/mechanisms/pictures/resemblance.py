"""Resemblance of a noised picture to its original: measures for the eye, and no guarantee.

A noised picture can look like nothing and be a recognisable person to a computer; the epsilon is what holds. These
numbers need the originals, so they are computed where those are, and released by nobody but a simulation.

Sources: Wang, Bovik, Sheikh and Simoncelli 2004, https://doi.org/10.1109/TIP.2003.819861, equation 13, with 7 x 7
uniform windows, sample covariances and whole windows only, the customary variant.
"""

import numpy as np
import numpy.typing as npt

from wardround.privacy.pictures import Values
from wardround.types import Pictures

_WINDOW = 7
_WHITE = 255.0
_STABILISERS = ((0.01 * _WHITE) ** 2, (0.03 * _WHITE) ** 2)
_SIDE = 16
"""Pictures are compared at about this size: noise averages out in blocks, and a person does not."""
_AT_ONCE = 256


def structural_similarity(first: Pictures, second: Pictures) -> Values:
    """Mean SSIM of each pair of pictures, (picture,): 1 where they are equal, about 0 where nothing is shared.

    Args:
        first: 8-bit pictures, (picture, channel, height, width); sides of at least 7. Channels are averaged.
        second: the same shape.
    """
    from scipy.ndimage import uniform_filter

    def mean(values: Values) -> Values:
        edge = _WINDOW // 2
        filtered = uniform_filter(values, size=(1, 1, _WINDOW, _WINDOW))
        return np.asarray(filtered[:, :, edge:-edge, edge:-edge], dtype=np.float64)

    found = []
    for at in range(0, len(first), _AT_ONCE):
        x, y = (each[at : at + _AT_ONCE].astype(np.float64) for each in (first, second))
        sample = _WINDOW**2 / (_WINDOW**2 - 1)
        mean_x, mean_y = mean(x), mean(y)
        var_x, var_y = (sample * (mean(v * v) - m * m) for v, m in ((x, mean_x), (y, mean_y)))
        covariance = sample * (mean(x * y) - mean_x * mean_y)
        c1, c2 = _STABILISERS
        above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        below = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
        found.append((above / below).mean(axis=(1, 2, 3)))
    return np.concatenate(found) if found else np.zeros(0)


def reidentified(originals: Values, released: Values) -> float:
    """Share of released rows whose nearest original, in L2 distance, is their own; 1 / rows is chance.

    A tie counts as found.

    Both are (picture, value); row k of the released became of original k.
    """
    squares = (originals**2).sum(axis=1)
    found = 0
    for at in range(0, len(released), _AT_ONCE):
        part = released[at : at + _AT_ONCE]
        distances = squares[None] - 2 * part @ originals.T  # but for a constant of each row
        own = distances[np.arange(len(part)), at + np.arange(len(part))]
        found += int((own <= distances.min(axis=1)).sum())
    return found / max(1, len(released))


def coarse(pictures: Pictures) -> Values:
    """Pictures brought down to about 16 x 16 block means, (picture, value)."""
    number, channels, height, width = pictures.shape
    down, across = max(1, height // _SIDE), max(1, width // _SIDE)
    cut: npt.NDArray[np.uint8] = pictures[:, :, : height // down * down, : width // across * across]
    blocks = cut.reshape(number, channels, height // down, down, width // across, across)
    return np.asarray(blocks.mean(axis=(3, 5), dtype=np.float64).reshape(number, -1))
