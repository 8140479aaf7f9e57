"""The readers of the layouts on disk, by name. A new layout is a module here and a line in `names`."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import get_args

from wardround.images.entries import Task
from wardround.images.layouts.names import LayoutName
from wardround.images.listing import Listing, ReaderOptions
from wardround.images.store import Store


@dataclass(frozen=True)
class Reader:
    """The reader of one layout.

    Args:
        read: from the data folder and the task to the pictures it holds; decodes nothing.
        expected: the layout in one line, for the error when something else is found.
        tasks: the readings of its labels; the first is taken where none is named.
    """

    read: Callable[[Store, Task, ReaderOptions], Listing]
    expected: str
    tasks: tuple[Task, ...]


PHANTOM = "phantom"
"""The generated layout: it has options instead of a folder."""

LAYOUTS: tuple[str, ...] = get_args(LayoutName)


def reader_of(layout: str) -> Reader:
    """Returns the reader of a layout on disk: one of `LAYOUTS`, and not `PHANTOM`."""
    reader: Reader = import_module(f"wardround.images.layouts.{layout}").READER
    return reader
