"""Signing a run's record as it grows: one file with the SHA-256 of all others that are shared, under one Ed25519 key.

    record.json    study digest, rounds and their hash, checkpoints, files, sealed ledger head, public key, signature

The record is signed before what it names comes into its place. A process that is killed in between leaves a record that
names something which is not there yet, and nothing that it does not name.

Released: with the record, to its readers. Everything in it is a hash of files that are shared, or public. The head of a
ledger is sealed: the hash of a signature over it, which takes the private key to make.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wardround.boundary.machine import reading_faults
from wardround.secure_aggregation.keys.identity import SigningKey

RECORD: Final = "record.json"
FORMAT: Final = "wardround-record-1"
PURPOSE: Final = "wardround/v1/record"
_SEAL: Final = "wardround/v1/record-ledger-head"

CERTIFICATE: Final = "certificate.json"
HISTORY: Final = "rounds.jsonl"
BEGINNING: Final = ("study.toml", "environment.json")
"""Files that a run begins with."""

RECEIPTS: Final = "receipts.json"
ENCODER: Final = "encoder.onnx"
"""A user's own encoder, where it is an ONNX graph."""

PAGE: Final = "report.html"
"""Made from the others; the record names it where its maker drew it (`records.added`)."""

REFERENCES: Final = "references"
"""The folder of reference runs, a file each; the record names those that have ended (`records.added`)."""

SIGNED: Final = (
    *BEGINNING, HISTORY, "model.safetensors", ENCODER, "model.json", "results.json", "released.safetensors", RECEIPTS,
    CERTIFICATE,
)  # fmt: skip
"""Files of a finished run that are shared and signed, beside its checkpoints."""


class Signer:
    """The key that signs a run's record, and what was signed so far.

    Args:
        key: signs.
        study: digest of the study.
        ledger: its sealed head, where the run begins or goes on; empty between hospitals, each of whom keeps its own.
    """

    def __init__(self, key: SigningKey, study: str, ledger: str) -> None:
        self._key, self._study, self._ledger = key, study, ledger
        self._files: dict[str, str] = {}
        self._checkpoints: dict[str, str] = {}
        self._rounds, self._history = 0, hashlib.sha256()

    def begin(self, folder: Path, files: Mapping[str, bytes]) -> bytes:
        """Returns the record of a run without rounds; `files` of it are about to be written, others are there."""
        for name in BEGINNING:
            self._files[name] = sha256_of_bytes(files[name]) if name in files else sha256_of_file(folder / name)
        return self._signed(is_finished=False)

    def sealed(self, head: str) -> str:
        """Returns the head of a ledger as a shared record has it."""
        return sealed(head, self._key)

    def note_ledger(self, head: str) -> None:
        """Takes in how far the ledger is, for the next record."""
        self._ledger = self.sealed(head)

    def add_round(self, line: bytes) -> None:
        """Takes in a line of the history."""
        self._rounds += 1
        self._history.update(line)

    def back_to(self, rounds: int, history: bytes, checkpoints: Mapping[str, bytes]) -> bytes:
        """Returns the record of a run that goes on after a round, with the lines and checkpoints up to it."""
        self._rounds, self._history = rounds, hashlib.sha256(history)
        self._checkpoints = {name: sha256_of_bytes(content) for name, content in checkpoints.items()}
        return self._signed(is_finished=False)

    def checkpoint(self, name: str, content: bytes, kept: set[str]) -> bytes:
        """Returns the record with a checkpoint that is about to be written, and of the others those that are kept."""
        self._checkpoints = {old: digest for old, digest in self._checkpoints.items() if old in kept}
        self._checkpoints[name] = sha256_of_bytes(content)
        return self._signed(is_finished=False)

    def finish(self, folder: Path, certificate: bytes) -> bytes:
        """Returns the record of a finished run, whose certificate is about to be written."""
        self._files = {name: sha256_of_file(folder / name) for name in SIGNED if (folder / name).exists()}
        self._files[CERTIFICATE] = sha256_of_bytes(certificate)
        there = {path.name for path in (folder / "checkpoints").iterdir()}
        self._checkpoints = {name: digest for name, digest in self._checkpoints.items() if name in there}
        return self._signed(is_finished=True)

    def _signed(self, *, is_finished: bool) -> bytes:
        body: dict[str, object] = {
            "format": FORMAT,
            "study_digest": self._study,
            "finished": is_finished,
            "rounds": self._rounds,
            "history": self._history.hexdigest(),
            "checkpoints": dict(sorted(self._checkpoints.items())),
            "files": self._files,
            "ledger": self._ledger,
            "public_key": self._key.public.hex(),
        }
        return _with_signature(body, self._key)


def signed_again(body: Mapping[str, object], files: Mapping[str, object], key: SigningKey) -> bytes:
    """Returns a record with other files, under the key that signed it before."""
    return _with_signature({**body, "files": dict(files)}, key)


def _with_signature(body: dict[str, object], key: SigningKey) -> bytes:
    signature = key.sign(PURPOSE, signed_text(body)).hex()
    return (json.dumps(body | {"signature": signature}, indent=2) + "\n").encode()


def sealed(head: str, key: SigningKey) -> str:
    """Returns the SHA-256 of a key's signature over the head of a ledger, in hexadecimal digits.

    A head is a hash over what a ledger says: an attacker who knows all patients but one could try both cases against
    it. Without the private key the sealed head is useless; with it, it proves which head it was.
    """
    return sha256_of_bytes(key.sign(_SEAL, head))


def signed_text(body: Mapping[str, object]) -> str:
    """Returns the one text of a record that is signed: sorted keys, no spaces, ASCII, without its signature."""
    signed = {name: value for name, value in body.items() if name != "signature"}
    return json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of_bytes(content: bytes) -> str:
    """Returns the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits.

    Raises:
        MachineError: its disk fails.
        OSError: it cannot be read.
    """
    with reading_faults(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
