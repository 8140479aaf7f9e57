"""Pictures and volumes on their way to a model: the recipe of its card, and what lies outside of it.

The decoder and the recipe are those of training (`images.decode`, `images.dicom`, `images.rows.recipe`). Nothing
here writes a log, and no sentence names a file or quotes a header.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError, ModelError
from wardround.images.arrays import open_container
from wardround.images.decode.pillow import PILLOW, decode_in_thread
from wardround.images.decode.raw import Raw
from wardround.images.loose import (
    Unlabelled,
    Unread,
    Wanted,
    is_container,
    open_given,
    unlabelled,
)
from wardround.images.quality.measure import COLOURED
from wardround.images.rows.fit import Fit
from wardround.images.rows.placement import Placement, placement_of
from wardround.images.rows.recipe import MOST_CUT_OFF, VERSION, PictureRecipe, Recipe, Rows, View, VolumeRecipe
from wardround.images.store import Store
from wardround.inference.answers import Sources
from wardround.models.card import ModelCard, PictureInput

_CONSTANT = 3
"""Levels of 255 between which nine tenths of a constant picture lie."""

_COLOUR_SIDE = 32


@dataclass(frozen=True)
class Ready:
    """One picture or volume as the model reads it.

    Args:
        name: see `Unlabelled`.
        rows: uint8 (row, channel, *space), of slices those alone that show something.
        extent: first of these slices and one past the last, of all that the recipe makes.
        findings: sentences on what lies outside of the recipe.
        placement: the way back to the file's grid; None where no mask is predicted.
        sources: its files; None for an array.
    """

    name: str
    rows: Rows
    extent: tuple[int, int]
    findings: tuple[str, ...]
    placement: Placement | None
    sources: Sources | None


def recipe_of(card: ModelCard) -> Recipe:
    """Returns the recipe by which training made rows of pictures, from a model's card.

    Raises:
        ModelError: this release makes rows in another way (code `model-recipe`).
    """
    given = card.recipe
    if given.version != VERSION:
        raise ModelError(
            f"`recipe.version` of the card must be {VERSION} here, got {given.version}; use the release of wardround "
            "that wrote the card.",
            code="model-recipe",
        )
    if isinstance(given, PictureInput):
        channels = 1 if given.colour == "grey" else 3
        return PictureRecipe(given.image_size, channels, Fit(given.fit), given.circle_crop, given.bits)
    return VolumeRecipe(given.volume_size, given.channels, given.spacing, given.window, View(given.view))


@dataclass(frozen=True)
class Opened:
    """Pictures of one store, in order."""

    store: Store | None
    root: Path | None
    found: Sequence[Unlabelled | Unread]


def opened(card: ModelCard, paths: Sequence[Path]) -> Iterator[Opened]:
    """Yields the pictures of paths in their order; files that stand side by side are one store.

    A path that is twice among neighbouring files is read once. The caller closes each store.
    """
    recipe = recipe_of(card)
    channels = recipe.channels
    wanted = Wanted(isinstance(recipe, VolumeRecipe), channels)
    files: list[Path] = []

    def of_files() -> Iterator[Opened]:
        there = [path for path in dict.fromkeys(files) if path.is_file()]
        store = open_given(there)
        order = {str(path): number for number, path in enumerate(files)}
        gone = [Unread(str(path), "a file must be there, this one is not") for path in files if path not in there]
        found = unlabelled(store, wanted, given=True)

        def place(one: Unlabelled | Unread) -> int:
            file = one.name if one.name in order else one.name.rpartition("#")[0]  # a frame of a file
            return order[file]

        yield Opened(store, None, sorted((*found, *gone), key=place))
        files.clear()

    for path in paths:
        if not (path.exists() and is_container(path)):
            files.append(path)
            continue
        if files:
            yield from of_files()
        try:
            store = open_container(path)
        except DataError as error:
            reason = str(error).replace(path.name, "this one") if path.is_file() else str(error)
            yield Opened(None, path, [Unread(str(path), reason.rstrip("."))])
            continue
        yield Opened(store, path, unlabelled(store, wanted, given=False))
    if files:
        yield from of_files()


def read(card: ModelCard, store: Store, root: Path | None, one: Unlabelled) -> Ready | Unread:
    """Returns one picture or volume as its card's model reads it, or the reason why there is none."""
    has_masks = card.target == "masks"
    recipe = recipe_of(card)
    hint = recipe.hint
    if has_masks:  # as training decodes pictures that have masks: whole, so that the mask lies pixel on pixel
        hint = replace(hint, least_side=None)
    aliases = [store.alias(name) for name in one.entry.files]  # which sentences quote in place of names
    try:
        contents = [store.read(alias) for alias in aliases]
        raw = one.decoder.decode(one.entry, contents, (), hint)
        ready = ready_of(card, one.name, raw, Sources(root, one.entry.files, one.entry.frame))
        coloured = one.decoder is PILLOW and recipe.channels == 1 and _is_coloured(contents[0], raw)
    except DataError as error:
        sentence = str(error)
        for alias in aliases:
            sentence = sentence.replace(alias, "this file")
        return Unread(one.name, sentence.rstrip("."))
    findings = [*_of_header(card, one), *(["colour picture, read as grey"] if coloured else [])]
    return replace(ready, findings=(*findings, *ready.findings))


def ready_of(card: ModelCard, name: str, raw: Raw, sources: Sources | None) -> Ready:
    """Returns a decoded picture or volume as its card's model reads it.

    Raises:
        DataError: it cannot be brought to the recipe's shape.
    """
    recipe = recipe_of(card)
    fault = _other_kind(raw, recipe)
    if fault is not None:
        raise DataError(fault)
    prepared = recipe.prepare(replace(raw, mask=None))
    rows = prepared.rows[slice(*prepared.extent)]
    placement = placement_of(raw, recipe, card.recipe.patch) if card.target == "masks" else None
    return Ready(name, rows, prepared.extent, tuple(_outside(raw, rows, recipe)), placement, sources)


def raw_of_array(values: npt.NDArray[np.generic], volumes: bool) -> Raw:
    """Returns an array as a decoder would.

    Pictures are uint8 or uint16, (height, width), or uint8 (height, width, 3). Volumes are (x, y, z) or
    (channel, x, y, z) in RAS+ with voxels of 1 mm, as MedMNIST has them.

    Raises:
        DataError: another shape or type.
    """
    if volumes and values.ndim in (3, 4):
        finite = np.asarray(values, dtype=np.float32)
        if not np.isfinite(finite).all():
            raise DataError("an array must hold finite numbers, this one does not")
        return Raw(finite if finite.ndim == 4 else finite[None], None, np.eye(4))
    if values.dtype == np.uint8 and values.ndim == 3 and values.shape[2] == 3:
        return Raw(np.ascontiguousarray(np.asarray(values, dtype=np.uint8).transpose(2, 0, 1)))
    if not volumes and values.ndim == 2 and values.dtype in (np.uint8, np.uint16):
        return Raw(values.astype(np.uint8)[None] if values.dtype == np.uint8 else values.astype(np.uint16)[None])
    raise DataError(
        f"an array must be {'(x, y, z) or (channel, x, y, z)' if volumes else 'uint8 or uint16 (height, width[, 3])'}, "
        f"got {values.dtype} {values.shape}"
    )


def _other_kind(raw: Raw, recipe: Recipe) -> str | None:
    if isinstance(recipe, PictureRecipe):
        return None if raw.affine is None else "the model reads pictures, this is a volume"
    if raw.affine is None:
        return "the model reads volumes, this is a picture"
    if len(raw.values) != recipe.channels:
        return f"the model reads volumes of {recipe.channels} channels, this one has {len(raw.values)}"
    return None


def _of_header(card: ModelCard, one: Unlabelled) -> Iterator[str]:
    wanted = card.modalities
    if wanted and one.modality and one.modality not in wanted:
        yield f"modality {one.modality}, and the model was trained on {' or '.join(wanted)}"
    if one.caution:
        yield f"training leaves such pictures out until somebody has looked at them: {one.caution}"


def _outside(raw: Raw, rows: Rows, recipe: Recipe) -> Iterator[str]:
    """Yields sentences on a picture or volume that the recipe changes more than it should."""
    low, high = np.quantile(rows, (0.05, 0.95)) if isinstance(recipe, PictureRecipe) else (rows.min(), rows.max())
    if high - low < _CONSTANT:
        yield "almost constant: nearly all of it is one grey"
    if isinstance(recipe, PictureRecipe):
        height, width = raw.values.shape[1:]
        if min(height, width) < recipe.image_size:
            yield f"{width} x {height} pixels, enlarged to the {recipe.image_size} that the model reads"
        wide, high = width, height * raw.aspect
        if recipe.fit is Fit.CROP and (off := 1 - min(wide, high) / max(wide, high)) > MOST_CUT_OFF:
            yield f"{off:.0%} of it lies outside of the square in its middle that the model reads"
        return
    assert raw.affine is not None, "checked before"
    own = np.linalg.norm(raw.affine[:3, :3], axis=0)
    has = np.array(raw.values.shape[1:]) * own / (own if recipe.spacing is None else np.array(recipe.spacing))
    if (off := 1 - float(np.prod(np.minimum(1, np.array(recipe.size) / has)))) > MOST_CUT_OFF:
        yield f"{off:.0%} of the volume lies outside of the middle that the model reads"


def _is_coloured(content: bytes, raw: Raw) -> bool:
    """Returns True for a picture in colours; a JPEG that was decoded as grey is decoded small once more."""
    picture = raw.values if len(raw.values) == 3 else None
    if picture is None and content.startswith(b"\xff\xd8"):
        picture = decode_in_thread(content, least_side=_COLOUR_SIDE)
    if picture is None or len(picture) != 3:
        return False
    step = max(1, min(picture.shape[1:]) // _COLOUR_SIDE)
    few = np.asarray(picture[:, ::step, ::step], dtype=np.float64)
    return float((few.max(axis=0) - few.min(axis=0)).mean()) / 255 > COLOURED
