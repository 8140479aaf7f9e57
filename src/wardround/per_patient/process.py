"""Torch state that a whole process shares: generators, threads, precision of products. One caller at a time."""

import ctypes
import os
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

_LARGEST_IN_HEAP = 1 << 25
"""glibc maps larger memory anew each time: the largest limit that it comes to by itself (`mallopt(3)`)."""

_WHILE_CHECKING, _BETWEEN_STEPS = 1 << 20, 1 << 30
_MAPPED_BY_DEFAULT = 1 << 16
_mapped = _MAPPED_BY_DEFAULT
_ALL = -1
_keeps_all = False
_KEPT_AT_TOP, _MAPPED_FROM, _MAPPED_AT_MOST = -1, -3, -4
"""`M_TRIM_THRESHOLD`, `M_MMAP_THRESHOLD` and `M_MMAP_MAX` of glibc's malloc.h."""


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
    and none draws from torch's generator, which the thread that asks watches (`guards.draws.drawing`).
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


def keep_heap() -> None:
    """Keeps free memory of the heap for the next step (glibc on Linux; elsewhere does nothing).

    Two limits of the process stay: what is larger than 32 MB is mapped, as glibc by itself does in a process with large
    tensors, and up to 1 GB that is free at the heap's end is kept, which would otherwise go back to the operating
    system and have every page cleared in each step (up to 0.3 s a step of DenseNet-121). Limits in the environment
    (`MALLOC_...`, `GLIBC_TUNABLES`) are left as they are.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_MAPPED_AT_MOST, _mapped)
        library.mallopt(_MAPPED_FROM, _LARGEST_IN_HEAP)
        library.mallopt(_KEPT_AT_TOP, _ALL if _keeps_all else _BETWEEN_STEPS)


def keep_all_in_heap() -> None:
    """Keeps all free memory, and maps nothing from now on, in checks neither: for a process that only takes steps.

    Vectors above 32 MB, as long as the weights, would have every page cleared in each step. A check outside of the heap
    would have every page cleared for each patient, and steps after it would begin with an empty heap: a third of the
    first round of ResNet-18. Peaks of its two processes were 3.3 and 3.6 GB so, and 3.5 and 3.9 GB with checks outside
    (one seeded run each).
    """
    global _mapped, _keeps_all
    _mapped, _keeps_all = 0, True
    keep_heap()


@contextmanager
def in_the_heap() -> Iterator[None]:
    """Takes memory of every size from the C library's heap inside, as `keep_heap` keeps it; one caller at a time.

    Memory above 32 MB would be mapped anew at each request, every page of it cleared, beside holes that have room for
    it: 5 to 10 % of the steps of SqueezeNet and a small CNN, and 30 MB of the former.
    """
    if is_worker():
        yield
        return
    global _mapped
    with _ONE_AT_A_TIME:
        before, _mapped = _mapped, 0
        keep_heap()
        try:
            yield
        finally:
            _mapped = before
            keep_heap()


@contextmanager
def outside_the_heap() -> Iterator[None]:
    """Keeps large memory that is asked for inside out of the C library's heap (glibc on Linux; elsewhere does nothing).

    A check needs several times the memory of a step. In the heap such memory leaves holes between small objects that
    live on, and later steps spread over all of them: twice the memory of a U-Net's step. Outside, it goes back to the
    operating system once it is free. Afterwards free memory of the heap is given back, and its limits are those of
    `keep_heap`. Does nothing after `keep_all_in_heap`.
    """
    library = None if _keeps_all else _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MAPPED_AT_MOST, _MAPPED_BY_DEFAULT)
    library.mallopt(_MAPPED_FROM, _WHILE_CHECKING)
    try:
        yield
    finally:
        keep_heap()
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Returns the C library where its limits are ours to set; None of another one."""
    is_theirs = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    library = ctypes.CDLL(None) if sys.platform == "linux" and not is_theirs else None
    return library if library is not None and hasattr(library, "malloc_trim") else None  # musl has none


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
