"""Enrolment: one party tells another its public key in a small signed file, and two people read ten groups of digits.

    invitation    the coordinator's: consortium, the hospital that is invited, the coordinator's public key
    answer        the hospital's: the digest of the invitation, the hospital's name, its public key

A file is signed with the key that it names, so that nobody answers with a key that is not theirs. The signature says
nothing of whose key it is: the fingerprint does, read aloud between two people who know each other. Both files are
public. The coordinator passes the answers on to the other hospitals, each of whom pins them in the same way.

    coordinator    identity.pem (0600)    consortium.json    pins.toml
    hospital       identity.pem (0600)    pins.toml (other hospitals)    coordinators.toml
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wardround.boundary.documents import Unfit, load_json
from wardround.boundary.private import make_private_folder
from wardround.boundary.text import brief
from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import digest
from wardround.secure_aggregation.keys.identity import (
    KEY_BYTES,
    SigningKey,
    check_name,
    spoken_fingerprint,
)
from wardround.secure_aggregation.keys.key_files import write_key_file
from wardround.secure_aggregation.keys.pins import Pins, check_fingerprint, has_small_order, verify
from wardround.secure_aggregation.keys.secret import system_entropy

IDENTITY: Final = "identity.pem"
HOSPITALS: Final = "pins.toml"
COORDINATORS: Final = "coordinators.toml"
_CONSORTIUM: Final = "consortium.json"
_INVITATION: Final = "wardround/v1/invitation"
_ANSWER: Final = "wardround/v1/enrolment"
_MOST_BYTES = 1 << 14
HOSPITAL_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$"
"""Names that `site.toml` takes; each is a file's name as well."""


@dataclass(frozen=True)
class Invitation:
    """A coordinator's invitation to one hospital.

    Attributes:
        consortium: its name; hospitals pin the coordinator's key under it.
        hospital: the name under which the hospital is known to all.
        public_key: the coordinator's, 32 bytes.
    """

    consortium: str
    hospital: str
    public_key: bytes
    signature: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of what it says, in hexadecimal digits."""
        return digest(_INVITATION, self.consortium, self.hospital, self.public_key).hex()

    def to_json(self) -> dict[str, str]:
        """Returns the invitation as a JSON object."""
        return {"format": _INVITATION, "consortium": self.consortium, "hospital": self.hospital} | _written(self)


@dataclass(frozen=True)
class EnrolmentAnswer:
    """A hospital's answer to an invitation.

    Attributes:
        invitation: digest of the invitation.
        hospital: the name of the invitation.
        public_key: the hospital's, 32 bytes.
    """

    invitation: str
    hospital: str
    public_key: bytes
    signature: bytes

    def to_json(self) -> dict[str, str]:
        """Returns the answer as a JSON object."""
        return {"format": _ANSWER, "invitation": self.invitation, "hospital": self.hospital} | _written(self)


def begin_consortium(folder: Path, name: str) -> bytes:
    """Makes a coordinator's folder and key; returns the public key.

    Raises:
        FederationError: the folder has a key already, or cannot be written.
    """
    check_name(name)
    public = _own_key(folder, is_new=True)
    write_key_file(folder / _CONSORTIUM, json.dumps({"consortium": name}).encode(), replace=False)
    return public


def invite(folder: Path, hospital: str) -> Invitation:
    """Returns the invitation of a hospital.

    Raises:
        FederationError: the folder is no coordinator's, or the name is none.
    """
    _check_hospital(hospital)
    consortium, key = _name_of(folder), SigningKey.read(folder / IDENTITY)
    return Invitation(consortium, hospital, key.public, key.sign(_INVITATION, consortium, hospital, key.public))


def accept_invitation(folder: Path, invitation: Invitation, heard: str) -> EnrolmentAnswer:
    """Pins the coordinator, makes the hospital's key where it has none, and returns its answer.

    Args:
        folder: of the hospital.
        invitation: that was read.
        heard: the coordinator's fingerprint, as it was read aloud.

    Raises:
        FederationError: the fingerprint is another, or another key is pinned under the consortium's name.
    """
    check_fingerprint(invitation.public_key, heard, invitation.consortium)
    _own_key(folder, is_new=False)
    _pin(folder / COORDINATORS, invitation.consortium, invitation.public_key)
    key, name = SigningKey.read(folder / IDENTITY), invitation.hospital
    return EnrolmentAnswer(
        invitation.digest, name, key.public, key.sign(_ANSWER, invitation.digest, name, key.public)
    )


def pin_answer(folder: Path, answer: EnrolmentAnswer, heard: str) -> None:
    """Pins a hospital's key, at the coordinator or at another hospital.

    `heard`: the hospital's fingerprint, as it was read aloud.

    Raises:
        FederationError: the fingerprint is another, another key is pinned for the hospital, it is this party's own, or
            the answer is to another coordinator's invitation.
    """
    own = SigningKey.read(folder / IDENTITY).public
    if answer.public_key == own:
        raise FederationError(
            f"Another party's key is pinned, and the answer of {answer.hospital} has the key of {folder} itself. "
            "Nothing was pinned.",
            code="federation-own-key",
        )
    if (folder / _CONSORTIUM).exists() and answer.invitation != invite(folder, answer.hospital).digest:
        raise FederationError(
            f"The answer of {answer.hospital} must be to this coordinator's invitation, and is to another; invite the "
            "hospital again.",
            code="federation-other-invitation",
        )
    check_fingerprint(answer.public_key, heard, answer.hospital)
    _pin(folder / HOSPITALS, answer.hospital, answer.public_key)


def read_enrolment(path: Path) -> Invitation | EnrolmentAnswer:
    """Returns the invitation or the answer that a file holds.

    Raises:
        FederationError: it is neither, was changed, or has a key of small order.
    """
    try:
        read = _parsed(load_json(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise FederationError(
            f"{path} must be an invitation or an answer of `wardround consortium` ({error}); ask for the file again.",
            code="federation-enrolment-file",
        ) from None
    _check_hospital(read.hospital)
    if has_small_order(read.public_key):
        raise FederationError(
            f"The key in {path} must not be a point of small order, under which a signature can be forged, and is "
            "one; nothing was pinned.",
            code="federation-small-order",
        )
    signed: tuple[str, ...] = (read.consortium,) if isinstance(read, Invitation) else (read.invitation,)
    purpose = _INVITATION if isinstance(read, Invitation) else _ANSWER
    if not verify(read.public_key, read.signature, purpose, *signed, read.hospital, read.public_key):
        raise FederationError(
            f"{path} must be signed with the key that it names, and is not: it was changed. Ask for the file again.",
            code="federation-enrolment-signature",
        )
    return read


def write_enrolment(path: Path, content: Invitation | EnrolmentAnswer) -> None:
    """Writes an invitation or an answer; the same again is written over.

    Raises:
        FederationError: the file cannot be written.
    """
    write_key_file(path, (json.dumps(content.to_json(), indent=2) + "\n").encode(), replace=True)


def _check_hospital(name: str) -> None:
    check_name(name)
    if re.match(HOSPITAL_NAME, name) is None:
        raise FederationError(
            f"A hospital's name must be 1 to 64 ASCII letters, digits, spaces, dots, hyphens or underscores, and begin "
            f"with a letter or a digit, got {brief(name)}. Choose another.",
            code="federation-hospital-name",
        )


def _own_key(folder: Path, *, is_new: bool) -> bytes:
    """Makes the key of a folder; returns its public half. `is_new`: one that is there already is refused."""
    make_private_folder(folder)
    path = folder / IDENTITY
    if is_new or not path.exists():
        SigningKey.new(system_entropy).write(path)
    return SigningKey.read(path).public


def _pin(path: Path, name: str, public: bytes) -> None:
    known = Pins.read(path) if path.exists() else Pins()
    known.with_pin(name, public, compared=True).write(path)


def _name_of(folder: Path) -> str:
    try:
        found = load_json(folder / _CONSORTIUM, _MOST_BYTES)
        if isinstance(found, dict) and isinstance(found.get("consortium"), str):
            return str(found["consortium"])
        raise Unfit("it names no consortium")
    except (OSError, ValueError) as error:
        raise FederationError(
            f"{folder} must be a coordinator's folder ({error}); make one with: wardround consortium init NAME.",
            code="federation-no-consortium",
        ) from None


def _written(file: Invitation | EnrolmentAnswer) -> dict[str, str]:
    return {
        "public_key": file.public_key.hex(),
        "fingerprint": spoken_fingerprint(file.public_key),
        "signature": file.signature.hex(),
    }


def _parsed(found: object) -> Invitation | EnrolmentAnswer:
    """Returns a file's content; its fingerprint is for people and is not read."""
    match found:
        case {"format": str(kind), "hospital": str(hospital), "public_key": str(key), "signature": str(signature)}:
            public, signed = bytes.fromhex(key), bytes.fromhex(signature)
        case _:
            raise Unfit("it lacks a field")
    if len(public) != KEY_BYTES:
        raise Unfit(f"its key has {len(public)} bytes")
    match found:
        case {"consortium": str(consortium)} if kind == _INVITATION:
            return Invitation(consortium, hospital, public, signed)
        case {"invitation": str(invitation)} if kind == _ANSWER:
            return EnrolmentAnswer(invitation, hospital, public, signed)
        case _:
            raise Unfit(f"its format is {kind!r}")
