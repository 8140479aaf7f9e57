"""`wardround data`: a look at a data folder, on the hospital's own screen."""

import json
from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.private import write_whole
from wardround.boundary.text import tell
from wardround.cli.keys import AsJson
from wardround.cli.printing import can_appear, console

data_app = typer.Typer(help="Look at a data folder, on the hospital's own screen.", no_args_is_help=True)


@data_app.command("check")
def data_check(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The data folder, a .zip, a .tar or a MedMNIST .npz.")
    ],
    layout: Annotated[
        str | None, typer.Option(help="The layout, such as folder or dicom; guessed if not given.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task of the labels; default: the layout's first.")] = None,
    page: Annotated[
        Path | None,
        typer.Option(callback=can_appear, help="Write a page with thumbnails there. It shows patients."),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(callback=can_appear, help="Write the shareable data card there, as JSON.")
    ] = None,
    volume_size: Annotated[
        tuple[int, int, int], typer.Option(help="Volumes: voxels that are looked at, about the centre.")
    ] = (64, 64, 64),
    labels: Annotated[Path | None, typer.Option(help="The table of labels, where it lies elsewhere.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="The study's classes in its order, separated by commas.")
    ] = None,
    leave_out: Annotated[
        str | None, typer.Option(help="Labels and patients whose rows are left out, separated by commas.")
    ] = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="dicom, bids: what is read, such as CT or T1w; may be given several times."),
    ] = None,
    bits: Annotated[int, typer.Option(help="Bits that grey pictures in files of 16 bits use.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Read a data folder and say what is in it, what is odd and what to do. For the hospital's own screen."""
    from tempfile import TemporaryDirectory

    from wardround.cli.terminal import Terminal
    from wardround.errors import as_one
    from wardround.images.layouts.guess import guess_layout
    from wardround.images.listing import Classes, ReaderOptions
    from wardround.images.load import load_images, open_layout
    from wardround.images.quality.facts import facts_of_folder
    from wardround.images.quality.inspection import inspect
    from wardround.images.quality.lines import lines
    from wardround.images.quality.measure import without_colour
    from wardround.images.rows.recipe import PictureRecipe, VolumeRecipe

    options = ReaderOptions(
        labels=labels,
        classes=None if classes is None else Classes(_listed(classes)),
        leave_out=_listed(leave_out or ""),
        modalities=tuple(modality) if modality else None,
        looking=True,
    )
    if layout is None:
        with open_layout(layout, path, looking=True) as store:
            layout = guess_layout(store, labels)
    with TemporaryDirectory() as cache, Terminal(console()) as terminal:
        terminal.stage(f"reading {layout}")
        images = load_images(
            layout, path, cache_dir=Path(cache), task=task, skip_unreadable=True, options=options,
            recipes=[PictureRecipe(64, 3, bits=bits), VolumeRecipe(volume_size)], progress=terminal.progress,
        )  # fmt: skip
        images = without_colour(images)
        terminal.stage("looking at every picture")
        found = inspect(images, facts=facts_of_folder(images), progress=terminal.progress)
        if page is not None:
            from wardround.images.quality.page import write_page

            write_page(found, images, page)
        if card is not None:
            write_whole(card, (json.dumps(found.card.shareable(), indent=2) + "\n").encode())
        beside = [] if page is None else [f"page: {page}  (shows patients: do not send)"]
        tell(as_json, found.to_json(), *lines(found, images), *beside)
    if images.findings.refusals:
        raise as_one(images.findings.refusals)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",")) if text else ()
