"""The coordinator's end of Unix sockets: a `Channel` to hospitals of one machine, or to a courier's sockets.

All hospitals are asked in parallel, in one thread. A connection that is lost is made again and the same bytes are sent
again: a hospital sends its answer to them again, at no charge (`hospital.kept.replies`). They are sent again as well
when an answer comes that its hospital did not sign for this request: it is another's, or was changed on the way; and
when an answer that has begun brings no byte for `_STALLED_S`: the rest of it was lost. A hospital that cannot be
reached for `patience_s` is gone; one that is connected and says nothing until the deadline has timed out.

Released: requests, to the hospitals that they are for.
"""

import contextlib
import logging
import math
import selectors
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wardround.errors import FederationError, StudyError
from wardround.federation.messages import Failure, FailureCode, Failures, Replies, Reply, Request, Requests, Stage
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.signatures import SIGNATURE_BYTES, CoordinatorKeys, SignedRequest
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.transport.exchanges import Exchanges
from wardround.transport.frames import FrameReader, Kind, header_of
from wardround.types import HospitalName
from wardround.work import Answered, GradientSum, LocalUpdate, RowSum, ScoreSum

_log = logging.getLogger("wardround.transport")

_READ_BYTES = 1 << 20
_AGAIN_AFTER_S = 0.1
_STALLED_S = 60.0
"""Seconds without a byte inside an answer. A courier on a slow line loses a part and brings it again within them."""
_MOST_LOSSES = 10
"""Lost connections and unsigned answers of one exchange after which a hospital is given up."""


class Watcher(Protocol):
    """Watches a channel while it waits. Contract: it raises nothing, and nothing it does changes an exchange."""

    def asked(self, hospital: HospitalName, request: Request, num_bytes: int) -> None:
        """Takes in that a request begins to go to a connected hospital, anew after a lost connection."""

    def working(self, hospital: HospitalName) -> None:
        """Takes in that a hospital that was asked works on its answer: it gave a sign of life."""

    def away(self, hospital: HospitalName) -> None:
        """Takes in that a hospital cannot be reached, or that its connection was lost."""

    def ended(self, hospital: HospitalName, outcome: Reply | Failure, num_bytes: int, seconds: float) -> None:
        """Takes in a reply of so many bytes, or a failure, after the seconds since the exchange began."""

    def exchanged(self, work: str, seconds: float) -> None:
        """Takes in that all hospitals of an exchange have answered or failed."""


class _Unwatched:
    """A watcher that takes nothing down."""

    def asked(self, hospital: HospitalName, request: Request, num_bytes: int) -> None: ...
    def working(self, hospital: HospitalName) -> None: ...
    def away(self, hospital: HospitalName) -> None: ...
    def ended(self, hospital: HospitalName, outcome: Reply | Failure, num_bytes: int, seconds: float) -> None: ...
    def exchanged(self, work: str, seconds: float) -> None: ...


_REFUSED = Failure(FailureCode.REFUSED_FRAME, Stage.TRANSPORT)
_UNSIGNED = Failure(FailureCode.REFUSED_SIGNATURE, Stage.TRANSPORT)
_GONE = Failure(FailureCode.GONE, Stage.TRANSPORT)
_TIMEOUT = Failure(FailureCode.TIMEOUT, Stage.TRANSPORT)


@dataclass(eq=False)
class _Call:
    """One hospital in one exchange."""

    name: HospitalName
    asked: Request
    watcher: Watcher
    path: Path
    keys: CoordinatorKeys
    request: SignedRequest
    limits: Limits
    apart_since: float
    link: socket.socket | None = None
    out: list[memoryview] = field(default_factory=list)
    reader: FrameReader = field(default_factory=lambda: FrameReader(0))
    losses: int = 0
    arrived: int = 0
    heard: float = 0.0
    outcome: Reply | Failure | None = None

    @property
    def stalls_at(self) -> float:
        """The time at which an answer that has begun and stays as it is counts as lost."""
        return self.heard + _STALLED_S if self.link is not None and self.reader.num_held else math.inf


class SocketChannel:
    """A channel to hospitals behind Unix sockets; see `Channel`.

    Args:
        sockets: of the hospitals, in the study's order.
        keys: sign requests, and verify answers.
        patience_s: seconds for which a hospital that cannot be reached is waited for.
        watcher: told who was asked, who answered, and who is away.
        exchanges: number the requests.
    """

    def __init__(
        self,
        sockets: Mapping[HospitalName, Path],
        keys: CoordinatorKeys,
        *,
        patience_s: float = 60.0,
        watcher: Watcher | None = None,
        exchanges: Exchanges | None = None,
    ) -> None:
        self._paths, self._keys, self._patience_s = dict(sockets), keys, patience_s
        self._watcher = watcher or _Unwatched()
        self._open: dict[HospitalName, socket.socket] = {}
        self._exchanges = exchanges or Exchanges()

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        """See `Channel`."""
        return tuple(self._paths)

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        """See `Channel`."""
        began = time.monotonic()
        end = began + deadline_s
        exchange = self._exchanges.next()
        calls: dict[HospitalName, _Call] = {}
        for name, signed in self._signed(requests, exchange):
            calls[name] = _Call(
                name, requests[name], self._watcher, self._paths[name], self._keys, signed,
                _limits_of(requests[name]), time.monotonic(),
            )  # fmt: skip
        with selectors.DefaultSelector() as selector:
            for name, call in calls.items():
                if name in self._open:
                    _begin(selector, call, self._open.pop(name))
            self._until_all_answered(selector, list(calls.values()), end)
        self._watcher.exchanged(next(iter(requests.values())).work.name, time.monotonic() - began)
        replies, failures = Replies(), Failures()
        for name in requests:
            call = calls[name]
            if call.link is not None:
                self._open[name] = call.link
            match call.outcome:
                case None:
                    raise AssertionError("every call ends")
                case Failure() as failure:
                    failures[name] = failure
                case reply:
                    replies[name] = reply
        return replies, failures

    def _signed(self, requests: Requests, exchange: int) -> Iterator[tuple[HospitalName, SignedRequest]]:
        """Yields each hospital's request; a request to several hospitals is encoded once."""
        asked: dict[int, list[HospitalName]] = {}
        for name, request in requests.items():
            asked.setdefault(id(request), []).append(name)
        for names in asked.values():
            signed = self._keys.sign(encode_request(requests[names[0]]), names, exchange)
            yield from zip(names, signed, strict=True)

    def close(self) -> None:
        """Closes all connections; the next exchange makes new ones."""
        for connected in self._open.values():
            connected.close()
        self._open.clear()

    def _until_all_answered(self, selector: selectors.BaseSelector, calls: list[_Call], end: float) -> None:
        began, told = time.monotonic(), set[HospitalName]()
        while True:
            now = time.monotonic()
            for call in calls:
                if call.outcome is not None and call.name not in told:
                    told.add(call.name)
                    self._watcher.ended(call.name, call.outcome, call.arrived, now - began)
            waiting = [call for call in calls if call.outcome is None]
            if not waiting:
                return
            for call in waiting:
                if now >= end:
                    _end(selector, call, _GONE if call.link is None else _TIMEOUT)
                elif call.link is None:
                    self._connect(selector, call, now)
                elif now >= call.stalls_at:
                    _log.warning("an answer is refused: it was cut")
                    call.watcher.away(call.name)
                    _lose(selector, call, _TIMEOUT)
            waiting = [call for call in waiting if call.outcome is None]
            if waiting:
                again = now + _AGAIN_AFTER_S if any(call.link is None for call in waiting) else math.inf
                wake = min(end, again, *(call.stalls_at for call in waiting))
                for key, events in selector.select(wake - now):
                    _attend(selector, key.data, events)

    def _connect(self, selector: selectors.BaseSelector, call: _Call, now: float) -> None:
        connected = socket.socket(socket.AF_UNIX)
        connected.setblocking(False)
        try:
            connected.connect(str(call.path))
        except OSError as error:
            connected.close()
            self._watcher.away(call.name)
            if isinstance(error, PermissionError):
                call.outcome = _REFUSED
            elif now - call.apart_since >= self._patience_s:
                call.outcome = _GONE
            return
        _begin(selector, call, connected)


def sockets_of(given: Sequence[str], names: Sequence[str]) -> dict[HospitalName, Path]:
    """Returns the sockets of a study's hospitals, in the study's order, from `NAME=SOCKET` each.

    Raises:
        StudyError: a hospital of the study has none, or two, or another is named.
    """
    pairs = [(name, socket) for one in given for name, sign, socket in [one.partition("=")] if sign and socket]
    if len(pairs) < len(given) or sorted(name for name, _ in pairs) != sorted(names):
        raise StudyError(
            f"`--hospital` must give NAME=SOCKET once for each of the study's hospitals, {', '.join(names) or 'none'} "
            f"(`[hospitals] names`), got {', '.join(given)}. Correct the command.",
            code="study-hospital-sockets",
        )
    found = dict(pairs)
    return {HospitalName(name): Path(found[name]) for name in names}


def _limits_of(request: Request) -> Limits:
    """Returns the bounds of the reply to a request: an answer has exactly the coordinates that it asks for."""
    match request.work:
        case (
            GradientSum(weights=weights)
            | RowSum(weights=weights)
            | ScoreSum(weights=weights)
            | LocalUpdate(weights=weights)
        ):
            return Limits.of_network(weights.size).answering(request.work)
        case _ if isinstance(request.work, Answered):
            return Limits().answering(request.work)
        case _:
            return Limits()


def _begin(selector: selectors.BaseSelector, call: _Call, connected: socket.socket) -> None:
    """Sends the whole frame over a connection, from its first byte."""
    prefix, body = call.request.prefix, call.request.body
    call.watcher.asked(call.name, call.asked, len(prefix) + len(body))
    call.out = [memoryview(header_of(len(prefix) + len(body)) + prefix), memoryview(body)]
    call.link, call.reader = connected, FrameReader(call.limits.most_bytes + SIGNATURE_BYTES)
    selector.register(connected, selectors.EVENT_READ | selectors.EVENT_WRITE, call)


def _attend(selector: selectors.BaseSelector, call: _Call, events: int) -> None:
    """Sends or reads what can be without waiting; a lost connection is made again later."""
    connected = call.link
    if connected is None or call.outcome is not None:
        return
    try:
        if events & selectors.EVENT_READ:
            arrived = connected.recv(_READ_BYTES)
            if not arrived:
                raise ConnectionResetError
            call.arrived, call.heard = call.arrived + len(arrived), time.monotonic()
            call.reader.feed(arrived)
            _take(selector, call)
        if events & selectors.EVENT_WRITE and call.outcome is None:
            call.out[0] = call.out[0][connected.send(call.out[0]) :]
            if not call.out[0]:
                del call.out[0]
            if not call.out:
                selector.modify(connected, selectors.EVENT_READ, call)
    except BlockingIOError:
        return
    except FederationError as error:
        _log.warning("an answer is refused: %s", error)
        _lose(selector, call, _UNSIGNED if error.code == "federation-answer-signature" else _REFUSED)
    except OSError:
        call.watcher.away(call.name)
        _lose(selector, call, _GONE)


def _take(selector: selectors.BaseSelector, call: _Call) -> None:
    frame, works = call.reader.take(), False
    while frame is not None and frame[0] is Kind.WORKING:
        frame, works = call.reader.take(), True
    if works:  # told once, however many signs have come
        call.watcher.working(call.name)
    if frame is None:
        return
    kind, content = frame
    if kind is Kind.REFUSED:
        _end(selector, call, _REFUSED)
        return
    reply = call.keys.open(content, call.request)
    try:
        call.outcome = decode_reply(reply, call.limits)
    except FederationError as error:
        _log.warning("a reply is refused: %s", error)
        call.outcome = _REFUSED
    assert call.link is not None, "a reply came over it"
    if call.out or call.reader.num_held:
        _part(selector, call)  # not in step: the next exchange makes a new one
    else:
        selector.unregister(call.link)


def _lose(selector: selectors.BaseSelector, call: _Call, failure: Failure) -> None:
    """Ends a connection that brought no answer; the request is sent again, but not for ever."""
    call.losses, call.apart_since = call.losses + 1, time.monotonic()
    _part(selector, call)
    if call.losses > _MOST_LOSSES:
        call.outcome = failure


def _end(selector: selectors.BaseSelector, call: _Call, failure: Failure) -> None:
    """Ends a call without a reply; its connection may still bring one, which belongs to no later call."""
    call.outcome = failure
    _part(selector, call)


def _part(selector: selectors.BaseSelector, call: _Call) -> None:
    if call.link is not None:
        with contextlib.suppress(KeyError):
            selector.unregister(call.link)
        call.link.close()
        call.link = None
