"""Torch state that a whole process shares: generators, threads, precision of products. One caller at a time."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

_ONE_AT_A_TIME = threading.RLock()
"""Dropout draws from a generator that the whole process shares, and `functional_call` exchanges a module's parameters
while it runs: another thread must not even ask for a network's parameters meanwhile."""


_WORKER = threading.local()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Lets one thread in at a time, and with it the threads that work for it (`workers`)."""
    if is_worker():
        yield
        return
    with _ONE_AT_A_TIME:
        yield


def is_worker() -> bool:
    """Returns whether this thread is one of `workers`."""
    return getattr(_WORKER, "is_one", False)


@contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Gives threads that compute beside one another for the thread that asks, which is let in for as long.

    Each kernel has one thread. Workers must share nothing that one of them changes: each takes a network of its own,
    and none draws from torch's generator (`guards.draws.drawing` refuses that).
    """

    def begin() -> None:
        _WORKER.is_one = True
        torch.set_num_threads(1)

    with one_thread(), in_single_precision(), ThreadPoolExecutor(count, initializer=begin) as pool:
        yield pool


def _switches() -> list[tuple[Any, str, str | bool]]:
    """Returns where torch lets float32 products round their factors: (backend, attribute, value that forbids it)."""
    backends: Any = torch.backends
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    if not hasattr(cuda.matmul, "fp32_precision"):  # torch before 2.9
        return [(cuda.matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    accelerator = [cuda.matmul, cudnn.conv] if cuda.is_built() else []
    return [(backend, "fp32_precision", "ieee") for backend in (mkldnn.matmul, mkldnn.conv, *accelerator)]


_SWITCHES = _switches()
_COARSE = ("tf32", "bf16", True)


@contextmanager
def in_single_precision() -> Iterator[None]:
    """Keeps the factors of float32 products in float32; one caller at a time.

    TF32, which convolutions take on a GPU unless they are told not to, rounds factors to 11 bits, and a processor may
    round them to the 8 bits of bfloat16. A ghost norm and its sum are two products: so coarse, they differ by more than
    the margin of a clip (`margins`). Autocast is another matter: what it rounds is rounded before both products.
    """
    if is_worker():
        yield
        return
    with _ONE_AT_A_TIME:
        coarse = [(backend, name, getattr(backend, name), exact) for backend, name, exact in _SWITCHES]
        coarse = [switch for switch in coarse if switch[2] in _COARSE]
        for backend, name, _, exact in coarse:
            setattr(backend, name, exact)
        try:
            yield
        finally:
            for backend, name, before, _ in coarse:
                setattr(backend, name, before)


def give_back_memory() -> None:
    """Gives memory that is free back to the operating system, where the C library would keep it (glibc on Linux)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


@contextmanager
def one_thread() -> Iterator[None]:
    """Gives each kernel one thread, for computations of few pictures; restores the number afterwards.

    A kernel of microseconds, split in two, waits longer for its second thread than it computes, and very long on a
    shared processor. With two threads on two cores one picture took SqueezeNet three times as long as with one, and
    AlexNet and ResNet-18 at least as long. The number belongs to the process: other callers wait at `one_at_a_time`.
    """
    if is_worker():
        yield
        return
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
