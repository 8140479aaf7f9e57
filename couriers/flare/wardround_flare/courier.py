"""The courier over NVIDIA FLARE: `Bridge` beside the coordinator, `Forward` beside each agent, and their job.

    coordinator -> FOLDER/NAME.sock -> Bridge == FLARE, mutual TLS ==> Forward -> the agent's socket

A message is the bytes of one frame (`wardround.transport.frames`): of a frame the courier reads the mark and the
length, and of its content nothing. It has no data, no key of a study and no ledger, and it decides nothing. Delivery is
at least once: after any loss the same bytes are sent again, and a hospital answers them with the same bytes.

Both places are the machine's own and come from its environment, never from the job: `WARDROUND_SOCKETS` is the folder
in which `Bridge` listens, `WARDROUND_AGENT` the socket that `Forward` connects to.

Released: to each hospital and to the coordinator, bytes that the other one sent. FLARE's server sees all of them, so
that a message is signed, and where it must be secret masked, before it comes here.
"""

import contextlib
import fcntl
import json
import os
import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

SOCKETS = "WARDROUND_SOCKETS"
AGENT = "WARDROUND_AGENT"

PART_BYTES = 1 << 20
"""Most bytes of a message in one request of the engine; longer messages are sent in parts."""
MOST_BYTES = (1 << 30) + 64
"""Most bytes of a message; a longer one is refused at its header."""
WAIT_S = 5.0
"""Seconds for which a hospital's side holds a request open while its agent works."""
REPLY_S = 15.0
"""Deadline of one request of the engine."""
SILENT_S = 2 * REPLY_S
"""Seconds without any reply of a site after which the job ends, so that it can be started again."""
IDLE_S = 10.0
"""Seconds after which an idle site is asked for a sign of life."""
GREETING_S = 45.0
"""Seconds in which sites must have joined a new job; those that have not are not served by it."""
AWAY_S = 5.0
"""Seconds for which an agent that cannot be reached is tried."""
MOST_LOSSES = 10
"""Connections that an agent may lose in one exchange."""

_TOPIC = "wardround"
_HEADER = struct.Struct(">4sBI")
_MARK = b"WRD\x01"
_SLOW_S = 60.0


class FrameError(Exception):
    """The bytes that arrived begin no frame, or one that is too long."""


def read_frame(link: socket.socket) -> bytes:
    """Returns the bytes of one frame, its header included.

    Raises:
        FrameError: it is none, or too long.
        OSError: the connection ended or was too slow.
    """
    frame = bytearray(_exactly(link, _HEADER.size))
    mark, _, length = _HEADER.unpack(frame)
    if mark != _MARK or length + _HEADER.size > MOST_BYTES:
        raise FrameError
    while len(frame) < length + _HEADER.size:
        frame += _exactly(link, min(PART_BYTES, length + _HEADER.size - len(frame)))
    return bytes(frame)


def _exactly(link: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        arrived = link.recv(count - len(got))
        if not arrived:
            raise ConnectionResetError
        got += arrived
    return bytes(got)


@dataclass(eq=False)
class _Exchange:
    """One message on its way to the agent, and the agent's answer."""

    id: str
    size: int
    held: bytearray = field(default_factory=bytearray)
    answer: bytes | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False
    link: socket.socket | None = None

    def drop(self) -> None:
        """Ends the exchange: another one took its place, or nobody waits for its answer."""
        self.dropped = True
        self.held.clear()
        if self.link is not None:
            with contextlib.suppress(OSError):
                self.link.shutdown(socket.SHUT_RDWR)

    def carry(self, path: str) -> None:
        """Sends the message to the agent, again where the connection was lost, and keeps the answer."""
        away_since, losses = time.monotonic(), 0
        while not self.dropped and losses <= MOST_LOSSES and time.monotonic() - away_since < AWAY_S:
            was_there = False
            try:
                with socket.socket(socket.AF_UNIX) as link:
                    link.connect(path)
                    self.link, was_there = link, True
                    link.sendall(self.held)
                    self.answer = read_frame(link)
                    break
            except FrameError:
                break
            except OSError:
                if was_there:
                    away_since, losses = time.monotonic(), losses + 1
                time.sleep(0.1)
        self.link = None
        self.held.clear()
        self.ended.set()


class Forward(Executor):  # type: ignore[misc]
    """Hands messages to this hospital's agent; the only class that the site's own policy allows.

    It takes no argument: a job chooses nothing. One message is under way at a time; a new one drops the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self._path = os.environ.get(AGENT, "")
        self._lock = threading.Lock()
        self._current = _Exchange("", 0)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Listens from the start of the job to its end."""
        if event_type == EventType.START_RUN:
            fl_ctx.get_engine().register_aux_message_handler(_TOPIC, self._requested)
        elif event_type == EventType.END_RUN:
            self._current.drop()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Refuses every task: the courier has none."""
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def _requested(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        reply = make_reply(ReturnCode.OK)
        try:
            reply.update(self._answer(**{key: request[key] for key in ("id", "size", "offset", "part", "want")}))
        except (KeyError, TypeError, ValueError):
            return make_reply(ReturnCode.BAD_REQUEST_DATA)
        return reply

    def _answer(self, id: str, size: int, offset: int, part: bytes, want: int) -> dict[str, Any]:
        """Takes a part of a message in; returns how far it is held, or a part of the agent's answer."""
        if not 0 <= size <= MOST_BYTES or len(part) > PART_BYTES or min(offset, want) < 0:
            raise ValueError
        if not id:  # a sign of life is asked for
            return {"state": "there"}
        with self._lock:
            exchange = self._current
            if id != exchange.id:
                if offset:
                    return {"state": "unknown"}
                exchange.drop()
                exchange = self._current = _Exchange(id, size)
            if not exchange.ended.is_set() and len(exchange.held) == offset < exchange.size:
                exchange.held += part[: exchange.size - offset]
                if len(exchange.held) == exchange.size:
                    threading.Thread(target=exchange.carry, args=(self._path,), daemon=True).start()
            if len(exchange.held) < exchange.size and not exchange.ended.is_set():
                return {"state": "held", "held": len(exchange.held)}
        if not exchange.ended.wait(WAIT_S):
            return {"state": "working"}
        if exchange.answer is None:
            return {"state": "gone"}
        return {"state": "answer", "size": len(exchange.answer), "part": exchange.answer[want : want + PART_BYTES]}


class Bridge(Controller):  # type: ignore[misc]
    """Listens in a folder on one socket for each site of the job, until a site is silent or the job is ended.

    All sites are served in parallel. The folder's `bridge.json` is locked while the bridge is there and names the
    sites that it serves; the supervisor (`wardround_flare.up`) starts a new job where it is not.
    """

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Serves until the job ends; every socket is closed afterwards."""
        folder = Path(os.environ[SOCKETS])
        engine = fl_ctx.get_engine()
        lines = [_Line(client.name, folder / f"{client.name}.sock", engine) for client in engine.get_clients()]
        with open_locked(folder / "bridge.json") as file:
            try:
                self._greet(lines, abort_signal)
                lines = [line for line in lines if line.is_there]
                for line in lines:
                    line.listen()
                file.write(json.dumps({"pid": os.getpid(), "sites": sorted(line.name for line in lines)}))
                file.flush()
                while lines and not abort_signal.triggered and not any(line.is_silent for line in lines):
                    time.sleep(0.2)
                for line in lines:
                    if line.is_silent:
                        self.log_error(fl_ctx, f"{line.name} is silent; the job ends and is to be started again")
            finally:
                for line in lines:
                    line.close()

    @staticmethod
    def _greet(lines: list["_Line"], abort_signal: Signal) -> None:
        """Waits for the sites' side of the job, which starts after this one."""
        end = time.monotonic() + GREETING_S
        threads = [threading.Thread(target=line.greet, args=(end, abort_signal), daemon=True) for line in lines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Needs nothing."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Needs nothing: `control_flow` closes what it opened."""

    def process_result_of_unknown_task(self, *_: Any, **__: Any) -> None:
        """Ignores it: the courier has no task."""


class _Line:
    """The way to one site: its socket, one message at a time, and since when it was not heard."""

    def __init__(self, name: str, path: Path, engine: Any) -> None:
        self.name, self._path, self._engine = name, path, engine
        self._heard, self.is_there, self._closed = time.monotonic(), False, False
        self._turn = threading.Lock()
        self._listener: socket.socket | None = None

    @property
    def is_silent(self) -> bool:
        """True where the site was asked for `SILENT_S` and said nothing."""
        return time.monotonic() - self._heard > SILENT_S + IDLE_S

    def greet(self, end: float, abort_signal: Signal) -> None:
        """Waits until the site is there, or `end`."""
        while not self.is_there and not abort_signal.triggered and time.monotonic() < end:
            self.is_there = self._ask("", 0, 0, b"", 0, 2.0) is not None

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
                    self._ask("", 0, 0, b"", 0, REPLY_S)
                finally:
                    self._turn.release()

    def _serve(self, link: socket.socket) -> None:
        """Carries the messages of one connection; closes it where an answer cannot be had."""
        with link, contextlib.suppress(OSError, FrameError):
            while not self._closed:
                link.settimeout(None)
                select.select([link], [], [])
                link.settimeout(_SLOW_S)
                message = read_frame(link)
                with self._turn:
                    answer = self._exchange(message, lambda: _is_waiting(link) and not self._closed)
                if answer is None:
                    return
                link.sendall(answer)

    def _exchange(self, message: bytes, goes_on: Callable[[], bool]) -> bytes | None:
        """Returns the agent's answer; None where the agent is away, or the coordinator has hung up."""
        id, offset, answer = uuid.uuid4().hex, 0, bytearray()
        while goes_on():
            part = message[offset : offset + PART_BYTES]
            got = self._ask(id, len(message), offset, part, len(answer), REPLY_S)
            match (got or {}).get("state"):
                case None:  # lost on the way: the same part again
                    time.sleep(0.2)
                case "held":
                    offset = int(got["held"])
                case "working":
                    offset = len(message)
                case "answer" if len(answer) < int(got["size"]) <= MOST_BYTES and got["part"]:
                    offset = len(message)
                    answer += got["part"]
                    if len(answer) >= int(got["size"]):
                        return bytes(answer)
                case "unknown":  # the site's process is a new one
                    id, offset, answer = uuid.uuid4().hex, 0, bytearray()
                case _:
                    return None
        return None

    def _ask(self, id: str, size: int, offset: int, part: bytes, want: int, timeout: float) -> Any:
        """Sends one request to the site; None where it is not answered."""
        request = Shareable()
        request.update({"id": id, "size": size, "offset": offset, "part": part, "want": want})
        with self._engine.new_context() as context:
            replies = self._engine.send_aux_request(
                targets=[self.name], topic=_TOPIC, request=request, timeout=timeout, fl_ctx=context, optional=True
            )
        reply = (replies or {}).get(self.name)
        if reply is None or reply.get_return_code() != ReturnCode.OK:
            return None
        self._heard = time.monotonic()
        return reply


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


def write_job(folder: Path, sites: list[str]) -> None:
    """Writes FLARE's job of one bridge and the sites that are connected; the job has no code and no argument."""
    config = folder / "app" / "config"
    config.mkdir(parents=True, exist_ok=True)
    here = __name__
    common = {"format_version": 2, "task_data_filters": [], "task_result_filters": [], "components": []}
    server = common | {"workflows": [{"id": "bridge", "path": f"{here}.Bridge", "args": {}}]}
    executor = {"tasks": ["none"], "executor": {"path": f"{here}.Forward", "args": {}}}
    documents = {
        folder / "meta.json": {
            "name": "wardround",
            "deploy_map": {"app": ["server", *sites]},
            "resource_spec": {},
            "min_clients": 1,
        },
        config / "config_fed_server.json": server,
        config / "config_fed_client.json": common | {"executors": [executor]},
    }
    for path, document in documents.items():
        path.write_text(json.dumps(document, indent=2))
