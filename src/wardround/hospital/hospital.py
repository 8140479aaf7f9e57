"""A hospital: bytes in, bytes out. It answers one request at a time, and can refuse.

Whatever goes wrong, another party learns a code and a stage; the hospital's own log has the sentence and the trace.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

from wardround import __version__
from wardround.boundary.machine import raise_fault
from wardround.errors import FederationError, LedgerError, MachineError, ModelError
from wardround.federation.messages import (
    Answer,
    Failure,
    FailureCode,
    Hello,
    Receipt,
    Received,
    Reply,
    Request,
    Signed,
    Stage,
    Uploaded,
)
from wardround.federation.receipts import sign_receipt
from wardround.federation.wire.frame import Raw
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_request, encode_reply
from wardround.hospital.agent import Agent
from wardround.hospital.charged import charged_counts, charged_releases
from wardround.hospital.kept.finished import take_model
from wardround.hospital.kept.replies import Replies
from wardround.hospital.known_ledgers import sealed_head
from wardround.hospital.masked import NO_ATTEMPT, MaskedRounds
from wardround.hospital.policy import place_of
from wardround.secure_aggregation.keys.identity import Identity
from wardround.work import (
    Announce,
    Answered,
    Confirm,
    Evaluate,
    Finish,
    GiveReceipt,
    Receive,
    SayHello,
    Upload,
)

_log = logging.getLogger("wardround.hospital")

_FLOAT_BYTES = 4
_HEADER_BYTES = 1 << 20  # names and shapes of a model's parameters

_Made = TypeVar("_Made")
_REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)


@dataclass(frozen=True)
class Hospital:
    """One hospital in one study.

    Attributes:
        agent: its patients, plan, policy, ledger and network.
        classes: names of the classes, in order.
        masked: its side of masked rounds; None where sums are not masked.
        identity: its signing key; None for a hospital of a simulation, whose receipts have no signature and the head
            of its ledger as it is.
        replies: what it was asked, and the replies that it sends again.
        folder: that keeps finished models; None for a hospital of a simulation, which takes none.
    """

    agent: Agent
    classes: tuple[str, ...]
    masked: MaskedRounds | None = None
    identity: Identity | None = None
    replies: Replies = field(default_factory=Replies)
    folder: Path | None = None

    def answer(self, message: Raw, digest: bytes | None = None) -> bytes:
        """Returns the reply to one request, as bytes.

        Args:
            message: the request.
            digest: SHA-256 of the message, where it is known.

        Guarantee:
            A request that is none, that the study's strategy does not ask for, or that gives an attempt another
            content, is refused before anything is charged. A repeated request has the same reply, at no charge, as far
            as it is kept (`hospital.kept.replies`).
        """
        try:
            request = decode_request(message, self.limits)
        except FederationError as error:
            _log.warning("%s refuses a message: %s", self.agent.name, error)
            return encode_reply(_REFUSED)
        asked = digest or hashlib.sha256(message).digest()
        known = self.replies.again(asked)
        if known is not None:
            return known
        try:
            reply = self._noted(request, asked) or self.reply(request)
            encoded = encode_reply(reply)
            match reply:
                case Answer() | Uploaded():
                    self.replies.keep(asked, encoded, self._head())
                case Signed():
                    self.replies.say(asked, encoded, first=isinstance(request.work, Announce))
                case _:
                    pass
            return encoded
        except (FederationError, MachineError) as error:  # not finite, or not to be kept: charged, and not sent
            _log.error("%s cannot send its answer", self.agent.name, exc_info=error)
            return encode_reply(Failure(FailureCode.INTERNAL, Stage.TRAINING))

    def _head(self) -> str:
        """Returns the ledger's head after a charge, as notes have it.

        Raises:
            FederationError: the ledger cannot be read now: what was charged is not sent.
        """
        try:
            return self.agent.account.position()[1]
        except LedgerError as error:
            raise FederationError(f"An answer must be noted with the ledger's head. {error}") from error

    def _noted(self, request: Request, asked: bytes) -> Failure | None:
        """Notes an attempt at a noised vector, once all of it is checked and before anything is charged."""
        if not isinstance(request.work, Answered):
            return None  # `MaskedRounds` has notes of its own attempts
        refused = self.agent.refuses(request)
        if refused is not None:
            return refused
        place = place_of(request)
        if not self.replies.allows(place, request.attempt, asked):
            _log.warning("%s refuses attempt %d at %s: it was another", self.agent.name, request.attempt, place)
            return Failure(FailureCode.REFUSED_ATTEMPT, Stage.ADMISSION)
        self.replies.note(place, request.attempt, asked)
        return None

    @property
    def limits(self) -> Limits:
        """The sizes that a message to this hospital may have."""
        workbench, models = self.agent.workbench, self.agent.plan.hospitals  # of some strategies one a hospital
        values = sum(value.numel() for value in workbench.network.whole().state_dict().values())
        model_bytes = 0 if self.folder is None else models * (_FLOAT_BYTES * values + _HEADER_BYTES)
        return Limits.of_network(workbench.initial_weights.size, len(self.classes), model_bytes=model_bytes)

    def reply(self, request: Request) -> Reply | Failure:
        """Returns the reply to one request, as a value.

        Raises:
            MachineError: a disk or the memory of this machine failed.
        """
        try:
            match request.work:
                case SayHello() | GiveReceipt() | Finish() if not self.agent.agrees(request):
                    return _REFUSED
                case Announce() | Confirm() | Receive() if not self._agrees(request):
                    return _REFUSED
                case Upload():
                    return self.admit_upload(request) or self.upload()
                case Announce() | Confirm() | Receive():
                    return self._in_attempt(lambda masked: _step(masked, request))
                case SayHello():
                    return self._hello()
                case GiveReceipt():
                    return self._receipt()
                case Finish() as work:
                    return self._finish(work)
                case _:  # a noised vector
                    agent = self.agent
                    return agent.admit(request) or agent.repeated(request) or agent.answer_alone(request)
        except Exception as error:
            raise_fault(error)
            _log.exception("%s cannot answer", self.agent.name)
            return Failure(FailureCode.INTERNAL, Stage.TRAINING)

    def admit_upload(self, request: Request) -> Failure | None:
        """Checks and charges the upload of the attempt under way; None once the charge is in the ledger."""
        work = request.work
        if not isinstance(work, Upload) or not self._agrees(request):
            return _REFUSED
        admitted = self._in_attempt(lambda masked: masked.admit(work.confirmations))
        return admitted if isinstance(admitted, Failure) else None

    def upload(self) -> Uploaded | Failure:
        """Computes, noises and masks the sum of the attempt that was admitted."""

        def uploaded(masked: MaskedRounds) -> Uploaded | Failure:
            event, content = masked.event, masked.upload()
            return content if isinstance(content, Failure) else Uploaded(content, event)

        return self._in_attempt(uploaded)

    def _agrees(self, request: Request) -> bool:
        return self.masked is not None and self.agent.agrees(request)

    def _in_attempt(self, step: Callable[[MaskedRounds], _Made]) -> _Made | Failure:
        """Returns the outcome of a step of a masked attempt; a party that breaks the protocol ends the run."""
        if self.masked is None:
            return _REFUSED
        try:
            return step(self.masked)
        except (FederationError, LedgerError, ValueError) as error:
            if isinstance(error, FederationError) and error.code == NO_ATTEMPT:
                _log.warning("%s waits for a new attempt: %s", self.agent.name, error)
                return Failure(FailureCode.REFUSED_ATTEMPT, Stage.ADMISSION)
            _log.error("%s ends the run: %s", self.agent.name, error)
            return Failure(FailureCode.PROTOCOL, Stage.ADMISSION)

    def _finish(self, work: Finish) -> Received | Failure:
        if self.folder is None:
            return _REFUSED
        self.agent.workbench.end_processes()  # each holds the memory of its steps, and no round is left
        try:
            weights = take_model(self.folder, self.agent.policy.study, work, self.agent.workbench.network)
        except (FederationError, ModelError) as error:
            _log.error("%s does not take the finished model: %s", self.agent.name, error)
            return Failure(FailureCode.PROTOCOL, Stage.ADMISSION)
        if weights is not None:
            self.agent.tested.keep_own_figures(self.agent.workbench, weights)
        return Received()

    def _hello(self) -> Hello:
        agent = self.agent
        last = None if self.masked is None else self.masked.notes.last
        return Hello(
            study=agent.policy.study,
            version=__version__,
            classes=self.classes,
            input_shape=agent.workbench.input_shape,
            weights_sha256=agent.workbench.weights_sha256,
            threads=torch.get_num_threads(),
            last_attempt=last or (0, 0),
        )

    def _receipt(self) -> Receipt:
        agent, account = self.agent, self.agent.account
        receipt = Receipt(
            study=agent.policy.study,
            hospital=agent.name,
            releases=charged_releases(account, agent.plan),
            counts=charged_counts(account),
            epsilon_spent=account.spent(),
            delta=account.delta,
            ledger_head=account.position()[1],
        )
        tested = None if agent.examined is None else agent.examined.account
        if tested is not None and tested is not account:
            receipt = replace(
                receipt, evaluations=tested.charges(Evaluate.name), evaluation_epsilon=tested.spent()
            )
        if self.identity is None:
            return receipt
        sealed = sealed_head(receipt.ledger_head, self.identity)
        return sign_receipt(replace(receipt, ledger_head=sealed), self.identity)


def _step(masked: MaskedRounds, request: Request) -> Signed | Received | Failure:
    """Takes a step of a masked attempt that costs nothing."""
    match request.work:
        case Announce() as work:
            announced = masked.announce(request, work)
            return announced if isinstance(announced, Failure) else Signed(announced)
        case Confirm(announcements):
            return Signed(masked.confirm(announcements))
        case Receive(total):
            masked.receive(total)
            return Received()
        case _:
            return _REFUSED
