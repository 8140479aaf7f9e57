"""Near-duplicates: one picture twice, encoded, scaled or lightened anew.

Each picture gets a signature: the discrete cosine transform of its small grey view between a lowest frequency,
below which all chests are alike, and a highest, above which encoding and scaling change it; frequencies are
weighted so that fine structure counts beside coarse. The product of two signatures of length one is their
correlation. All pairs are compared, block by block, and none is lost to a coarser hash: 6,000 pictures are 18
million products of a few hundred numbers. The likeliest pairs are looked at again, larger and laid over each other
as well as small shifts and scalings allow, and judged by `SAME`.

Exact copies are the reader's finding, and two pictures of one patient in one published part leak nothing:
neither is a lookalike here. Out of scope: mirrored or turned copies, and copies cropped by more than about two
hundredths of their side.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt

from wardround.images.patients import ImageRef, ImageSet
from wardround.images.quality.measure import SIDE, Measures, Views, small_views

LIKELY = 0.85
"""Least correlation of two signatures for a closer look. One in 6,000 pairs of different chests reaches it; of
copies cropped by 2 % of their side nearly all do, and of copies encoded, scaled or lightened anew all."""

SAME = (0.92, 0.96)
"""Least correlation of two pictures, once laid over each other, to be called copies: the first number, or in a set
whose pictures are all alike up to the second. Measured on chest X-rays: of different children at most 0.84, of copies
made with the changes above 0.95 and more."""

_FAR = 5.0
_ENOUGH = 50
_LESS = 0.07

MAX_CLOSE = 5000
"""Pairs that get a closer look, the likeliest first: about seven seconds."""

_LOWEST, _HIGHEST = 3.0, 16.0
_BLOCK = 1024
_CLOSE_SIDE = 64
_MARGIN = 4
_BLUR = 3.0
_SHIFTS = (-2.0, -1.0, 0.0, 1.0, 2.0)
_SCALES = (0.94, 0.97, 1.0, 1.03, 1.06)
_HALF = (-0.5, 0.0, 0.5)

_Pair = tuple[int, int]


@dataclass(frozen=True)
class Lookalike:
    """Two pictures that are nearly one.

    Args:
        rows: of `ImageSet.pixels`.
        correlation: of the fine structure of the two, laid over each other.
        is_copy: the two are more alike than different pictures of this set are; otherwise nearly so.
        crosses_parts: one is in the published test part, the other is not.
    """

    rows: _Pair
    correlation: float
    is_copy: bool
    crosses_parts: bool


def search_lookalikes(image_set: ImageSet, measures: Measures) -> tuple[tuple[Lookalike, ...], int]:
    """Returns the pairs of nearly identical pictures of two patients, or across the published parts.

    The most alike come first; beside them the number of likely pairs beyond `MAX_CLOSE`, which got no closer look.
    """
    usable = np.flatnonzero(~measures.is_constant)
    if len(usable) < 2:
        return (), 0
    images = [measures.images[place] for place in usable]
    people = [measures.patients[place].id for place in usable]
    content, person, part = (
        np.unique(names, return_inverse=True)[1]
        for names in ([image.digest for image in images], people, [_part(image) for image in images])
    )

    def matter(first: slice, second: slice) -> npt.NDArray[np.bool_]:
        """Compares two blocks, (first, second): different contents, of two patients or in two published parts."""
        differ = [names[first, None] != names[None, second] for names in (content, person, part)]
        matters: npt.NDArray[np.bool_] = differ[0] & (differ[1] | differ[2])
        return matters

    likely = _likely_pairs(signatures(measures.views[usable]), matter)
    seen = []
    for first, second in likely[:MAX_CLOSE]:
        one, other = images[first], images[second]
        views = small_views(image_set.pixels[[one.row, other.row]], _CLOSE_SIDE)
        seen.append((laid_over(*views), one, other))
    same = least_of_copies(np.array([correlation for correlation, _, _ in seen]))
    found = [
        Lookalike((one.row, other.row), correlation, correlation >= same, _part(one) != _part(other))
        for correlation, one, other in seen
        if correlation >= same - _LESS
    ]
    pairs = tuple(sorted(found, key=lambda pair: (-pair.correlation, pair.rows)))
    return pairs, max(0, len(likely) - MAX_CLOSE)


def least_of_copies(correlations: npt.NDArray[np.float64]) -> float:
    """Returns the least correlation of two pictures that are called copies, within the limits of `SAME`.

    In a set whose pictures are all alike, different pictures come near to what copies reach elsewhere; there copies
    must lie far above the median of all likely pairs (in robust standard deviations of Fisher's z).

    >>> least_of_copies(np.full(100, 0.6)), least_of_copies(np.full(100, 0.95)), least_of_copies(np.full(3, 0.95))
    (0.92, 0.95, 0.92)
    """
    if len(correlations) < _ENOUGH:
        return SAME[0]
    z = np.arctanh(np.clip(correlations, -0.999, 0.999))
    median = float(np.median(z))
    far = float(np.tanh(median + _FAR * 1.4826 * float(np.median(np.abs(z - median)))))
    return min(max(far, SAME[0]), SAME[1])


def signatures(views: Views) -> Views:
    """Returns one row of length one a picture: weighted frequencies of its views, float32 (picture, number).

    Brightness and contrast of the whole picture do not matter: the lowest frequencies are left out, and the length
    is one.

    The views are (picture, view, SIDE, SIDE).
    """
    from scipy.fft import dctn

    frequency = np.hypot(*np.mgrid[:SIDE, :SIDE])
    kept = (frequency >= _LOWEST) & (frequency <= _HIGHEST)
    numbers = dctn(views, axes=(2, 3), norm="ortho")[:, :, kept] * frequency[kept].astype(np.float32)
    rows: Views = numbers.reshape(len(views), -1).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + np.float32(1e-12)
    return rows


def _part(image: ImageRef) -> str:
    return "test" if image.split == "test" else "other"


def _likely_pairs(rows: Views, matter: Callable[[slice, slice], npt.NDArray[np.bool_]]) -> list[_Pair]:
    """Returns the pairs above `LIKELY` that matter, the likeliest first."""
    found: list[tuple[float, int, int]] = []
    for start, other in combinations_with_replacement(range(0, len(rows), _BLOCK), 2):
        first, second = slice(start, start + _BLOCK), slice(other, other + _BLOCK)
        products = rows[first] @ rows[second].T
        for i, j in np.argwhere((products >= LIKELY) & matter(first, second)):
            if start + i < other + j:
                found.append((-float(products[i, j]), start + int(i), other + int(j)))
    return [(i, j) for _, i, j in sorted(found)]


def laid_over(first: Views, second: Views) -> float:
    """Returns the highest correlation of the fine structure of two pictures over small shifts and scalings, -1..1.

    Fine structure: what is left after a wide blur is taken away; without it any two chests correlate.

    The views of each picture are (view, side, side).
    """
    inner = _fine(first)[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    fixed: Views = inner - inner.mean()
    fixed /= np.linalg.norm(fixed) + np.float32(1e-12)
    fine = _fine(second)
    coarse = np.stack([_likeness(fixed, fine, scale, _SHIFTS, _SHIFTS) for scale in _SCALES])
    scale, down, right = np.unravel_index(int(coarse.argmax()), coarse.shape)
    downs = tuple(_SHIFTS[down] + half for half in _HALF)
    rights = tuple(_SHIFTS[right] + half for half in _HALF)
    return float(_likeness(fixed, fine, _SCALES[scale], downs, rights).max())


def _likeness(
    fixed: Views, fine: Views, scale: float, downs: tuple[float, ...], rights: tuple[float, ...]
) -> npt.NDArray[np.float64]:
    """Returns the correlation of `fixed` with `fine` scaled and shifted in each way, (down, right)."""
    side, inner = fine.shape[-1], fixed.shape[-1]
    rows = np.concatenate([_moved(side, scale, down) for down in downs])
    columns = np.concatenate([_moved(side, scale, right) for right in rights])
    moved = (rows @ fine @ columns.T).reshape(len(fine), len(downs), inner, len(rights), inner)
    # `fixed` has mean zero, so the mean of the other matters for its length alone.
    products = np.einsum("vdyrx,vyx->dr", moved, fixed)
    squares = np.einsum("vdyrx,vdyrx->dr", moved, moved) - fixed.size * moved.mean(axis=(0, 2, 4)) ** 2
    likeness: npt.NDArray[np.float64] = products / np.sqrt(np.maximum(squares, 1e-12))
    return likeness


def _fine(views: Views) -> Views:
    from scipy.ndimage import gaussian_filter

    fine: Views = views - gaussian_filter(views, sigma=(0, _BLUR, _BLUR), mode="nearest")
    return fine


@functools.cache
def _moved(side: int, scale: float, shift: float) -> Views:
    """Returns the matrix that reads the inner values of a line, scaled about its middle and shifted, linearly."""
    middle = (side - 1) / 2
    wanted = (np.arange(_MARGIN, side - _MARGIN) - middle) * scale + middle + shift
    distance = np.abs(np.clip(wanted, 0, side - 1)[:, None] - np.arange(side))
    weights: Views = np.maximum(0, 1 - distance).astype(np.float32)
    return weights
