"""Work that is spread over the cores: each has a copy of its own of all that the work changes."""

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

from wardround.per_patient.guards.draws import DrawsInWorker, drawing
from wardround.per_patient.process import workers
from wardround.training.device import CPU

Copy = TypeVar("Copy")
Item = TypeVar("Item")
Found = TypeVar("Found")


def spread(copies: Sequence[Copy], function: Callable[[Copy, Item], Found], items: Sequence[Item]) -> list[Found]:
    """Returns a function of each item, computed with a copy that no other thread has meanwhile.

    Each kernel has one thread.

    Raises:
        DrawsInWorker: the function draws from torch's generator, which all threads share.
    """
    free: SimpleQueue[Copy] = SimpleQueue()
    for each in copies:
        free.put(each)

    def found(item: Item) -> Found:
        mine = free.get()
        try:
            return function(mine, item)
        finally:
            free.put(mine)

    with workers(len(copies)) as pool, drawing(None, CPU) as watched:
        all_found = list(pool.map(found, items))
    if watched.unforeseen:
        raise DrawsInWorker
    return all_found
