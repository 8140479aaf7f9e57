"""The number of runs that this machine can hold at once."""

import os
from collections.abc import Collection
from pathlib import Path

from wardround.config import Study
from wardround.simulation.estimate import estimate

_LIBRARIES_BYTES = 700_000_000
"""Memory of a process that has read no picture: mostly torch."""


def cores() -> int:
    """Returns the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def free_memory() -> int | None:
    """Returns the bytes that can be had without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def memory_of(study: Study) -> int:
    """Returns the bytes that a run of this study takes at its peak, libraries and all.

    Raises:
        WardroundError: anything that the run would refuse before it opens an image.
    """
    return estimate(study).memory_bytes + _LIBRARIES_BYTES


def workers_for(runs: int, memory: Collection[int], threads: Collection[int], asked: int | None) -> int:
    """Returns the runs at once: as many as asked for, cores, and memory allow; at least one.

    Args:
        runs: in all.
        memory: bytes that they take, as far as known.
        threads: numbers of threads that some of them insist on.
        asked: at most this many; None asks for no fewer than possible.
    """
    limits = [runs, cores() // max(threads, default=1)]
    free, largest = free_memory(), max(memory, default=0)
    if free is not None and largest:
        limits.append(free // largest)
    if asked is not None:
        limits.append(asked)
    return max(1, min(limits))
