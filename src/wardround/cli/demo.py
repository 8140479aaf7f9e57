"""`wardround demo`: the files of the tutorial, for a first run without a checkout and without real pictures."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.text import say

PICTURES_OF_EACH = 2
"""Generated pictures of each class, of patients whom the study does not have."""


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.")] = Path("demo"),
) -> None:
    """Make a folder with a first study and four pictures to predict."""
    from PIL import Image

    from wardround.errors import DataError
    from wardround.images.layouts.phantom import CLASS_NAMES, PhantomOptions, draw_phantom, list_phantom

    pictures = folder / "pictures"
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise DataError(
            f"FOLDER must be a new folder, and {folder} is there already; name another one.", code="data-exists"
        ) from None
    pictures.mkdir()
    (folder / "demo.toml").write_bytes(files("wardround.cli").joinpath("demo.toml").read_bytes())
    others = PhantomOptions(patients=20, max_images=1, seed=1)
    made = dict.fromkeys(CLASS_NAMES, 0)
    for entry, drawn in zip(list_phantom(others).entries, draw_phantom(others), strict=True):
        name = CLASS_NAMES[entry.label]
        made[name] += 1
        if made[name] <= PICTURES_OF_EACH:
            Image.fromarray(drawn[0]).save(pictures / f"{name}-{made[name]}.png")
    say(
        f"{folder} has a study, demo.toml, and pictures of persons who are not in it. Go on with:",
        f"  wardround check {folder}/demo.toml",
        f"  wardround run {folder}/demo.toml",
        f"  wardround predict runs/demo {pictures}",
    )
