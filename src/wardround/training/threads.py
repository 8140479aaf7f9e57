"""Threads of a matrix product, chosen by the work: kernels of microseconds are slower on two threads than on one.

On a machine that others use, a kernel waits for its slowest thread, so the step that all cores gain little from loses
much there. All cores are taken only where they are faster by `GAIN`, measured on random pictures before round 1.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from wardround.models.network import Network
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.clipped_sum import clipped_sum
from wardround.per_patient.process import one_at_a_time
from wardround.training.augment.augmentation import Augmentation

GAIN = 1.1
"""All cores must be faster than one by this factor."""

_PICTURES = 16
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
                started = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - started)
    return cores if GAIN * min(taken[cores]) < min(taken[1]) else 1


def gradient_step(
    network: Network,
    loss: Loss,
    augmentation: Augmentation,
    shape: Sequence[int],
    *,
    has_masks: bool,
    memory_bytes: int,
) -> Callable[[], object]:
    """Returns one private gradient sum of random pictures, (channel, *space) each, and each a patient's."""
    drawn = np.random.default_rng(0).integers(0, 256, (_PICTURES, *shape), dtype=np.uint8)
    shown, _ = augmentation.centre(torch.from_numpy(drawn))
    with torch.no_grad():
        inputs = network.encode(shown)
    space = inputs.shape[2:] if has_masks else ()
    labels = torch.zeros((_PICTURES, *space), dtype=torch.int64)
    batch = PatientBatch(inputs, labels, torch.arange(_PICTURES), _PICTURES)
    return lambda: clipped_sum(network.trained, loss, batch, clipping_norm=1.0, memory_bytes=memory_bytes)
