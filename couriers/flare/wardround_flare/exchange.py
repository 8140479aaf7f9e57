"""A message in parts over any engine that can ask a site and bring its reply; the engine's own file is `courier`.

    coordinator -> FOLDER/NAME.sock -> Line == requests of the engine ==> Hand -> the agent's socket

A message is the bytes of one frame (`wardround.transport.frames`): of a frame the courier reads the mark, the kind and
the length, and of its content nothing. While the agent works it gives signs of life, frames of a kind of their own, and
the coordinator gets one for each. Delivery is at least once: after any loss the same bytes are sent again, and a
hospital answers them with the same bytes. A request has a part of a message, or asks for a part of the answer; while
the agent works it is held open for a few seconds at most, so that a silent site and a coordinator that hung up are
noticed however long the work takes. Parts grow on a fast line, where the time of a request is not in its bytes.
"""

import contextlib
import fcntl
import os
import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

PART_BYTES = 4 << 20
"""Most bytes of a message in one request of the engine at first, and in one buffer."""
MOST_PARTS = 4
"""Most buffers in one request or reply. Each way has a count of its own, for a line may be slow one way only. It
doubles after full parts that took less than `FAST_S`, and is one after a loss."""
FAST_S = 1.0
MOST_BYTES = (1 << 30) + 4096
"""Most bytes of a message; a longer one is refused at its header."""
WAIT_S = 5.0
"""Seconds for which a hospital's side holds a request open while its agent works."""
REPLY_S = 15.0
"""Deadline of a request of the engine without a part."""
SILENT_S = 2 * REPLY_S
"""Deadline of a request with a part, on a slow line too: 1.2 Mbit/s a site; and seconds without any reply of a site
after which, and `IDLE_S`, the job ends, so that it can be started again."""
IDLE_S = 10.0
"""Seconds after which an idle site is asked for a sign of life."""
AWAY_S = 5.0
"""Seconds for which an agent that cannot be reached is tried."""
MOST_LOSSES = 10
"""Connections that an agent may lose in one exchange."""

_HEADER = struct.Struct(">4sBI")
_MARK = b"WRD\x01"
_WORKING = 3
_SIGN = _HEADER.pack(_MARK, _WORKING, 0)
_SLOW_S = 60.0

Part = bytes | bytearray | memoryview
Parts = Sequence[Part]
"""Buffers of `PART_BYTES`, the last one shorter, that are carried as one."""
Answer = tuple[Mapping[str, Any], Parts]
Ask = Callable[[dict[str, Any], Parts, float], tuple[Mapping[str, Any], Part] | None]
"""Sends one request, its fields and parts, to a site within a deadline in seconds; None where it is not answered."""


class FrameError(Exception):
    """The bytes that arrived begin no frame, or one that is too long."""


def read_frame(link: socket.socket) -> list[bytearray]:
    """Returns the bytes of one frame, its header included, in parts of `PART_BYTES`; memory grows with what arrives.

    Raises:
        FrameError: it is none, or too long.
        OSError: the connection ended or was too slow.
    """
    header = bytearray(_HEADER.size)
    _fill(link, memoryview(header))
    mark, _, length = _HEADER.unpack(header)
    if mark != _MARK or length + _HEADER.size > MOST_BYTES:
        raise FrameError
    parts, start, left = list[bytearray](), _HEADER.size, length + _HEADER.size
    while left:
        part = bytearray(min(PART_BYTES, left))
        part[:start] = header[:start]
        _fill(link, memoryview(part)[start:])
        parts.append(part)
        start, left = 0, left - len(part)
    return parts


def _fill(link: socket.socket, free: memoryview) -> None:
    while free:
        arrived = link.recv_into(free)
        if not arrived:
            raise ConnectionResetError
        free = free[arrived:]


@dataclass(eq=False)
class _Exchange:
    """One message on its way to the agent, and the agent's answer."""

    id: str
    size: int
    parts: list[memoryview] = field(default_factory=list)
    held: int = 0
    answer: list[bytearray] = field(default_factory=list)
    signs: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    dropped: threading.Event = field(default_factory=threading.Event)


class Hand:
    """Hands messages to one agent, one at a time; a new message drops the last.

    One thread and one connection stay from message to message.

    Args:
        path: of the agent's socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._current = _Exchange("", 0)
        self._whole: SimpleQueue[_Exchange] = SimpleQueue()
        self._link: socket.socket | None = None
        threading.Thread(target=self._carry_each, daemon=True).start()

    def drop(self) -> None:
        """Ends the exchange under way: another one took its place, or nobody waits for its answer."""
        exchange = self._current
        exchange.dropped.set()
        link = self._link  # `_carry` takes it away in another thread
        if link is not None and not exchange.ended.is_set():
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def answer(self, request: Mapping[str, Any], part: Part) -> Answer:
        """Takes a part of a message in; returns how far it is held, or parts of the agent's answer.

        Raises:
            KeyError, TypeError, ValueError: it is no request of a `Line`.
        """
        id, size, offset, want = (request[key] for key in ("id", "size", "offset", "want"))
        most = request.get("most", 1)  # older kits state none
        if not id:  # a sign of life is asked for
            return {"state": "there"}, ()
        if not 0 < size <= MOST_BYTES or not 0 < most <= MOST_PARTS or len(part) > MOST_PARTS * PART_BYTES:
            raise ValueError("a part of a message must lie within its size")
        if min(offset, want) < 0:
            raise ValueError("a part of a message must not begin before it")
        with self._lock:
            exchange = self._current
            if id != exchange.id:
                if offset:
                    return {"state": "unknown"}, ()
                self.drop()
                exchange = self._current = _Exchange(id, size)
            if exchange.held == offset < exchange.size:
                exchange.parts.append(memoryview(part)[: exchange.size - offset])
                exchange.held += len(exchange.parts[-1])
                if exchange.held == exchange.size:
                    self._whole.put(exchange)
            if exchange.held < exchange.size:
                return {"state": "held", "held": exchange.held}, ()
        if not exchange.ended.wait(WAIT_S):
            return {"state": "working", "signs": exchange.signs}, ()
        if not exchange.answer:
            return {"state": "gone"}, ()
        first, fields = want // PART_BYTES, {"state": "answer", "size": sum(map(len, exchange.answer))}
        return fields, exchange.answer[first : first + most]

    def _carry_each(self) -> None:
        while True:
            exchange = self._whole.get()
            self._carry(exchange)
            exchange.parts.clear()
            exchange.ended.set()

    def _carry(self, exchange: _Exchange) -> None:
        """Sends a message to the agent, again where the connection was lost, and keeps the answer."""
        away_since, losses = time.monotonic(), 0
        while not exchange.dropped.is_set() and losses <= MOST_LOSSES and time.monotonic() - away_since < AWAY_S:
            try:
                link = self._connected()
                if exchange.dropped.is_set():  # before it could shut the connection down
                    return
                for part in exchange.parts:
                    link.sendall(part)
                while (frame := read_frame(link))[0][len(_MARK)] == _WORKING:
                    exchange.signs += 1
                exchange.answer = frame
                return
            except FrameError:
                self._disconnect()
                return
            except OSError:
                if self._link is not None:
                    self._disconnect()
                    away_since, losses = time.monotonic(), losses + 1
                time.sleep(0.1)

    def _connected(self) -> socket.socket:
        if self._link is None:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(self._path)
            except OSError:
                link.close()
                raise
            self._link = link
        return self._link

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


class Line:
    """The way to one site: its socket, one message at a time, and since when it was not heard."""

    def __init__(self, name: str, path: Path, ask: Ask) -> None:
        self.name, self._path, self._engine_ask = name, path, ask
        self._heard, self.is_there, self._closed = time.monotonic(), False, False
        self._turn = threading.Lock()
        self._most_sent = self._most_answered = 1
        self._listener: socket.socket | None = None

    @property
    def is_silent(self) -> bool:
        """True where the site was asked for `SILENT_S` and said nothing."""
        return time.monotonic() - self._heard > SILENT_S + IDLE_S

    def greet(self, end: float, is_ended: Callable[[], bool]) -> None:
        """Waits until the site is there, or `end`."""
        while not self.is_there and not is_ended() and time.monotonic() < end:
            self.is_there = self._ask("", 0, 0, (), 0, 2.0) is not None

    def listen(self) -> None:
        """Makes the socket, mode 0600, and serves it in threads."""
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(self._path))
        finally:
            os.umask(before)
        self._listener.listen()
        self._heard = time.monotonic()
        for work in (self._accept, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        """Closes the socket; connections end with the job's process."""
        self._closed = True
        if self._listener is not None:
            self._path.unlink(missing_ok=True)
            self._listener.close()

    def _accept(self) -> None:
        while self._listener is not None and not self._closed:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _watch(self) -> None:
        """Asks an idle site for a sign of life."""
        while not self._closed:
            time.sleep(1.0)
            if time.monotonic() - self._heard > IDLE_S and self._turn.acquire(blocking=False):
                try:
                    self._ask("", 0, 0, (), 0, REPLY_S)
                finally:
                    self._turn.release()

    def _serve(self, link: socket.socket) -> None:
        """Carries the messages of one connection; closes it where no answer can be had, or a reply is none."""
        with link, contextlib.suppress(OSError, FrameError, LookupError, TypeError, ValueError):
            while not self._closed:
                link.settimeout(None)
                select.select([link], [], [])
                link.settimeout(_SLOW_S)
                message = read_frame(link)
                with self._turn:
                    if not self._exchange(message, lambda: _is_waiting(link) and not self._closed, link.sendall):
                        return

    def _exchange(
        self, message: list[bytearray], goes_on: Callable[[], bool], tell: Callable[[Part], None]
    ) -> bool:
        """Sends the coordinator the agent's answer, part by part as it comes, and before it the agent's signs of life.

        Returns False where there is no whole answer: the agent is away, the site's process ended while it answered, or
        the coordinator has hung up.
        """
        size, id, offset, told, signs = sum(map(len, message)), uuid.uuid4().hex, 0, 0, 0
        while goes_on():
            parts, began = message[offset // PART_BYTES :][: self._most_sent], time.monotonic()
            got = self._ask(id, size, offset, parts, told, SILENT_S if parts else REPLY_S)
            if got is None:  # lost on the way: the same bytes again
                self._most_sent = self._most_answered = 1
                time.sleep(0.2)
                continue
            fields, part = got
            is_fast = time.monotonic() - began < FAST_S
            match fields["state"]:
                case "held" if not told and offset < int(fields["held"]) <= size:
                    offset = int(fields["held"])
                    if is_fast:
                        self._most_sent = min(2 * self._most_sent, MOST_PARTS)
                case "working":
                    offset = size
                    if int(fields["signs"]) > signs:
                        signs = int(fields["signs"])
                        tell(_SIGN)
                case "answer" if 0 < len(part) <= int(fields["size"]) - told <= MOST_BYTES - told:
                    message.clear()
                    told += len(part)
                    tell(part)
                    if is_fast and len(part) == self._most_answered * PART_BYTES:
                        self._most_answered = min(2 * self._most_answered, MOST_PARTS)
                    if told == int(fields["size"]):
                        return True
                case "unknown" if not told:  # the site's process is a new one
                    id, offset, signs = uuid.uuid4().hex, 0, 0
                case _:
                    return False
        return False

    def _ask(
        self, id: str, size: int, offset: int, parts: Parts, want: int, timeout: float
    ) -> tuple[Mapping[str, Any], Part] | None:
        fields = {"id": id, "size": size, "offset": offset, "want": want, "most": self._most_answered}
        answer = self._engine_ask(fields, parts, timeout)
        if answer is not None:
            self._heard = time.monotonic()
        return answer


def _is_waiting(link: socket.socket) -> bool:
    """Returns whether the other end is there; a closed connection cancels its exchange."""
    readable, _, _ = select.select([link], [], [], 0)
    return not readable or bool(link.recv(1, socket.MSG_PEEK))


@contextlib.contextmanager
def open_locked(path: Path) -> Iterator[Any]:
    """Opens a file, mode 0600 and empty, that this process alone holds; waits for another process to end."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        yield file
