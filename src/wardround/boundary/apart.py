"""A process apart, which makes the pages of a command: it imports what draws them while this one imports torch.

A quarter of a second at the end of a run was imports and first calls of matplotlib and Jinja2; on another core they
are done before the first round. Released: nothing. Values and pages stay between two processes of one machine, through
a pipe.
"""

import gc
import importlib
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn

from wardround.boundary.copies import settle, uninterrupted


@dataclass(frozen=True)
class _Apart:
    """The process, as its owner sees it."""

    owner: int
    pipe: "Connection[Any, Any]"


_LAST_STANDARD = 2
"""Standard error; a stream that was closed before the command leaves its number to the next file."""

_PATIENCE_S = 120.0
"""Seconds that an answer is waited for: many times what the largest pages take."""

_begun: list[_Apart] = []  # one at most


def begin(module: str, function: str) -> None:
    """Forks the process, which calls a function; or does nothing, where that would be unsafe or gain nothing.

    Args:
        module: of the function; others of it will be asked for.
        function: without values; it prepares the others.
    """
    if _begun or "torch" in sys.modules or threading.active_count() > 1 or not _has_a_core():
        return
    owner = os.getpid()
    with suppress(OSError):  # the system has no room for it
        ours, theirs = Pipe()
        if min(ours.fileno(), theirs.fileno()) <= _LAST_STANDARD:  # text that is printed would go to the process
            return
        with theirs, uninterrupted():
            if not os.fork():
                _serve(owner, module, function, theirs)
        _begun.append(_Apart(owner, ours))


def made(module: str, function: str, *values: object, **named: object) -> Any:
    """Returns what a function of a module makes of picklable values, in the process apart or, without one, in this.

    Raises:
        Exception: of the function, or of the import of its module; it was then tried in this process.
    """
    if _begun and _begun[0].owner == os.getpid():  # a copy of the owner has none
        with suppress(OSError, EOFError):
            _begun[0].pipe.send((module, function, values, named))
            if _begun[0].pipe.poll(_PATIENCE_S):
                is_made, value = _begun[0].pipe.recv()
                if is_made:
                    return value
        _begun.clear()
    return _function(module, function)(*values, **named)


def _has_a_core() -> bool:
    return sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1


def _function(module: str, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _serve(owner: int, module: str, first: str, pipe: "Connection[Any, Any]") -> NoReturn:
    """Makes pages until the pipe ends. It never returns, so that nothing of the owner is unwound in the copy."""
    try:
        settle(owner, pipe.fileno())
        gc.disable()
        _function(module, first)()
        while True:
            asked, function, values, named = pipe.recv()
            try:
                answer = True, _function(asked, function)(*values, **named)
            except Exception:
                answer = False, None  # it is raised where it can be said
            pipe.send(answer)
    finally:
        os._exit(0)
