"""The hospital's end of a Unix socket: one thread, one answer at a time.

    socket    mode 0600, or 0660 for the group of a courier

Bytes of all connections arrive side by side, so that a slow one delays no other; answers are computed one after the
other. While one is computed, its connection is sent a sign of life every few seconds. A frame that is none, too long,
stalled, or not complete in time is refused and its connection closed: the hospital is asked nothing, and nothing is
charged. Large frames take turns in the order in which they began, so that memory stays small: see `_take_turns`.

Released: what the hospital answers, and of frames that never reach it a word that they were refused.
"""

import contextlib
import grp
import logging
import os
import selectors
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wardround.errors import FederationError
from wardround.transport.frames import FrameReader, Kind, framed, header_of

_log = logging.getLogger("wardround.transport")

_MOST_CONNECTIONS = 16
_READ_BYTES = 1 << 20
_LONGEST_PATH = 100  # sockaddr_un has 108 bytes, on some systems 104
_STALLED_S = 15.0  # both kinds of sender hold a whole message before they begin to send it
_WAKE = object()
SIGN_S = 5.0
"""Seconds between two signs of life."""


@dataclass(eq=False)
class _Connection:
    """One party that is connected.

    `since` is when its frame or its reply began, or since when it waits no longer; `heard` is when bytes last arrived.
    """

    link: socket.socket
    reader: FrameReader
    since: float
    heard: float = field(init=False)
    out: list[memoryview] = field(default_factory=list)
    is_last: bool = False
    waits: bool = False

    def __post_init__(self) -> None:
        self.heard = self.since

    @property
    def is_idle(self) -> bool:
        return not self.out and not self.reader.num_held

    @property
    def num_bytes(self) -> int:
        """Bytes of its frame and of its reply that are held."""
        return self.reader.num_held + sum(map(len, self.out))


class Server:
    """Answers the messages of all who may open a socket.

    Args:
        path: of the socket. One that was left behind is replaced: the caller holds the folder's lock.
        answer: called with one message at a time, in the thread of `serve`.
        most_bytes: of a message.
        group: whose members may connect as well; None for the owner alone.
        patience_s: seconds in which a frame must have arrived, and a reply been taken.

    Raises:
        FederationError: the socket cannot be made, or the group is unknown.
    """

    def __init__(
        self,
        path: Path,
        answer: Callable[[memoryview], bytes],
        *,
        most_bytes: int,
        group: str | None = None,
        patience_s: float = 60.0,
    ) -> None:
        self.path = path
        self._answer, self._most_bytes, self._patience_s = answer, most_bytes, patience_s
        self._listener = _listening(path, group)
        self._woken, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._woken, selectors.EVENT_READ, _WAKE)
        self._connections: list[_Connection] = []  # in the order in which their frames began

    @contextlib.contextmanager
    def ended_by(self, *signals: int) -> Iterator[None]:
        """Lets these signals end `serve` inside the block as `stop` does; to be entered in the main thread.

        The system writes for them to a socket that `serve` waits for. A handler in Python runs once Python has control:
        of a signal that comes as the wait begins, or to another thread, only after the next frame.
        """
        woken, wake = socket.socketpair()
        with contextlib.ExitStack() as stack:
            stack.enter_context(woken)
            stack.enter_context(wake).setblocking(False)
            self._selector.register(woken, selectors.EVENT_READ, _WAKE)
            stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False))
            for number in signals:
                stack.callback(signal.signal, number, signal.signal(number, lambda *_: None))
            yield

    def stop(self) -> None:
        """Ends `serve` after the answer under way; may be called from another thread."""
        with contextlib.suppress(OSError):
            self._wake.send(b".")

    def serve(self) -> None:
        """Answers until `stop`; the socket is gone afterwards."""
        try:
            while True:
                for key, events in self._selector.select(
                    min(1.0, self._patience_s) if self._connections else None
                ):
                    if key.data is _WAKE:
                        return
                    if key.data is None:
                        self._accept()
                    elif key.data in self._connections:
                        self._attend(key.data, events)
                self._refuse_the_slow()
                self._take_turns()
        finally:
            self._close()

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        if len(self._connections) >= _MOST_CONNECTIONS:
            self._drop(next((one for one in self._connections if one.is_idle), self._connections[-1]))
        connected.setblocking(False)
        connection = _Connection(connected, FrameReader(self._most_bytes), time.monotonic())
        self._connections.append(connection)
        self._selector.register(connected, selectors.EVENT_READ, connection)

    def _attend(self, connection: _Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._write(connection)
            elif events & selectors.EVENT_READ:
                self._read(connection)
        except FederationError as error:
            _log.warning("a frame is refused: %s", error)
            self._reply(connection, error.code.encode(), Kind.REFUSED)
        except OSError:
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            arrived = connection.link.recv(_READ_BYTES)
        except BlockingIOError:
            return
        if not arrived:
            if connection.reader.num_held:
                _log.warning("a frame is refused: it was cut")
            self._drop(connection)
            return
        if connection.is_idle:
            self._begin(connection)
        connection.heard = time.monotonic()
        connection.reader.feed(arrived)
        self._answer_whole(connection)

    def _begin(self, connection: _Connection) -> None:
        connection.since = connection.heard = time.monotonic()
        self._connections.remove(connection)
        self._connections.append(connection)

    def _take_turns(self) -> None:
        """Stops reading frames behind the first one while all but the first hold more than `_READ_BYTES`.

        Without the bound many could fill the memory: they hold one message and one read a connection. The first frame
        is always read, and ends or is refused in time. The time of a frame that waits does not run. A frame that has
        not begun is read once, so that a short message waits for none.
        """
        busy = [one for one in self._connections if not one.is_idle]
        is_full = sum(one.num_bytes for one in busy[1:]) > _READ_BYTES
        for place, one in enumerate(busy):
            waits = is_full and place > 0 and not one.out
            if waits and not one.waits:
                self._selector.unregister(one.link)
            elif one.waits and not waits:
                one.since = one.heard = time.monotonic()
                self._selector.register(one.link, selectors.EVENT_READ, one)
            one.waits = waits

    def _answer_whole(self, connection: _Connection) -> None:
        frame = connection.reader.take()
        if frame is None:
            return
        kind, message = frame
        if kind is not Kind.MESSAGE:
            raise FederationError(
                "A hospital must be sent messages, and got another frame.", code="federation-frame"
            )
        began = time.monotonic()
        with _signs_of_life(connection.link):
            reply = self._answer(message)
        seconds = time.monotonic() - began
        for one in self._connections:  # what arrived meanwhile is not read yet
            one.since, one.heard = one.since + seconds, one.heard + seconds
        self._reply(connection, reply, Kind.MESSAGE)

    def _reply(self, connection: _Connection, content: bytes, kind: Kind) -> None:
        connection.out = [memoryview(header_of(len(content), kind)), memoryview(content)]
        connection.is_last, connection.since = kind is Kind.REFUSED, time.monotonic()
        self._selector.modify(connection.link, selectors.EVENT_WRITE, connection)

    def _write(self, connection: _Connection) -> None:
        with contextlib.suppress(BlockingIOError):
            connection.out[0] = connection.out[0][connection.link.send(connection.out[0]) :]
            if not connection.out[0]:
                del connection.out[0]
        if connection.out:
            return
        if connection.is_last:
            self._drop(connection)
            return
        self._begin(connection)
        self._selector.modify(connection.link, selectors.EVENT_READ, connection)
        self._answer_whole(connection)  # a message that came behind the last one

    def _refuse_the_slow(self) -> None:
        now = time.monotonic()
        for one in [one for one in self._connections if not one.is_idle and not one.waits]:
            if now - one.since > self._patience_s:
                _log.warning("a frame is refused: it took more than %g s", self._patience_s)
            elif not one.out and now - one.heard > _STALLED_S:
                _log.warning("a frame is refused: it was cut")
            else:
                continue
            self._drop(one)

    def _drop(self, connection: _Connection) -> None:
        self._connections.remove(connection)
        if not connection.waits:
            self._selector.unregister(connection.link)
        connection.link.close()

    def _close(self) -> None:
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        for each in (self._listener, self._woken, self._wake):
            each.close()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _signs_of_life(link: socket.socket) -> Iterator[None]:
    """Sends signs of life from a thread of its own, until the block ends.

    A Unix socket takes so few bytes whole, or not at all.
    """
    ended = threading.Event()

    def sign() -> None:
        while not ended.wait(SIGN_S):
            with contextlib.suppress(OSError):  # the other end has gone, or reads nothing
                link.send(framed(b"", Kind.WORKING))

    thread = threading.Thread(target=sign, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _listening(path: Path, group: str | None) -> socket.socket:
    """Returns a listening socket that nobody else could open for a moment, not even before its mode is set."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise FederationError(
            f"The path of a socket must have at most {_LONGEST_PATH} bytes, got {len(os.fsencode(path))}: {path}. "
            "Choose a shorter folder.",
            code="federation-socket",
        )
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        owner = None if group is None else grp.getgrnam(group).gr_gid
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()  # of an agent that was killed
        listener.bind(str(path))
        if owner is not None:
            os.chown(path, -1, owner)
            path.chmod(0o660)
        listener.listen()
        listener.setblocking(False)
    except (OSError, KeyError) as error:
        listener.close()
        reason = f"no group {group}" if isinstance(error, KeyError) else error.strerror
        raise FederationError(
            f"A socket must be made at {path}, and cannot be ({reason}); choose another place or group.",
            code="federation-socket",
        ) from None
    finally:
        os.umask(before)
    return listener
