"""A model's head behind HTTP for encrypted rows, where the owner may not hand out the weights.

    GET  /            these sentences, for a person
    GET  /card        the model card, and the bounds of the head, as JSON: everything but the weights
    POST /encrypted   a key and encrypted rows to encrypted logits, see `wardround.inference.encrypted.scheme`

The picture's owner reads the picture and computes the features, which are public, at home. Rows are counted in a file
beside the model, before an answer leaves: as many rows as there are features give the weights away.
"""

import fcntl
import json
import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from pathlib import Path

import numpy as np

from wardround.boundary.loopback import LOOPBACK
from wardround.boundary.private import open_private
from wardround.errors import DataError, ModelError, RecordError
from wardround.inference.encrypted.frames import framed, unframed
from wardround.inference.encrypted.scheme import SECURITY_BITS, SLOTS, Rows, Scheme, largest_norms
from wardround.inference.encrypted.worker import MOST_ROWS, answered
from wardround.inference.model import Model, Whole
from wardround.inference.serve import BYTES, HTML, JSON, Answer, Refused, Service
from wardround.models.card import ModelCard
from wardround.models.linear import scoring_layer
from wardround.models.network import Network

COUNT = "encrypted-rows"
_DIGITS = 20


class Count:
    """The rows that were answered for, in one line of a file that this process holds alone; it outlives the process.

    Raises:
        RecordError: the file holds no number (code `record-count`), or another server has it (`record-in-use`).
        MachineError: it cannot be opened.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.limit, self._turn = limit, threading.Lock()
        with ExitStack() as opened:
            self._file = opened.enter_context(os.fdopen(open_private(path, os.O_RDWR), "r+b", buffering=0))
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RecordError(
                    f"One server must count the rows of a model, and another has {path.name}; end that one first.",
                    code="record-in-use",
                ) from None
            content = self._file.read(_DIGITS + 2) or b""
            if content and not (
                len(content) == _DIGITS + 1 and content[:-1].isdigit() and content.endswith(b"\n")
            ):
                raise RecordError(
                    f"{path.name} must hold the number of rows that were answered, and does not; restore it.",
                    code="record-count",
                )
            self.answered = int(content or b"0")
            opened.pop_all()

    def close(self) -> None:
        """Lets another server have the file."""
        self._file.close()

    @property
    def left(self) -> int:
        """Rows that may still be answered."""
        return max(0, self.limit - self.answered)

    def take(self, rows: int) -> bool:
        """Counts rows, on disk, or returns False where they are more than what is left."""
        with self._turn:
            if rows > self.left:
                return False
            os.pwrite(self._file.fileno(), b"%0*d\n" % (_DIGITS, self.answered + rows), 0)
            os.fsync(self._file.fileno())
            self.answered += rows
            return True


def layer_of(network: Network, card: ModelCard) -> tuple[Rows, Rows]:
    """Returns the weights, (score, feature), and the biases, (score,), of a network's linear head.

    There is a score for each class, its logit, or one for each grade but the last.

    Raises:
        ModelError: the network has another head, or too many features for a ciphertext (code `model-not-linear`).
    """
    layer, _ = scoring_layer(network)
    if layer is None or layer.in_features > SLOTS:
        many = "" if layer is None else f" of {layer.in_features:,} features"
        raise ModelError(
            f"Encrypted answers must come from one linear layer over at most {SLOTS:,} public features, such as "
            f"`features`, got {card.network.name}{many}; serve it without `--encrypted`.",
            code="model-not-linear",
        )
    weights = layer.weight.detach().numpy().astype(np.float64)
    biases = np.zeros(len(weights)) if layer.bias is None else layer.bias.detach().numpy().astype(np.float64)
    return weights, biases


@dataclass(frozen=True)
class EncryptedHead:
    """The answers of one model's head.

    Attributes:
        weights: (score, feature).
        biases: (score,).
    """

    card: ModelCard
    weights: Rows
    biases: Rows
    count: Count

    @classmethod
    def of(cls, model: Model, limit: int | None) -> "EncryptedHead":
        """Returns the head of a model; without a limit a tenth of its features.

        Raises:
            ModelError: it has no linear head, or is a mean of several models (code `model-not-linear`).
            MissingExtra: TenSEAL is not here.
            RecordError: as `Count`.
        """
        Scheme()
        if not isinstance(model.whole, Whole) or len(model.whole.made_of) > 1:
            raise ModelError(
                "Encrypted answers must come from one model, got the mean of several; name one with `--member`.",
                code="model-not-linear",
            )
        weights, biases = layer_of(model.whole.made_of[0], model.card)
        most = max(1, weights.shape[1] // 10) if limit is None else limit
        return cls(model.card, weights, biases, Count(model.folder / COUNT, most))

    def sentences(self) -> list[str]:
        """Returns what either side learns, for people."""
        features = self.weights.shape[1]
        return [
            f"{self.card.study.name}: {self.card.statement}.",
            "The client keeps the picture: this server sees encrypted features and the number of pictures, no more "
            f"(BFV through TenSEAL, {SECURITY_BITS} bits of security).",
            f"The client learns the logits of each picture. {features:,} pictures would give the whole head away, so "
            f"at most {self.count.limit:,} are answered in all; {self.count.left:,} are left.",
            "A program that forges ciphertexts can learn the head sooner. The bound for each patient of the training "
            "does not depend on that: it holds for everybody who has the weights.",
        ]

    def card_json(self) -> bytes:
        """Returns the model card and the bounds of the head, as JSON."""
        norm, bias = largest_norms(self.weights, self.biases)
        head = {"norm": norm, "bias": bias, "left": self.count.left}
        return json.dumps({"card": self.card.to_json(), "head": head}).encode()

    def service(self, host: str = LOOPBACK, port: int = 0) -> Service:
        """Returns the server of this head; arguments and errors as `Service` has them."""

        def page() -> Answer:
            lines = "".join(f"<p>{escape(line)}</p>" for line in self.sentences())
            return Answer(HTML, f"<!doctype html><html lang=en><title>Encrypted answers</title>{lines}".encode())

        gets = {"/": page, "/card": lambda: Answer(JSON, self.card_json())}
        return Service(gets, {"/encrypted": lambda content: Answer(BYTES, self.answer(content))}, host, port)

    def answer(self, content: bytes) -> bytes:
        """Returns the encrypted logits for one request.

        Raises:
            Refused: the request is no frame of this scheme, or more rows than are left.
        """
        try:
            public, *rows = unframed(content, 1 + MOST_ROWS) or [b""]
            if not rows or len(rows) > self.count.left:
                raise self._over(len(rows))
            answers = answered(self.weights, self.biases, public, rows)
        except DataError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        if not self.count.take(len(rows)):
            raise self._over(len(rows))
        return framed(answers)

    def _over(self, rows: int) -> Refused:
        if not rows:
            return Refused(HTTPStatus.BAD_REQUEST, "a request must have at least one encrypted row")
        return Refused(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"{rows} rows were asked for, and {self.count.left} of {self.count.limit} are left to be answered: more "
            "would tell too much of the model; ask its owner",
        )
