"""`wardround export`: a run's model for other programs, checked before it is handed over."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.text import counted, say
from wardround.cli.verify import RunPath


class Target(StrEnum):
    """Forms that a model is exported to."""

    ONNX = "onnx"
    BUNDLE = "bundle"


def export(
    path: RunPath,
    to: Annotated[Target, typer.Option("--to", help="onnx, or bundle for MONAI.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    check: Annotated[
        list[Path] | None, typer.Option("--check", help="onnx: real pictures to check the graph on as well.")
    ] = None,
    member: Annotated[
        str | None, typer.Option("--member", help="Of several models in the run: its name; default: their mean.")
    ] = None,
) -> None:
    """Write a run's model as ONNX or as a MONAI bundle, with a model card; ONNX is held against torch first."""
    from wardround.inference.export.write import export as write
    from wardround.inference.model import load

    checked = write(load(path, member), to.value, out, check)
    if checked is not None:
        say(
            f"ONNX Runtime and torch differ by {checked.difference:.1e} at most over "
            f"{counted(checked.pictures, 'picture')}"
        )
    say(f"exported: {out}")
