"""A channel that hands hospitals nothing but bytes, and takes nothing else from them: what every transport does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wardround.federation.messages import Failure, Failures, Replies, Request, Requests
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.hospital.hospital import Hospital
from wardround.types import HospitalName
from wardround.work import Answered, Work


@dataclass(frozen=True)
class BytesChannel:
    """Reaches hospitals by bytes; `exchanges` has the kind of work of each exchange, in order."""

    answering: Mapping[HospitalName, Hospital]
    exchanges: list[type[Work]] = field(default_factory=list)

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        return tuple(self.answering)

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        [kind] = {type(request.work) for request in requests.values()}
        self.exchanges.append(kind)
        replies, failures = Replies(), Failures()
        for name, request in requests.items():
            reply = reply_to(self.answering[name], request)
            if isinstance(reply, Failure):
                failures[name] = reply
            else:
                replies[name] = reply
        return replies, failures


def reply_to(hospital: Hospital, request: Request) -> Any:  # a reply or a failure
    """The reply to one request, both as bytes on their way."""
    limits: Limits = hospital.limits
    if isinstance(request.work, Answered):
        limits = limits.answering(request.work)
    return decode_reply(hospital.answer(encode_request(request)), limits)
