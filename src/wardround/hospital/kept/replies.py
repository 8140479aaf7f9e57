"""Requests of a study that a hospital has answered: no attempt has two contents, and a repetition has one reply.

    asked.json   the last attempt at each round and purpose, and a digest of what it asked: on disk before the charge
    answered     the last reply that was charged for, behind the digest of its request and the ledger's head after the
                 charge: on disk before it is sent
    exchanges    the last exchange of each coordinator's key, the study's first: on disk before its first answer, and
                 before one that is charged for alone or replaces a file

A courier delivers a message at least once, and an answer may be lost after its charge. The same bytes asked again are
answered with the same bytes, at no charge, by a hospital that was started again as well. Only the last reply that was
charged for is kept. A repetition that finds none (the hospital was killed between charge and reply, or a later round
was answered since) is an attempt that was charged and cannot be sent again: it is answered anew and charged as a
further one, as far as the study's spare attempts reach. A ledger that lacks a head was put back to an earlier copy:
what was sent since would be charged no more (`heads_in`).

Released: nothing but bytes that were released before. Neither file is sent.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from wardround.boundary.documents import load_json, read_regular
from wardround.boundary.machine import machine_faults
from wardround.boundary.private import make_private_folder
from wardround.errors import FederationError, RecordError
from wardround.secure_aggregation.keys.key_files import write_key_file

OTHER_COORDINATOR = "federation-other-coordinator"
"""Code of the error of a request by a coordinator who is not the study's."""

_ASKED, _REPLY, _EXCHANGES = "asked.json", "answered", "exchanges.json"
_MOST_REPLY_BYTES = 1 << 32
_HASH_BYTES = 32


class Replies:
    """A hospital's notes of requests and replies.

    Args:
        folder: of the notes of one study; None keeps them in this process, for hospitals of a simulation.

    Raises:
        RecordError: the notes on disk cannot be read.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._asked: dict[str, tuple[int, str]] = {}
        self._reply = b""
        self._said: dict[bytes, bytes] = {}
        self._exchanges: dict[str, int] = {}
        if folder is not None:
            self._read(folder)

    def check_follows(
        self, coordinator: bytes, exchange: int, *, coordinators: Collection[bytes], is_noted: bool
    ) -> None:
        """Refuses an exchange before the last one of this coordinator; the last one again is a repetition.

        A study has one coordinator, the first that asked, as long as it may ask: another one, which the hospital has
        pinned for studies of its own, could spend this study's rounds, or replace its finished model.

        Args:
            coordinator: public key that signed the message.
            exchange: its number.
            coordinators: public keys of those who may ask now.
            is_noted: the exchange is noted on disk before this returns. An earlier step of a masked attempt that is
                replayed after a restart finds no attempt, or one that was taken part in, and is refused by
                `MaskedRounds`.

        Raises:
            FederationError: the message was sent before another one that was answered, or by another coordinator (code
                `OTHER_COORDINATOR`).
        """
        key = coordinator.hex()
        is_first = not self._exchanges
        has_study = next((known for known in self._exchanges if bytes.fromhex(known) in coordinators), key)
        if has_study != key:
            raise FederationError(
                f"A study must be asked for by one coordinator, the first that asked ({has_study}), got {key}. Where "
                "this key takes the place of the other, remove the other's line from coordinators.toml.",
                code=OTHER_COORDINATOR,
            )
        last = self._exchanges.get(key, -1)
        if exchange < last:
            raise FederationError(
                f"A message must be of the last exchange or a later one, {last}, got {exchange}: an old one was sent "
                "again, or the coordinator lost its file `exchange` after its clock had run ahead; it must then "
                f"write {last} into the file.",
                code="federation-replay",
            )
        if exchange > last:
            following = {**self._exchanges, key: exchange}
            if is_noted or is_first:
                self._write(_EXCHANGES, json.dumps(following).encode())
            self._exchanges = (
                following  # after the write: where it fails, the same message is noted when it comes again
            )

    def again(self, asked: bytes) -> bytes | None:
        """Returns the reply that a request of this SHA-256 was answered with, where it is kept; else None."""
        if self._reply.startswith(asked):
            return self._reply[2 * _HASH_BYTES :]
        return self._said.get(asked)

    def allows(self, place: str, attempt: int, asked: bytes) -> bool:
        """Returns whether a request may be this attempt: attempts ascend, and one has one content.

        Args:
            place: round and purpose, such as "3/gradient-sum".
            attempt: of the request.
            asked: SHA-256 of the request.
        """
        known = self._asked.get(place)
        return known is None or attempt > known[0] or known == (attempt, asked.hex())

    def note(self, place: str, attempt: int, asked: bytes) -> None:
        """Writes down that a request is this attempt; on disk before this returns, and before any charge."""
        self._asked[place] = (attempt, asked.hex())
        self._write(_ASKED, json.dumps(self._asked).encode())

    def keep(self, asked: bytes, reply: bytes, head: str) -> None:
        """Keeps a reply that was charged for instead of the one before; on disk before this returns.

        `head`: of the ledger with that charge.
        """
        self._reply = asked + bytes.fromhex(head) + reply
        self._write(_REPLY, self._reply)

    def say(self, asked: bytes, reply: bytes, *, first: bool) -> None:
        """Keeps a reply of an attempt under way in this process: after a restart there is no such attempt.

        `first`: the attempt begins with it, and replies of the one before are forgotten.
        """
        if first:
            self._said.clear()
        self._said[asked] = reply

    def _write(self, name: str, content: bytes) -> None:
        if self._folder is not None:
            make_private_folder(self._folder)
            write_key_file(self._folder / name, content, replace=True)

    def _read(self, folder: Path) -> None:
        try:
            if (folder / _ASKED).exists():
                found = load_json(folder / _ASKED)
                self._asked = {str(place): (int(attempt), str(asked)) for place, (attempt, asked) in found.items()}
            if (folder / _EXCHANGES).exists():
                found = load_json(folder / _EXCHANGES)
                self._exchanges = {str(key): int(exchange) for key, exchange in found.items()}
            if (folder / _REPLY).exists():
                self._reply = read_regular(folder / _REPLY, _MOST_REPLY_BYTES)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RecordError(
                f"A hospital's notes of what it was asked, in {folder}, must be readable, and are not ({error}); "
                "restore them, or start a new study.",
                code="record-replies",
            ) from None


def heads_in(memory: Path) -> Iterator[str]:
    """Yields the head of the hospital's ledger after the last charge of each study that has notes in a folder."""
    for path in memory.glob(f"*/{_REPLY}"):
        with machine_faults(path), path.open("rb") as file:
            yield file.read(2 * _HASH_BYTES)[_HASH_BYTES:].hex()
