"""Copies of this process: what a fork must hold back, and what a copy must give up, before it works for its owner.

Released: nothing. No file of the owner stays open in a copy: a ledger's lock that a copy held on to would outlive it.
"""

import ctypes
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_ON_DEATH_OF_OWNER = 1
"""`PR_SET_PDEATHSIG` of prctl(2)."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds signals back: a copy must not go on as its owner. Python warns of forks beside threads, which is heeded."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def settle(owner: int, kept: int) -> None:
    """Makes a copy that was forked within `uninterrupted` work for its owner: it prints nothing, and ends with it.

    Args:
        owner: process that forked this one.
        kept: file that stays open, the pipe to the owner.
    """
    ctypes.CDLL(None).prctl(_ON_DEATH_OF_OWNER, signal.SIGKILL)  # an item may take hours
    if os.getppid() != owner:
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    _leave_files(kept)
    logging.disable(logging.CRITICAL)
    gc.freeze()  # objects of the owner are not ours to finalize


def _leave_files(kept: int) -> None:
    """Closes all files of the owner but one; what would be printed goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    sys.stdout = sys.stderr = open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    for number in map(int, os.listdir("/proc/self/fd")):  # all that a system allows may be a billion
        if number > 2 and number != kept:
            with suppress(OSError):  # the one of the list itself
                os.close(number)
