"""Pictures unlike the others: constant, too dark or bright, inverted, of another kind, size, spacing or depth.

"Unlike" is measured against the set itself by the median and the median distance from it, which a few odd pictures
cannot move. None of these figures normalises anything: they are for the hospital's own screen.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wardround.boundary.text import counted
from wardround.images.quality.facts import FileFacts
from wardround.images.quality.measure import COLOURED, Floats, Measures
from wardround.images.quality.notice import Level, Notice

FAR = 6.0
"""Robust standard deviations from the median beyond which a picture is called unlike the others."""

LEAST_PICTURES = 8
"""Fewer pictures have no "others" to be compared with."""

_FLOOR = 0.02
"""No set counts as so alike that a fiftieth of full brightness is far away."""

BITS = (10, 12, 14)
"""Depths of detectors whose values lie in files of 16 bits."""

DARK_SHARE = 0.9
"""Part of the pictures that are this dark at least: a few have lettering in white."""

_RARE = 0.2
_TINY = 0.05

_Flags = npt.NDArray[np.bool_]
_Fact = TypeVar("_Fact")


def outlier_notices(measures: Measures, facts: FileFacts, grid: tuple[int, ...]) -> Iterator[Notice]:
    """Yields the oddities of one picture alone, and of one against the others.

    `grid` is the size that pictures were brought to.
    """
    constant = measures.is_constant
    which = "all of the set are almost constant" if constant.all() else "almost constant"
    yield from _pictures(
        measures, constant, "constant", f"{which}, nine tenths are one grey",
        "nothing can be learnt from them but that they are empty, which may well tell the label.",
        "look at the originals, and leave them out if they show nothing.",
    )  # fmt: skip
    if len(measures.images) >= LEAST_PICTURES:
        if not constant.all():
            yield from _exposure(measures, ~constant)
            yield from _layout(measures, ~constant)
        yield from _colour(measures)
    if (coloured := measures.colour > COLOURED).mean() > _RARE:
        yield from _pictures(
            measures, coloured, "in_colour", "in colour",
            "read as grey, which is the default of most layouts, they lose what their colours tell.",
            'set `[data] colour = "rgb"` if colours matter.',
        )  # fmt: skip
    yield from _sizes(measures, facts.sizes, grid)
    yield from _spacings(measures, facts.spacings_mm)


def robust_z(values: Floats, floor: float) -> Floats:
    """Returns the distance from the median in robust standard deviations (1.4826 times the median distance).

    >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 50.0]), floor=0.1).round(1).tolist()
    [-1.3, -0.7, 0.0, 0.7, 31.7]
    """
    distance = values - np.median(values)
    z: Floats = distance / max(1.4826 * float(np.median(np.abs(distance))), floor)
    return z


def _exposure(measures: Measures, usable: _Flags) -> Iterator[Notice]:
    far = np.zeros(len(usable), dtype=bool)
    for column in (0, 1):
        far[usable] |= np.abs(robust_z(measures.six[usable, column], _FLOOR)) > FAR
    yield from _pictures(
        measures, far, "exposure", "far darker, brighter, flatter or harsher than the others",
        "another device, a wrong window or a picture of something else.",
        "look at them; a whole group from one source is a shortcut if it goes with one class.",
    )  # fmt: skip


def _layout(measures: Measures, usable: _Flags) -> Iterator[Notice]:
    """Yields inverted pictures, and pictures of something else: by correlation with the typical picture."""
    if usable.sum() < LEAST_PICTURES:
        return
    likeness = np.ones(len(usable))
    likeness[usable] = likeness_to_typical(measures.views[usable].reshape(int(usable.sum()), -1))
    if np.median(likeness) < 0.5:
        return  # the set has no common layout to differ from
    inverted = likeness < -0.3
    yield from _pictures(
        measures, inverted, "inverted", "the negative of the others, dark where they are bright",
        "most likely the photometric interpretation was lost on export (MONOCHROME1).",
        "invert them, or leave them out.",
    )  # fmt: skip
    yield from _pictures(
        measures, ~inverted & (likeness < 0.1), "another_view", "arranged unlike the others",
        "another view, another part of the body, a turned picture, or a scan of paper.",
        "look at them, and leave out what does not belong.",
    )  # fmt: skip


def likeness_to_typical(views: npt.NDArray[np.float32]) -> Floats:
    """Returns the correlation of each picture (picture, value) with the median of all, -1..1."""
    centred = views - views.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True) + 1e-9
    typical = np.median(centred, axis=0)
    typical -= typical.mean()
    likeness: Floats = (centred @ (typical / (np.linalg.norm(typical) + 1e-9))).astype(np.float64)
    return likeness


def _colour(measures: Measures) -> Iterator[Notice]:
    coloured = measures.colour > COLOURED
    for odd, what in ((coloured, "in colour among grey ones"), (~coloured, "grey among coloured ones")):
        if odd.mean() <= _RARE:
            yield from _pictures(
                measures, odd, "colour", what,
                "another kind of picture, a photograph of a screen, or marks drawn by hand.",
                "look at them; marks that go with one class are a shortcut.",
            )  # fmt: skip


def _sizes(measures: Measures, sizes: Mapping[str, tuple[int, ...]], grid: tuple[int, ...]) -> Iterator[Notice]:
    known, found = _known(measures, sizes)
    if not found:
        return
    extents = np.array(found, float)
    small = np.zeros(len(known), dtype=bool)
    small[known] = (extents < np.array(grid)).any(axis=1)
    yield from _pictures(
        measures, small, "smaller_than_grid",
        f"smaller than the {' x '.join(map(str, grid))} they are used at, and were enlarged",
        "they are blurred beside the others, and the blur may tell the label.",
        "use a smaller image_size, or find the originals.",
    )  # fmt: skip
    if len(found) < LEAST_PICTURES:
        return
    aspects = np.log2(extents[:, 0] / extents[:, -1])
    areas = np.log2(extents.prod(axis=1))
    far = np.zeros(len(known), dtype=bool)
    far[known] = (np.abs(robust_z(aspects, 0.05)) > FAR) | (np.abs(robust_z(areas, 0.35)) > FAR)
    yield from _pictures(
        measures, far, "size", "a size or shape far from the others'",
        "another device, a cropped or a stitched picture.",
        "look at them, and at how much of them is cut off.",
    )  # fmt: skip


def _spacings(measures: Measures, spacings_mm: Mapping[str, tuple[float, ...]]) -> Iterator[Notice]:
    known, found = _known(measures, spacings_mm)
    if len(found) < LEAST_PICTURES:
        return
    logs = np.log2(found)
    far = np.zeros(len(known), dtype=bool)
    far[known] = (np.abs(logs - np.median(logs, axis=0)) > 1).any(axis=1)
    commonest = Counter(spacings_mm.values()).most_common(1)[0][0]
    yield from _pictures(
        measures, far, "spacing", "voxels twice or half as long as usual along an axis "
        f"(commonest: {' x '.join(f'{mm:.3g}' for mm in commonest)} mm)",
        "after resampling their fine structure is made up or lost.",
        "look at the protocol, and report quality with and without them.",
    )  # fmt: skip


def _known(measures: Measures, facts: Mapping[str, _Fact]) -> tuple[_Flags, list[_Fact]]:
    """Returns which pictures have a fact, and the facts of those."""
    files = [image.file for image in measures.images]
    return np.array([file in facts for file in files]), [facts[file] for file in files if file in facts]


def mask_notices(measures: Measures) -> Iterator[Notice]:
    """Yields pictures whose mask is empty, or far smaller than usual for a class."""
    if measures.mask_shares is None:
        return
    drawn = measures.mask_shares[:, 1:]
    yield from _pictures(
        measures, drawn.sum(axis=1) == 0, "empty_mask", "an empty mask",
        "either nothing is there to be found, or nobody drew it; Dice is not defined for them.",
        "make sure which of the two it is.",
    )  # fmt: skip
    tiny = np.zeros(len(drawn), dtype=bool)
    for shares in drawn.T:
        if (shares > 0).sum() >= LEAST_PICTURES:
            tiny |= (shares > 0) & (shares < _TINY * np.median(shares[shares > 0]))
    yield from _pictures(
        measures, tiny, "tiny_mask", "the mask of a class is under a twentieth of the usual size",
        "a slip of the pen, or a finding so small that resampling may remove it.",
        "look at them at full size.",
    )  # fmt: skip


def depth_notices(measures: Measures, num_axes: int) -> Iterator[Notice]:
    """Yields the finding where nearly every picture (`num_axes` 2) is darker than a depth of `BITS` in 16 can be."""
    # A dark picture is one; that all are is a matter of their files.
    brightest = int(np.quantile(measures.brightest, DARK_SHARE, method="higher"))
    bits = next((bits for bits in BITS if brightest <= round(255 * ((1 << bits) - 1) / 65535)), None)
    if num_axes != 2 or bits is None or not brightest:
        return
    dark = int(np.count_nonzero(measures.brightest <= brightest))
    yield Notice(
        "few_bits", Level.LOOK, dark,
        f"{counted(dark, 'picture')} of {len(measures.brightest):,} reach level {brightest} of 255 at most",
        f"they look like {bits} bits in files of 16, of which a network would see {brightest + 1} grey levels.",
        f"if the files have 16 bits, say how many the device uses: bits = {bits} in [data] of the study, and "
        f"--bits {bits} here.",
    )  # fmt: skip


def _pictures(
    measures: Measures, chosen: _Flags, code: str, what: str, meaning: str, advice: str
) -> Iterator[Notice]:
    rows = tuple((measures.images[place].row,) for place in np.flatnonzero(chosen))
    if rows:
        yield Notice(
            code, Level.LOOK, len(rows), f"{counted(len(rows), 'picture')}: {what}", meaning, advice, rows
        )
