"""State of torch that a whole process shares: generators and the number of threads, changed by one caller at a time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_ONE_AT_A_TIME = threading.RLock()
"""Dropout draws from a generator that the whole process shares, and a slow module's parameters are others while it
runs: not even which parameters a network has may be asked meanwhile."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def one_at_a_time(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function, entered by one thread at a time."""

    @wraps(function)
    def alone(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with _ONE_AT_A_TIME:
            return function(*args, **kwargs)

    return alone


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for each kernel, for computations of few pictures; the number is put back afterwards.

    A kernel of microseconds, split in two, waits longer for its second thread than it computes, and very long where
    the processor is shared: with two threads on two cores one picture took SqueezeNet three times as long as with
    one, and AlexNet and ResNet-18 no less. The number is the process's: others wait at `one_at_a_time` meanwhile.
    """
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def dropout_from(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from the global generators and from nowhere else: seeded inside, put back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # the other also notes for CUDA where it was called from
        else:
            torch.manual_seed(seed)
        yield
