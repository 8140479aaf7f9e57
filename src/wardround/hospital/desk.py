"""The hospital's desk: hands each message to the study that it is for, where the hospital has accepted that study.

A message is read only if a coordinator that the hospital has pinned signed it, for this hospital, and after the last
one that was answered. Every answer is signed. So a courier can lose messages, and can change none
(`federation.wire.signatures`).

A study is opened when it is first asked for, or at the start, and stays open: pictures, network and ledger are then at
hand. Acceptance, policy and pins are read anew for every message: what a person forbids while a study runs is refused
from the next message on, and so is a study whose site or cohort was changed since it was opened. Another study's
message is refused with a code, and so is that of a study that cannot be opened; the reason is in the hospital's own
log.

Released: what `Hospital.answer` returns.
"""

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import get_args

import torch

from wardround.config.site import Site, read_policy, read_site
from wardround.errors import (
    BudgetExhausted,
    FederationError,
    LedgerError,
    MachineError,
    StudyError,
    WardroundError,
)
from wardround.federation.messages import Failure, FailureCode, Stage
from wardround.federation.wire.frame import Raw, unpack
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.signatures import (
    SIGNATURE_BYTES,
    UNKNOWN_COORDINATOR,
    Arrived,
    HospitalKeys,
    OpenedRequest,
)
from wardround.federation.wire.tables import Asked, asked_in, encode_reply
from wardround.hospital.accepted import accept_by_rule, read_accepted
from wardround.hospital.allowed import quiet_for
from wardround.hospital.hospital import Hospital
from wardround.hospital.kept.replies import OTHER_COORDINATOR
from wardround.hospital.opening import check_still_allowed, cohort_of, open_hospital, read_identity
from wardround.hospital.pictures import kept_on_processor
from wardround.secure_aggregation.keys.pins import Pins
from wardround.types import HospitalName
from wardround.work import Answered, Confirm, Finish, Receive, Upload

_log = logging.getLogger("wardround.hospital")

MOST_BYTES = Limits().most_bytes + SIGNATURE_BYTES
"""Bound of a message whose study is not known yet; `Hospital.answer` knows the study's network, and is stricter."""


_REFUSED = {
    UNKNOWN_COORDINATOR: FailureCode.REFUSED_COORDINATOR,
    OTHER_COORDINATOR: FailureCode.REFUSED_COORDINATOR,
    "federation-request-signature": FailureCode.REFUSED_SIGNATURE,
    "federation-replay": FailureCode.REFUSED_REPLAY,
}
_NOTED = frozenset(kind.name for kind in (*get_args(Answered), Finish))
"""Names of work that one message asks and charges for (masked rounds take three), or that replaces a file."""
_UNDER_WAY = frozenset(kind.name for kind in (Confirm, Upload, Receive))
"""Names of work that goes on with a masked attempt: others may have been charged for it."""


@dataclass(frozen=True)
class _Open:
    """One open study, the site and cohort that it was opened with, and the threads that it computes with."""

    hospital: Hospital
    site: Site
    cohort: frozenset[str] | None
    threads: int


def _code_in(reply: bytes) -> str:
    """Returns the code of a failure; empty for another reply."""
    header, _ = unpack(reply, MOST_BYTES)
    return str(header["code"]) if header.get("kind") == "failure" else ""


class Desk:
    """All studies that one hospital answers for; a context manager.

    Args:
        folder: of the hospital.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name = HospitalName(read_site(folder / "site.toml").hospital.name)
        self._keys = HospitalKeys(read_identity(folder, name))
        self._stack = ExitStack()
        self._open: dict[str, _Open] = {}
        self._threads = torch.get_num_threads()
        self._stack.callback(torch.set_num_threads, self._threads)

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, digest: str) -> Hospital:
        """Opens an accepted study, or returns the open one if the hospital's files still allow it.

        Raises:
            WardroundError: it is not accepted, or is forbidden, or cannot be opened.
        """
        site, policy = read_site(self.folder / "site.toml"), read_policy(self.folder / "policy.toml")
        cohort = cohort_of(site)
        if digest in self._open:
            known = self._open[digest]
            if (known.site, known.cohort) != (site, cohort):
                raise StudyError(
                    "site.toml and the cohort must stay as they were when the study was opened, and were changed; "
                    "restart the agent, or restore them.",
                    code="study-site-changed",
                )
            check_still_allowed(self.folder, known.hospital, policy, read_accepted(self.folder, digest))
        else:
            accept_by_rule(self.folder, site, policy, digest)
            study = read_accepted(self.folder, digest)
            asked = study.performance.threads or policy.policy.threads
            torch.set_num_threads(asked or self._threads)
            opened = open_hospital(self.folder, site, policy, study)
            hospital = self._stack.enter_context(opened)
            keeps = kept_on_processor(study, hospital.agent.workbench.network) is not None
            threads = asked or (1 if keeps else self._threads)
            self._open[digest] = _Open(hospital, site, cohort, threads)
        return self._open[digest].hospital

    def answer(self, message: Raw) -> bytes:
        """Returns the reply to one message, as bytes; never raises for what is in it."""
        arrived = Arrived.of(message)
        return self._keys.sign(arrived, self._reply(arrived))

    def _reply(self, message: Arrived) -> bytes:
        started = time.monotonic()
        try:
            coordinators = coordinators_of(self.folder)
            opened = self._keys.open(message, coordinators)
            asked = asked_in(opened.body, MOST_BYTES)
            quiet_s = quiet_for(read_policy(self.folder / "policy.toml"), datetime.now())
        except FederationError as error:
            _log.warning("refuses a message: %s", error)
            return encode_reply(Failure(_REFUSED.get(error.code, FailureCode.REFUSED_POLICY), Stage.ADMISSION))
        except WardroundError:
            _log.exception("refuses all messages")
            return encode_reply(Failure(FailureCode.INTERNAL, Stage.ADMISSION))
        if quiet_s and asked.work not in _UNDER_WAY:
            return encode_reply(Failure(FailureCode.QUIET_HOURS, Stage.ADMISSION, quiet_s))
        reply = self._answer(asked, opened, coordinators)
        seconds, came = time.monotonic() - started, len(message.prefix) + len(message.body)
        fields = {
            "event": "answered", "work": asked.work, "study": asked.study[:12], "round": asked.round,
            "seconds": round(seconds, 3), "bytes_in": came, "bytes_out": len(reply), "code": _code_in(reply),
        }  # fmt: skip
        _log.info("%s of round %d", asked.work, asked.round, extra={"fields": fields})
        return reply

    def _answer(self, asked: Asked, opened: OpenedRequest, coordinators: frozenset[bytes]) -> bytes:
        try:
            hospital = self.open(asked.study)
            hospital.replies.check_follows(
                opened.coordinator, opened.exchange, coordinators=coordinators, is_noted=asked.work in _NOTED
            )
        except Exception as error:
            _log.warning("refuses a message of study %s", asked.study[:12], exc_info=error)
            return encode_reply(Failure(_code_of(error, is_open=asked.study in self._open), Stage.ADMISSION))
        torch.set_num_threads(self._open[asked.study].threads)
        return hospital.answer(opened.body, opened.digest)


def _code_of(error: Exception, *, is_open: bool) -> FailureCode:
    """Returns the code of an error that keeps a study's message from being answered."""
    match error:
        case BudgetExhausted():
            return FailureCode.REFUSED_BUDGET
        case LedgerError() if is_open:
            return FailureCode.LEDGER
        case WardroundError() if not isinstance(error, MachineError):
            return _REFUSED.get(error.code, FailureCode.REFUSED_STUDY)
        case _:
            return FailureCode.INTERNAL


def coordinators_of(folder: Path) -> frozenset[bytes]:
    """Returns the public keys of the coordinators whose requests a hospital reads: pinned, and not left out by policy.

    Raises:
        WardroundError: pins or policy cannot be read.
    """
    path = folder / "coordinators.toml"
    pinned = frozenset(Pins.read(path).keys.values()) if path.exists() else frozenset()
    allowed = read_policy(folder / "policy.toml").policy.coordinators
    return pinned if allowed is None else pinned & {bytes.fromhex(key) for key in allowed}
