"""The hospital's desk: hands each message to the study that it is for, where the hospital has accepted that study.

A study is opened when it is first asked for, or at the start, and stays open: pictures, network and ledger are then at
hand. Another study's message is refused with a code, and so is that of a study that cannot be opened; the reason is in
the hospital's own log.

Released: what `Hospital.answer` returns.
"""

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from wardround.config.site import read_policy, read_site
from wardround.errors import BudgetExhausted, FederationError, MachineError, WardroundError
from wardround.federation.messages import Failure, FailureCode, Stage
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import Asked, asked_in, encode_reply
from wardround.hospital.accepted import read_accepted
from wardround.hospital.hospital import Hospital
from wardround.hospital.opening import open_hospital
from wardround.hospital.pictures import Progress

_log = logging.getLogger("wardround.hospital")

MOST_BYTES = Limits().most_bytes
"""Bound of a message whose study is not known yet; `Hospital.answer` knows the study's network, and is stricter."""


@dataclass(frozen=True)
class _Open:
    """One open study, and the threads that it computes with."""

    hospital: Hospital
    threads: int


class Desk:
    """All studies that one hospital answers for; a context manager.

    Args:
        folder: of the hospital.
        progress: told how many pictures are read.
    """

    def __init__(self, folder: Path, progress: Progress = lambda done, total: None) -> None:
        self._folder, self._progress = folder, progress
        self._stack = ExitStack()
        self._open: dict[str, _Open] = {}
        self._threads = torch.get_num_threads()

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, digest: str) -> Hospital:
        """Opens an accepted study; site and policy are read anew.

        Raises:
            WardroundError: it was not accepted, or is forbidden, or cannot be opened.
        """
        if digest not in self._open:
            study = read_accepted(self._folder, digest)
            site, policy = read_site(self._folder / "site.toml"), read_policy(self._folder / "policy.toml")
            threads = study.performance.threads or policy.policy.threads or self._threads
            torch.set_num_threads(threads)
            opened = open_hospital(self._folder, site, policy, study, progress=self._progress)
            self._open[digest] = _Open(self._stack.enter_context(opened), threads)
        return self._open[digest].hospital

    def answer(self, message: bytes) -> bytes:
        """Returns the reply to one message, as bytes; never raises for what is in it."""
        started = time.monotonic()
        try:
            asked = asked_in(message, MOST_BYTES)
        except FederationError as error:
            _log.warning("refuses a message: %s", error)
            return encode_reply(Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION))
        reply = self._answer(asked, message)
        seen = (asked.work, asked.study[:12], asked.round, time.monotonic() - started, len(message), len(reply))
        _log.info("%s of study %s, round %d: %.3f s, %d bytes in, %d out", *seen)
        return reply

    def _answer(self, asked: Asked, message: bytes) -> bytes:
        try:
            hospital = self.open(asked.study)
        except BudgetExhausted:
            _log.exception("a study cannot be opened")
            return encode_reply(Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION))
        except MachineError:
            _log.exception("a study cannot be opened")
            return encode_reply(Failure(FailureCode.INTERNAL, Stage.ADMISSION))
        except WardroundError:
            _log.exception("a study is refused")
            return encode_reply(Failure(FailureCode.REFUSED_STUDY, Stage.ADMISSION))
        except Exception:
            _log.exception("a study cannot be opened")
            return encode_reply(Failure(FailureCode.INTERNAL, Stage.ADMISSION))
        torch.set_num_threads(self._open[asked.study].threads)
        return hospital.answer(message)
