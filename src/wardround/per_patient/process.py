"""Torch state that a whole process shares: random generators and the number of threads. One caller at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ONE_AT_A_TIME = threading.RLock()
"""Dropout draws from a generator that the whole process shares, and `functional_call` exchanges a module's parameters
while it runs: another thread must not even ask for a network's parameters meanwhile."""


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Lets one thread in at a time."""
    with _ONE_AT_A_TIME:
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Gives each kernel one thread, for computations of few pictures; restores the number afterwards.

    A kernel of microseconds, split in two, waits longer for its second thread than it computes, and very long on a
    shared processor. With two threads on two cores one picture took SqueezeNet three times as long as with one, and
    AlexNet and ResNet-18 at least as long. The number belongs to the process: other callers wait at `one_at_a_time`.
    """
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
