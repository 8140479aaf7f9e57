"""An exported model: its form, its card, and the card for people in one folder, or one page."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Literal, assert_never

import numpy as np

from wardround.boundary.machine import machine_faults
from wardround.boundary.private import write_whole
from wardround.errors import DataError, RecordError
from wardround.images.loose import Unread
from wardround.inference.export.bundle import write_bundle
from wardround.inference.export.model_card import NO_FACTS, Facts, json_of_card, markdown_of_card
from wardround.inference.export.onnx import Checked, write_onnx
from wardround.inference.model import CARD, Model
from wardround.inference.page.known import known_picture
from wardround.inference.page.write import check_page, page_of
from wardround.records.folder import RunRecord
from wardround.types import Pictures

Form = Literal["onnx", "bundle"]

_MOST_CHECKED = 64


def export(model: Model, form: Form, out: Path, pictures: list[Path] | None = None) -> Checked | None:
    """Writes a model in another program's form into a new folder, which appears only when it is complete.

        onnx     model.onnx (uint8 rows to logits and probabilities), model.json (the recipe of the rows)
        bundle   a MONAI bundle: configs/, models/, docs/
        both     model_card.md, model_card.json (of a bundle in docs/, the Markdown as README.md)

    Args:
        model: of a run's folder, or of a folder with the model alone, of which a card knows less.
        form: `onnx` or `bundle`.
        out: the folder to make; it must not exist.
        pictures: real pictures that the ONNX graph is checked on as well.

    Returns:
        For ONNX the check against torch.

    Raises:
        DataError: the folder exists (code `data-results`), or a picture cannot be read (`data-no-check`).
        MachineError: it cannot be made.
        ModelError: see `write_onnx`.
        MissingExtra: a package is not installed.
    """
    if pictures and form != "onnx":
        raise DataError(f"`--check` must go with `--to onnx`, got {form}; leave it out.", code="data-no-check")
    if out.exists():
        raise DataError(
            f"`--out` must be a folder that is not there yet, got {out}; choose another.", code="data-results"
        )
    with machine_faults(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        checked = _written(model, form, beside, pictures or [])
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return checked


def export_page(
    model: Model, out: Path, advice: Path | None = None, pictures: list[Path] | None = None
) -> tuple[Checked, int]:
    """Writes a model as one HTML file, see `wardround.inference.page.write`; it appears only when it is complete.

    Args:
        model: that reads pictures.
        out: the file to make; it must not exist.
        advice: see `wardround.inference.page.languages`.
        pictures: real pictures that the ONNX graph is checked on as well.

    Returns:
        The graph's check against torch, and the file's size in bytes.

    Raises:
        DataError: the file exists (code `data-results`), or a picture cannot be read (`data-no-check`).
        MachineError: it cannot be made.
        Errors of `write_onnx` and of `wardround.inference.page.write.check_page`.
    """
    if out.exists():
        raise DataError(
            f"`--out` must be a file that is not there yet, got {out}; choose another.", code="data-results"
        )
    with machine_faults(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    page, checked = page_with_graph(model, advice, pictures)
    content = page.encode("utf-8")
    write_whole(out, content)
    return checked, len(content)


def page_with_graph(model: Model, advice: Path | None, pictures: list[Path] | None = None) -> tuple[str, Checked]:
    """Returns the page of a model and its graph's check against torch; arguments and errors as `export_page`."""
    check_page(model, advice)
    with TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        given = _rows_of(model, pictures or [])
        rows = known_picture(model) if given is None else np.concatenate([known_picture(model), given])
        checked = write_onnx(model, graph, rows)
        return page_of(model, graph.read_bytes(), advice), checked


def facts_of(folder: Path) -> Facts:
    """Returns what the record of a run knows; nothing where the folder holds a model alone."""
    try:
        record = RunRecord.read(folder)
        return Facts(record.tables(), record.environment, record.results, record.certificate)
    except RecordError:
        return NO_FACTS


def _written(model: Model, form: Form, folder: Path, pictures: list[Path]) -> Checked | None:
    facts, checked, docs = facts_of(model.folder), None, folder
    match form:
        case "onnx":
            checked = write_onnx(model, folder / "model.onnx", _rows_of(model, pictures))
            shutil.copyfile(model.folder / CARD, folder / CARD)
        case "bundle":
            write_bundle(model, folder)
            docs = folder / "docs"
        case _:
            assert_never(form)
    name = "README.md" if form == "bundle" else "model_card.md"
    (docs / name).write_text(markdown_of_card(model, facts), encoding="utf-8")
    (docs / "model_card.json").write_text(
        json.dumps(json_of_card(model, facts), indent=2) + "\n", encoding="utf-8"
    )
    return checked


def _rows_of(model: Model, pictures: list[Path]) -> Pictures | None:
    ready = []
    for one in model.read(pictures):
        if isinstance(one, Unread):
            raise DataError(
                f"`--check` must name pictures that can be read, got one that cannot: {one.reason}. Leave it out.",
                code="data-no-check",
            )
        ready.append(one.rows)
        if len(ready) == _MOST_CHECKED:
            break
    return np.concatenate(ready)[:_MOST_CHECKED] if ready else None
