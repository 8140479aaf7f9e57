"""Processes forked from this one, which compute for it beside one another, each with a copy of all memory.

A process has an interpreter, a heap and a torch of its own. Threads of one process wait for each other at each call of
a small kernel, and the C library gives large memory of a thread back after each step.

Released: nothing. An item and its result stay in memory that the two processes share. No file of this process stays
open in another one: a ledger's lock that a process held on to would outlive its owner.
"""

import mmap
import os
import pickle
import signal
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Generic, NoReturn, TypeVar

import torch

from wardround.boundary.copies import settle, uninterrupted
from wardround.per_patient.process import keep_all_in_heap, one_at_a_time

Context = TypeVar("Context")
Item = TypeVar("Item")
Found = TypeVar("Found")

_LINE = 64
"""Arrays begin at multiples of so many bytes, as torch's own do: kernels round by where a tensor begins."""


@dataclass(frozen=True)
class _Parcel:
    """A pickled value, whose arrays lie in a block that two processes share, as far as there is room."""

    content: bytes
    places: tuple[slice, ...]

    @classmethod
    def of(cls, value: object, block: mmap.mmap) -> "_Parcel":
        """Returns the parcel of a value, and writes its arrays into the block."""
        places: list[slice] = []
        room = memoryview(block)

        def is_left(buffer: pickle.PickleBuffer) -> bool:  # to pickle itself
            raw, start = buffer.raw(), -(-(places[-1].stop if places else 0) // _LINE) * _LINE
            place = slice(start, start + raw.nbytes)
            if place.stop <= len(room):
                room[place] = raw
                places.append(place)
            return place.stop > len(room)

        return cls(pickle.dumps(value, 5, buffer_callback=is_left), tuple(places))

    def value(self, block: mmap.mmap, *, copied: bool) -> Any:
        """Returns the value; its arrays lie in the block unless they are copied out of it."""
        room = memoryview(block)
        return pickle.loads(
            self.content, buffers=[bytearray(room[at]) if copied else room[at] for at in self.places]
        )


def can_fork() -> bool:
    """Returns whether copies of this process can train.

    System libraries of macOS do not survive a fork, and Windows has none. Where torch sees a GPU, its first backward
    pass starts a thread for it, on the processor too, and refuses all passes in copies from then on.
    """
    return sys.platform == "linux" and not torch.cuda.is_available()


class _Killed(Exception):  # control flow of this module; it never leaves it
    """Signal that a process was killed, by its user or by a system without memory."""


@dataclass(frozen=True)
class _Process:
    """A forked process, a pipe to it, and the blocks of items and of results."""

    pid: int
    pipe: "Connection[Any, Any]"
    asked: mmap.mmap
    answered: mmap.mmap

    def ask(self, function: Callable[..., object], place: int, item: object) -> tuple[int, _Parcel]:
        """Sends an item, and returns its place and its parcel."""
        parcel = _Parcel.of(item, self.asked)
        with suppress(OSError):  # one that was killed answers by the end of its pipe
            self.pipe.send((function, parcel))
        return place, parcel

    def answer(self) -> Any:
        """Returns the result, once it is there.

        Raises:
            _Killed: the process was.
            Exception: of the function.
        """
        try:
            parcel, error, warned = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise _Killed from error
        for category, text in warned:
            warnings.warn(text, category, stacklevel=3)
        if error is not None:
            raise error
        return parcel.value(self.answered, copied=True)

    def end(self) -> None:
        """Ends the process, which holds nothing that would be lost."""
        self.pipe.close()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


class Processes(Generic[Context]):
    """Processes that compute functions of a context; each has it as it was when that process was forked.

    They end with this object, or with this process. None reads or writes a file, and none prints.

    Args:
        most: processes at one time; they are forked when there are items for them.
        room: bytes of the arrays of an item, and of those of its result; larger ones take longer.
    """

    def __init__(self, most: int, room: int) -> None:
        self._most, self._room = most, room
        self._all: list[_Process] = []
        self._free: list[_Process] = []  # none of them has an answer that was not read
        self._owner = os.getpid()
        weakref.finalize(self, _end, self._all, self._owner)

    def each(
        self, function: Callable[[Context, Item], Found], items: Sequence[Item], context: Context
    ) -> Iterator[tuple[int, Found]]:
        """Yields the place of each item and a function of the context and that item, in the order they are done.

        An error of the function is raised here and ends all processes; others are forked for the next items. Warnings
        of the function are given here. An item whose process was killed is computed in this one, where nothing of it
        was seen: no number is drawn for two results. A copy of the owner, as each process is, computes all itself.

        Args:
            function: of a module, found again by its name.
            items: picklable, as results are; a stream in them moves (`wardround.randomness.Stream`).
            context: to fork with.
        """
        if os.getpid() != self._owner:
            yield from enumerate(function(context, item) for item in items)
            return
        waiting = list(enumerate(items))[::-1]
        at_work = dict[Any, tuple[_Process, int, _Parcel]]()
        try:
            while waiting or at_work:
                while waiting and (process := self._free.pop() if self._free else self._forked(context)):
                    at_work[process.pipe] = process, *process.ask(function, *waiting.pop())
                if not at_work:  # no process can be had
                    place, item = waiting.pop()
                    yield place, function(context, item)
                    continue
                for pipe in wait(list(at_work)):
                    process, place, parcel = at_work.pop(pipe)
                    try:
                        found = process.answer()
                    except _Killed:
                        self._all.remove(process)
                        process.end()
                        found = function(context, parcel.value(process.asked, copied=True))
                    else:
                        if waiting:  # before somebody takes time over what was found
                            at_work[pipe] = process, *process.ask(function, *waiting.pop())
                        else:
                            self._free.append(process)
                    yield place, found
        except BaseException:
            self.close()  # others would answer later
            raise

    def in_order(
        self, function: Callable[[Context, Item], Found], items: Sequence[Item], context: Context
    ) -> Iterator[Found]:
        """Yields what `each` does in the order of the items; a result waits for those before it."""
        waiting: dict[int, Found] = {}
        following = 0
        for place, found in self.each(function, items, context):
            waiting[place] = found
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def close(self) -> None:
        """Ends all processes; others are forked when there are items for them."""
        self._free.clear()
        _end(self._all, self._owner)

    def _forked(self, context: Context) -> _Process | None:
        """Returns a new process; None where there are enough, or the system has no room for it."""
        if len(self._all) >= self._most:
            return None
        try:
            asked, answered = mmap.mmap(-1, self._room), mmap.mmap(-1, self._room)
            owner = os.getpid()
            with ExitStack() as unknown:
                ours, theirs = Pipe()
                unknown.callback(ours.close)  # and so ends a process that an interrupt kept from being noted
                with theirs, one_at_a_time(), uninterrupted():  # of no lock of ours is another thread the owner
                    if not (pid := os.fork()):
                        _serve(owner, context, theirs, asked, answered)
                self._all.append(_Process(pid, ours, asked, answered))
                unknown.pop_all()
        except OSError:
            self._most = len(self._all)
            return None
        return self._all[-1]


def _end(processes: list[_Process], owner: int) -> None:
    if os.getpid() == owner:  # a copy of the owner has none
        for process in processes:
            process.end()
    processes.clear()


def _serve(
    owner: int, context: object, pipe: "Connection[Any, Any]", asked: mmap.mmap, answered: mmap.mmap
) -> NoReturn:
    """Computes items until the pipe ends; it never returns, so that nothing of the owner is unwound in the copy."""
    try:
        settle(owner, pipe.fileno())
        torch.set_num_threads(1)
        keep_all_in_heap()
        while True:
            function, parcel = pipe.recv()
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    result = function(context, parcel.value(asked, copied=False))
                    answer, error = _Parcel.of(result, answered), None
                except Exception as raised:
                    raised.add_note(traceback.format_exc())  # where it happened is known here only
                    answer, error = None, _portable(raised)
            pipe.send((answer, error, [(each.category, str(each.message)) for each in warned]))
    finally:
        os._exit(0)


def _portable(error: Exception) -> Exception:
    """Returns an error as it is, or in words where its class cannot be pickled and back."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
