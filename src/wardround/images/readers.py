"""The one dictionary that names the layouts on disk. A new layout is one function and a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wardround.images import chest_xray, folder
from wardround.images.entries import Listing, Task


@dataclass(frozen=True)
class Reader:
    """How one layout is read.

    Args:
        read: from the data folder and the task to the pictures it holds; decodes nothing.
        expected: the layout in one line, for the error when something else is found.
    """

    read: Callable[[Path, Task], Listing]
    expected: str


READERS: dict[str, Reader] = {
    "chest_xray": Reader(chest_xray.read_chest_xray, chest_xray.EXPECTED),
    "folder": Reader(folder.read_folder, folder.EXPECTED),
}

PHANTOM = "phantom"
"""The generated layout: it has options instead of a folder."""

LAYOUTS = (*READERS, PHANTOM)
