"""One hostile input, and ways to make one of a valid file."""

import os
from dataclasses import dataclass
from typing import Any

HUGE = 10**12


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Args:
        name: for messages.
        operation: what the worker does with it, and its arguments.
        neighbour: the same for the valid input that it was made from.
        must_refuse: it would be read wrong if it were read.
    """

    name: str
    operation: list[Any]
    neighbour: list[Any]
    must_refuse: bool = False


def changed(content, generator, count):
    """The content cut, lengthened, with bytes turned, and with the fields of a header set to extremes."""
    for number in range(count):
        data = bytearray(content)
        match number % 6:
            case 0:
                data = data[: generator.integers(0, len(data))]
            case 1:
                for at in generator.integers(0, min(len(data), 200), 3):
                    data[at] = generator.integers(0, 256)
            case 2:
                for at in generator.integers(0, len(data), 20):
                    data[at] = generator.integers(0, 256)
            case 3:
                at = int(generator.integers(0, max(1, min(len(data), 400) - 4)))
                data[at : at + 4] = b"\xff\xff\xff\x7f"
            case 4:
                at = int(generator.integers(0, max(1, min(len(data), 400) - 4)))
                data[at : at + 4] = bytes(4)
            case 5:
                at = int(generator.integers(0, len(data)))
                data[at:at] = generator.bytes(int(generator.integers(1, 5000)))
        yield f"change {number}", bytes(data)


def special(path):
    """Things in the place of a file that are no files."""

    def pipe(place):
        os.mkfifo(place)

    def device(place):
        place.symlink_to("/dev/zero")

    def sparse(place):
        with place.open("wb") as file:
            file.truncate(1 << 40)

    def loop(place):
        place.symlink_to(place.name)

    def folder(place):
        place.mkdir()

    for make in (pipe, device, sparse, loop, folder):
        place = path.with_name(f"{make.__name__}-{path.name}")
        make(place)
        yield make.__name__, place


def checked(root, layout, *options):
    return ["command", "data", "check", str(root), "--layout", layout, "--json", *options]
