"""Pictures small enough for a page, inside the page: as data URIs, with what was drawn on them.

A volume is shown by its middle slice across, or the slice with most of its mask, as radiologists hang it: the
front of the body up, the patient's right on the left.
"""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from wardround.images.patients import ImageSet

Colour = tuple[int, int, int]

MASK_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Told apart by most colour-blind people (Okabe and Ito 2008); class 0 of a mask is not drawn."""

LARGEST = 160
_INK = 0.45


def thumbnail(image_set: ImageSet, row: int) -> str:
    """Returns one picture, by its row in `ImageSet.pixels`, as a data URI, its mask laid over it."""
    picture = np.asarray(image_set.pixels[row])
    mask = None if image_set.masks is None else np.asarray(image_set.masks[row])
    if picture.ndim == 4:
        z = picture.shape[3] // 2 if mask is None or not mask.any() else int((mask > 0).sum(axis=(0, 1)).argmax())
        picture = _hung(picture[..., z])
        mask = None if mask is None else _hung(mask[None, ..., z])[0]
    # Four channels of MR are shown by the first.
    shown = picture if picture.shape[0] == 3 else np.repeat(picture[:1], 3, axis=0)
    coloured = np.ascontiguousarray(shown.transpose(1, 2, 0))
    if mask is not None:
        colours = np.array(MASK_COLOURS)[(mask.astype(int) - 1) % len(MASK_COLOURS)]
        mixed = (1 - _INK) * coloured + _INK * colours
        coloured = np.where((mask > 0)[..., None], mixed, coloured).astype(np.uint8)
    return data_uri(coloured)


def _hung(slices: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turns (channel, x, y) in RAS+ to (channel, row, column): y runs up and x to the left."""
    return slices[:, ::-1, ::-1].transpose(0, 2, 1)


def data_uri(picture: npt.NDArray[np.uint8]) -> str:
    """Returns a picture, (height, width, 3), as a data URI, at most `LARGEST` pixels wide."""
    image = Image.fromarray(picture)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    buffer = io.BytesIO()
    # Small pictures are worth their exact pixels; large ones would make the page slow to open.
    kind = "png" if max(image.size) <= 64 else "jpeg"
    image.save(buffer, kind, **({} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
