"""A trained model in use: `load` finds its card and weights, `Model.predict` answers for files and arrays."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wardround.errors import DataError, ModelError
from wardround.images.decode.quiet import QUIET
from wardround.images.loose import Unlabelled, Unread
from wardround.images.rows.recipe import VolumeRecipe
from wardround.inference.answers import (
    Classified,
    Logits,
    Prediction,
    Segmented,
    Unanswered,
    is_uncertain,
    rule_of,
)
from wardround.inference.calibration import Calibration, Probabilities, calibration_of, words_of
from wardround.inference.reading import Opened, Ready, opened, raw_of_array, read, ready_of, recipe_of
from wardround.models.card import ModelCard, read_card
from wardround.models.load import load as load_network
from wardround.models.network import Network
from wardround.training.augment.augmentation import Augmentation
from wardround.types import Pictures

CARD, WEIGHTS = "model.json", "model.safetensors"

_WORKERS = min(8, os.cpu_count() or 1)
_PICTURES_AT_ONCE = 64
_PIXELS_AT_ONCE = 1 << 22
"""Pixels or voxels, over all pictures, whose float inputs are in memory at one time, at most; as in training."""

Item = str | Path | npt.NDArray[Any]
"""A path or an array, see `raw_of_array`."""


class Whole(nn.Module):
    """A model from uint8 rows, (row, channel, *space), to logits: the patch, the encoding, the trained layers.

    The logits of several networks, an ensemble, are the logarithms of their mean probabilities, and finite.

    Args:
        networks: with their trained weights.
        patch: side of the centre that they read; None for all of it.
    """

    def __init__(self, networks: Sequence[Network], patch: int | None) -> None:
        super().__init__()
        self.made_of = tuple(networks)
        self.networks = nn.ModuleList(network.whole() for network in networks)
        self._centre = Augmentation(patch=patch)
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Returns logits, (row, class) or (row, class, *space)."""
        pictures = self._centre.centre(rows)[0]
        logits = [network(pictures) for network in self.networks]
        if len(logits) == 1:
            found: Tensor = logits[0]
            return found
        mean = torch.stack([one.softmax(dim=1) for one in logits]).mean(dim=0)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


@dataclass(frozen=True)
class Model:
    """A trained model, ready to predict.

    Attributes:
        card: its classes, recipe, provenance and guarantee.
        whole: from uint8 rows to logits: a `Whole`, or one whose last layer is computed elsewhere.
        names: of the networks whose mean it is; empty for one.
        folder: in which it was found.
        scale: from logits to probabilities.
    """

    card: ModelCard
    whole: nn.Module
    names: tuple[str, ...]
    folder: Path
    scale: Calibration

    @property
    def calibration(self) -> str:
        """The way in which logits become probabilities, in words."""
        return words_of(self.scale)

    def predict(self, items: Item | Iterable[Item]) -> list[Prediction]:
        """Returns the answers for files, folders, archives and arrays, in their order.

        A picture that cannot be read is `Unanswered`, and the others go on. Pictures are read exactly as training
        read them, by the recipe on the card. Nothing is written and nothing is logged.

        Args:
            items: paths (JPEG, PNG, TIFF, BMP, DICOM, NIfTI; a folder, .zip, .tar or MedMNIST .npz stands for all
                pictures in it) and arrays, uint8 or uint16 (height, width), uint8 (height, width, 3), or volumes
                (x, y, z) or (channel, x, y, z). Several slices of one DICOM series are one volume.

        Returns:
            For each picture or volume a `Classified`, a `Segmented` or an `Unanswered`.

        Raises:
            MissingExtra: a file needs a package that is not installed, such as pydicom.
        """
        return list(self.predict_each(items))

    def predict_each(self, items: Item | Iterable[Item]) -> Iterator[Prediction]:
        """Yields the answers of `predict` as they are ready, so that memory stays small for any number of pictures."""
        several = [items] if isinstance(items, str | Path | np.ndarray) else items
        yield from self._answers(self.read(several))

    def logits(self, rows: Pictures) -> Logits:
        """Returns the outputs of the network for prepared rows, uint8 (row, channel, *space)."""
        space = max(1, int(np.prod(rows.shape[2:])))
        at_once = max(1, min(_PICTURES_AT_ONCE, _PIXELS_AT_ONCE // space))
        with torch.inference_mode():
            made = [
                self.whole(torch.from_numpy(np.ascontiguousarray(rows[start : start + at_once])))
                for start in range(0, len(rows), at_once)
            ]
        found: Logits = torch.cat(made).to(torch.float32).numpy()
        return found

    def probabilities(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Returns class probabilities, (row, class, *space), in double precision."""
        found: npt.NDArray[np.float64] = Probabilities(self.scale)(
            torch.from_numpy(logits).to(torch.float64)
        ).numpy()
        return found

    def read(self, items: Iterable[Item]) -> Iterator[Ready | Unread]:
        """Yields pictures as the model reads them, in order; a few threads decode ahead of the network."""
        paths: list[Path] = []
        with QUIET, ThreadPoolExecutor(_WORKERS) as pool:
            for number, item in enumerate(items, start=1):
                if not isinstance(item, np.ndarray):
                    paths.append(Path(item))
                    continue
                yield from self._of_paths(paths, pool)
                paths = []
                yield self._of_array(item, f"array {number}")
            yield from self._of_paths(paths, pool)

    def _of_paths(self, paths: list[Path], pool: ThreadPoolExecutor) -> Iterator[Ready | Unread]:
        for part in opened(self.card, paths):
            try:
                yield from self._of_store(part, pool)
                if not part.found:
                    yield Unread(str(part.root), "a folder or an archive must hold pictures, this one holds none")
            finally:
                if part.store is not None:
                    part.store.close()

    def _of_store(self, part: Opened, pool: ThreadPoolExecutor) -> Iterator[Ready | Unread]:
        def one(found: Unlabelled | Unread) -> Ready | Unread:
            if isinstance(found, Unread):
                return found
            assert part.store is not None, "what was found lies in a store"
            return read(self.card, part.store, part.root, found)

        volumes = isinstance(recipe_of(self.card), VolumeRecipe)
        in_flight = _WORKERS if volumes else _PICTURES_AT_ONCE
        rest = iter(part.found)
        ahead = [pool.submit(one, found) for found in islice(rest, in_flight)]
        while ahead:
            done = ahead.pop(0).result()
            ahead += [pool.submit(one, found) for found in islice(rest, 1)]
            yield done

    def _of_array(self, values: npt.NDArray[Any], name: str) -> Ready | Unread:
        volumes = isinstance(recipe_of(self.card), VolumeRecipe)
        try:
            return ready_of(self.card, name, raw_of_array(values, volumes), None)
        except DataError as error:
            return Unread(name, str(error).rstrip("."))

    def _answers(self, pictures: Iterator[Ready | Unread]) -> Iterator[Prediction]:
        """Yields answers in order, whose logits are computed for some pictures at once."""
        waiting: list[Ready | Unread] = []
        count = 0
        for picture in pictures:
            waiting.append(picture)
            count += len(picture.rows) if isinstance(picture, Ready) else 0
            if count >= _PICTURES_AT_ONCE or (self.card.target == "masks" and count):
                yield from self._answered(waiting)
                waiting, count = [], 0
        yield from self._answered(waiting)

    def _answered(self, pictures: list[Ready | Unread]) -> Iterator[Prediction]:
        ready = [picture for picture in pictures if isinstance(picture, Ready)]
        logits = self.logits(np.concatenate([picture.rows for picture in ready])) if ready else None
        start = 0
        for picture in pictures:
            if isinstance(picture, Unread):
                yield Unanswered(picture.name, picture.reason)
                continue
            assert logits is not None, "there is a picture"
            own = logits[start : start + len(picture.rows)]
            start += len(picture.rows)
            yield self.answer(picture, own)

    def answer(self, picture: Ready, logits: Logits) -> Classified | Segmented:
        """Returns the answer for one picture from its logits, (row, class) or (row, class, *space)."""
        return (
            self._segmented(picture, logits) if self.card.target == "masks" else self._classified(picture, logits)
        )

    def _classified(self, picture: Ready, logits: Logits) -> Classified:
        mean = self.probabilities(logits).mean(axis=0)  # of the slices of a volume
        return Classified(
            picture.name,
            self.card.classes[int(mean.argmax())],
            dict(zip(self.card.classes, mean.tolist(), strict=True)),
            is_uncertain(mean),
            picture.findings,
            logits if len(logits) > 1 else logits[0],
            picture.sources,
        )

    def _segmented(self, picture: Ready, logits: Logits) -> Segmented:
        assert picture.placement is not None, "masks are predicted"
        probabilities = self.probabilities(logits)
        masks = probabilities.argmax(axis=1).astype(np.uint8)
        before, end = picture.extent
        if isinstance(recipe := recipe_of(self.card), VolumeRecipe) and recipe.rows > 1:
            masks = np.pad(masks, ((before, recipe.rows - end), (0, 0), (0, 0)))
        mask = picture.placement.back(masks)
        counts = np.bincount(mask.ravel(), minlength=len(self.card.classes)) / mask.size
        return Segmented(
            picture.name,
            mask,
            picture.placement.affine,
            dict(zip(self.card.classes, counts.tolist(), strict=True)),
            is_uncertain(np.moveaxis(probabilities, 1, 0)),
            picture.findings,
            logits,
            picture.sources,
        )

    def _facts(self) -> dict[str, str]:
        card = self.card
        network = card.network.name if not self.names else f"{card.network.name}, the mean of {len(self.names)}"
        return {
            "study": card.study.name,
            "network": network,
            "answers": f"{card.target}: {', '.join(card.classes)}",
            "reads": " x ".join(map(str, recipe_of(card).shape)) + f" ({card.recipe.kind})",
            "probabilities": self.calibration,
            "rule": rule_of(card.target),
            "guarantee": card.statement,
            "SHA-256": card.weights.sha256,
        }

    def __str__(self) -> str:
        return "\n".join(f"{name:14} {value}" for name, value in self._facts().items())

    def _repr_html_(self) -> str:
        """Returns the facts as a table, for notebooks."""
        rows = (
            f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        return f"<table>{''.join(rows)}</table>"


def load(path: str | Path, model: str | None = None) -> Model:
    """Returns the model of a finished run, ready to predict.

    Args:
        path: a run's folder, or any folder with its `model.json` and `model.safetensors`; nothing is unpickled.
        model: one of the names on the card, where several models share the file (each hospital's own). None takes
            the mean of their probabilities, as the evaluation of an ensemble does.

    Raises:
        ModelError: there is no card or no weights, or they are not of one model (codes `model-card`,
            `model-weights-hash`, `model-weights`, `model-name`, and those of `wardround.models.load.load`).
        MissingExtra: the network is MONAI's, which is not installed.
    """
    folder = Path(path)
    if not (folder / CARD).is_file():
        raise ModelError(
            f"A model must be a folder with {CARD} and {WEIGHTS}, got {folder} without a card; give the folder of a "
            "finished run.",
            code="model-card",
        )
    card = read_card(folder / CARD)
    recipe_of(card)
    names = card.weights.models if model is None else ()
    chosen: tuple[str | None, ...] = names or (model,)
    networks = [load_network(card, folder / WEIGHTS, name) for name in chosen]
    scale = calibration_of(card, several=bool(card.weights.models))
    return Model(card, Whole(networks, card.recipe.patch), tuple(names), folder, scale)
