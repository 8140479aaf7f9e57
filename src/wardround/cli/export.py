"""`wardround export`: a run's model for other programs, checked before it is handed over."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, assert_never

import typer

from wardround.boundary.text import counted, say
from wardround.cli.printing import Member
from wardround.cli.verify import RunPath


class Target(StrEnum):
    """Forms that a model is exported to."""

    ONNX = "onnx"
    BUNDLE = "bundle"
    PAGE = "page"


def export(
    path: RunPath,
    to: Annotated[Target, typer.Option("--to", help="onnx; bundle, for MONAI; page, for a browser.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make, or the file of a page.")],
    check: Annotated[
        list[Path] | None, typer.Option("--check", help="onnx, page: real pictures to check the graph on as well.")
    ] = None,
    advice: Annotated[
        Path | None, typer.Option("--advice", help="page: TOML or JSON with advice for each answer, by language.")
    ] = None,
    member: Member = None,
) -> None:
    """Write a run's model as ONNX, a MONAI bundle, or a page.

    ONNX and bundle come with a model card. A page is one file, which a browser opens without a network.

    An ONNX graph, also the one in a page, is compared with torch before it is written.
    """
    from wardround.errors import DataError
    from wardround.inference.export.write import export as write
    from wardround.inference.export.write import export_page
    from wardround.inference.model import load

    if advice is not None and to is not Target.PAGE:
        raise DataError(
            f"`--advice` must go with `--to page`, got {to.value}; leave it out.", code="data-no-advice"
        )
    model, checked = load(path, member), None
    match to:
        case Target.ONNX:
            checked = write(model, "onnx", out, check)
        case Target.BUNDLE:
            write(model, "bundle", out, check)
        case Target.PAGE:
            checked, size = export_page(model, out, advice, check)
            say(f"the page has {size / 1e6:.1f} MB")
        case _:
            assert_never(to)
    if checked is not None:
        say(
            f"ONNX Runtime and torch differ by {checked.difference:.1e} at most over "
            f"{counted(checked.pictures, 'picture')}"
        )
    say(f"exported: {out}")
