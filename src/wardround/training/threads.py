"""Threads of a matrix product, chosen by the work: kernels of microseconds are slower on two threads than on one.

On a machine that others use, a kernel waits for its slowest thread, so the step that all cores gain little from loses
much there. All cores are taken only where they are faster by `GAIN`, measured on random pictures before round 1.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch

from wardround.per_patient.process import one_at_a_time

GAIN = 1.1
"""All cores must be faster than one by this factor."""

_TIMES = 3
_LONG_S = 1.0
"""A step that takes longer on one thread is timed once for each number of threads."""


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Sets the threads of a matrix product, if a number is given, and restores them."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_at_a_time()
def faster(step: Callable[[], object], cores: int) -> int:
    """Returns 1, or the number of cores where a step is faster on all of them by `GAIN`."""
    taken: dict[int, list[float]] = {1: [], cores: []}
    for threads in taken:  # the first call on so many threads starts them
        with using_threads(threads):
            step()
    while len(taken[1]) < _TIMES and max(taken[1], default=0.0) < _LONG_S:
        for threads, seconds in taken.items():
            with using_threads(threads):
                seconds.append(_seconds(step))
    return cores if GAIN * min(taken[cores]) < min(taken[1]) else 1


def least_seconds(step: Callable[[], object], numbers: Collection[int] = (1,)) -> float:
    """Returns the least seconds of three steps on each number of threads; several wait for other programs.

    The first step may look at a network, once for all rounds.
    """
    found = []
    for threads in sorted(numbers) * _TIMES:
        with using_threads(threads):
            found.append(_seconds(step))
    return min(found)


def _seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
