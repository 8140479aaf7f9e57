"""A MONAI bundle: configuration, metadata and weights, run by `python -m monai.bundle run`.

Loading, decoding and scaling in it are Wardround's own, so that the bundle answers as `wardround predict` does; the
data set, the loader and the inferer are MONAI's. Weights stay safetensors: nothing in the bundle is a pickle.

    python -m monai.bundle run --config_file BUNDLE/configs/inference.json --bundle_root BUNDLE
        --dataset_dir PICTURES --output_dir OUT
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wardround import __version__
from wardround.boundary.private import write_whole
from wardround.errors import DataError
from wardround.images.loose import Unread
from wardround.inference.answers import Prediction, Segmented, Unanswered
from wardround.inference.files import Folder, nifti_of
from wardround.inference.model import CARD, WEIGHTS, Model
from wardround.inference.reading import Opened, Ready, opened, read, recipe_of
from wardround.inference.tables import csv_of, json_of
from wardround.models.card import ENCODER

_REQUIRED = ("nibabel", "pydicom", "einops")
_HERE = "wardround.inference.export.bundle"

_STARTS_EXPRESSION = ("$", "@", "%")
"""Signs of MONAI's configurations for Python, a reference and a macro."""

INFERENCE: dict[str, object] = {
    "imports": ["$import wardround", f"$import {_HERE}"],
    "bundle_root": ".",
    "dataset_dir": "$@bundle_root + '/pictures'",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "cpu",
    "model": "$wardround.load(@bundle_root + '/models')",
    "network_def": "$@model.whole",
    "network": "$@network_def.to(@device).eval()",
    "preprocessing": {"_target_": f"{_HERE}.Reading", "model": "@model"},
    "dataset": {
        "_target_": "Dataset",
        "data": f"${_HERE}.listed(@model, @dataset_dir)",
        "transform": "@preprocessing",
    },
    "dataloader": {
        "_target_": "DataLoader",
        "dataset": "@dataset",
        "batch_size": 1,
        "num_workers": 0,
        "collate_fn": "$lambda batch: batch[0]",
    },
    "inferer": {"_target_": "SimpleInferer"},
    "run": [f"${_HERE}.answer(@model, @dataloader, @inferer, @network, @device, @output_dir)"],
}


class Reading:
    """A MONAI transform: one listed picture to the rows that the model reads, `image`, uint8 (row, channel, *space)."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the item with its rows, or with the reason why there are none."""
        part, one = item["part"], item["one"]
        found = one if isinstance(one, Unread) else read(self._model.card, part.store, part.root, one)
        return {"ready": found, "image": torch.tensor(found.rows) if isinstance(found, Ready) else None}


def listed(model: Model, folder: str) -> list[dict[str, object]]:
    """Returns every picture of a folder, an archive or a file as a MONAI data set lists it.

    Raises:
        DataError: nothing is there (code `data-no-pictures`).
    """
    parts: list[Opened] = list(opened(model.card, [Path(folder)]))
    items: list[dict[str, object]] = [{"part": part, "one": one} for part in parts for one in part.found]
    if not items:
        raise DataError(
            f"`dataset_dir` must hold pictures, got none in {folder}; change it.", code="data-no-pictures"
        )
    return items


def answer(
    model: Model, loader: Iterable[dict[str, Any]], inferer: Any, network: Any, device: str, output: str
) -> list[Prediction]:
    """Writes predictions.csv and predictions.json, and of masks a NIfTI file each; returns the answers."""
    answers: list[Prediction] = []
    folder = Folder(Path(output))
    for item in loader:
        ready = item["ready"]
        if isinstance(ready, Unread):
            answers.append(Unanswered(ready.name, ready.reason))
            continue
        with torch.no_grad():
            logits = inferer(item["image"].to(device), network)
        found = model.answer(ready, np.asarray(logits.cpu(), dtype=np.float32))
        if isinstance(found, Segmented):
            folder.write(found.file, ".nii.gz", nifti_of(found))
        answers.append(found)
    write_whole(Path(output) / "predictions.csv", csv_of(model, answers).encode("utf-8", "backslashreplace"))
    write_whole(Path(output) / "predictions.json", json.dumps(json_of(model, answers)).encode())
    return answers


def write_bundle(model: Model, folder: Path) -> None:
    """Writes the configuration, the metadata and the weights of a MONAI bundle into an empty folder."""
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir()
    for name, content in (("inference", INFERENCE), ("metadata", _inert(metadata_of(model)))):
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    for name in (CARD, WEIGHTS, *([ENCODER] if (model.folder / ENCODER).exists() else [])):
        shutil.copyfile(model.folder / name, folder / "models" / name)


def _inert(content: Any) -> Any:
    """Returns JSON with an apostrophe before each text that MONAI would run or look up: a class may be named so."""
    if isinstance(content, dict):
        return {key: _inert(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_inert(value) for value in content]
    return f"'{content}" if isinstance(content, str) and content.startswith(_STARTS_EXPRESSION) else content


def metadata_of(model: Model) -> dict[str, object]:
    """Returns the metadata of a bundle by MONAI's schema (https://github.com/Project-MONAI/MONAI-extra-test-data)."""
    card, shape = model.card, recipe_of(model.card).shape
    classes = {str(number): name for number, name in enumerate(card.classes)}
    image = {
        "type": "image", "format": "magnitude", "modality": "/".join(card.modalities or ("not stated",)),
        "num_channels": shape[0], "spatial_shape": list(shape[1:]), "dtype": "uint8", "value_range": [0, 255],
        "is_patch_data": card.recipe.patch is not None, "channel_def": {str(n): "image" for n in range(shape[0])},
    }  # fmt: skip
    has_masks = card.target == "masks"
    answer = {
        "type": "image" if has_masks else "probabilities", "format": "segmentation" if has_masks else "classes",
        "num_channels": len(card.classes), "spatial_shape": list(card.network.size) if has_masks else [1],
        "dtype": "float32", "value_range": [], "is_patch_data": False, "channel_def": classes,
    }  # fmt: skip
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported {datetime.now(UTC):%Y-%m-%d} by wardround {__version__}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": {"wardround": __version__}
        | {name: found for name in _REQUIRED if (found := _version(name))},
        "name": card.study.name,
        "task": "segmentation" if has_masks else "classification",
        "description": f"{card.network.name} of the study {card.study.name}. {card.statement}.",
        "authors": "not stated",
        "copyright": "not stated",
        "intended_use": "not stated: research only until it is",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": answer}},
    }


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return ""
