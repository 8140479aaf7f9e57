"""The identities a hospital trusts: names and public keys, in a file of its own, compared out of band.

Trust is not distributed. A name is pinned after two people have read its fingerprint to each other; a key that
differs from the pinned one is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wardround.boundary.documents import MOST_TOML_BYTES, Unfit, decoded, parse_toml, read_regular
from wardround.boundary.text import brief, read_alike
from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import Field, canonical
from wardround.secure_aggregation.keys.identity import KEY_BYTES, check_name, spoken_fingerprint
from wardround.secure_aggregation.keys.key_files import write_key_file

_HEADING = (
    "# Hospitals and their public keys; `compared` says that a fingerprint was read aloud and was the same.\n"
)

_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME) % _PRIME


@dataclass(frozen=True)
class Pins:
    """Public Ed25519 keys by the hospital's name, and the names whose fingerprint was compared out of band."""

    keys: Mapping[str, bytes] = field(default_factory=dict)
    compared: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuses what cannot be a name or a key, and one key under two names."""
        for hospital, public in self.keys.items():
            check_name(hospital)
            if len(public) != KEY_BYTES:
                raise FederationError(
                    f"The public key of {hospital} must be {KEY_BYTES} bytes, got {len(public)}."
                )
            if has_small_order(public):
                raise FederationError(
                    f"The public key of {hospital} must not be a point of small order, under which a signature can be "
                    "forged, and is one; ask them for the key of their `wardround keys show`.",
                    code="federation-small-order",
                )
        if alike := read_alike(self.keys):
            raise FederationError(
                f"Names must differ by more than case and spaces, and {', '.join(alike)} do not; pin one of them.",
                code="federation-names-alike",
            )
        if len(set(self.keys.values())) != len(self.keys):
            raise FederationError(
                "Every hospital must have a key of its own, and one is pinned twice; remove one."
            )
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))

    def with_pin(self, hospital: str, public: bytes, *, compared: bool = False) -> "Pins":
        """Returns these and one more; the pinned key again changes nothing, but that it may be `compared` now.

        Raises:
            FederationError: the name has another key, or the key another name.
        """
        known = self.keys.get(hospital, public)
        if known != public:
            raise FederationError(
                f"{hospital} must keep the key that is pinned ({spoken_fingerprint(known)}), and this is another "
                f"({spoken_fingerprint(public)}); if they say by telephone that theirs has changed, remove the old "
                "line from the file by hand.",
                code="federation-pinned-other",
            )
        for name, key in self.keys.items():
            if key == public and name != hospital:
                raise FederationError(
                    f"A key must belong to one hospital, and this one is pinned as {name} already; nothing was pinned. "
                    "Ask both for their fingerprints.",
                    code="federation-key-of-another",
                )
        return Pins({**self.keys, hospital: public}, self.compared | ({hospital} if compared else set()))

    def public_of(self, hospital: str) -> bytes:
        """Returns the pinned key of a hospital.

        Raises:
            FederationError: it has none.
        """
        try:
            return self.keys[hospital]
        except KeyError:
            raise FederationError(
                f"The key of {hospital!r} must be pinned here before a round with it; compare its fingerprint by "
                "telephone, then run `wardround keys pin`."
            ) from None

    @classmethod
    def read(cls, path: Path) -> "Pins":
        """Returns the pins of a TOML file, `name = "64 hexadecimal digits"` a line.

        A key whose fingerprint was compared has `{key = "64 hexadecimal digits", compared = true}` instead.

        Raises:
            FederationError: the file is missing, or holds something else.
        """
        try:
            found = parse_toml(decoded(read_regular(path, MOST_TOML_BYTES)))
        except OSError as error:
            raise FederationError(
                f"{path} must be a file of pinned keys ({error.strerror}); make one with `wardround keys pin`."
            ) from None
        except Unfit as error:
            raise FederationError(
                f"{path} must be a TOML file of pinned keys ({error}); repair it, or restore it from a copy."
            ) from None
        keys, compared = {}, set()
        for hospital, value in found.items():
            match value:
                case {"key": key, "compared": True} if len(value) == 2:
                    keys[hospital] = parse_public(key, hospital)
                    compared.add(hospital)
                case _:
                    keys[hospital] = parse_public(value, hospital)
        return cls(keys, frozenset(compared))

    def write(self, path: Path) -> None:
        """Writes the pins, sorted, whole or not at all.

        Raises:
            FederationError: the file cannot be written.
        """
        lines = []
        for hospital, public in sorted(self.keys.items()):
            key = f'"{public.hex()}"'
            value = f"{{key = {key}, compared = true}}" if hospital in self.compared else key
            lines.append(f"{json.dumps(hospital, ensure_ascii=False)} = {value}\n")
        write_key_file(path, "".join([_HEADING, *lines]).encode(), replace=True)


def has_small_order(public: bytes) -> bool:
    """Returns whether an encoded point of edwards25519 has order 1, 2, 4 or 8, canonically encoded or not.

    The coordinate y decides: y = 1, y = -1 and y = 0 have the orders 1, 2 and 4. A point of order 8 doubles to one of
    order 4, so x^2 + y^2 = 0, which with -x^2 + y^2 = 1 + d x^2 y^2 (RFC 8032, section 5.1) is d y^4 + 2 y^2 = 1.
    """
    y = int.from_bytes(public, "little") % 2**255 % _PRIME
    square = y * y % _PRIME
    return y * (square - 1) * (_D * square * square + 2 * square - 1) % _PRIME == 0


def verify(public: bytes, signature: bytes, purpose: str, *fields: Field) -> bool:
    """Returns whether an Ed25519 key signed these fields under this purpose."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, canonical((purpose, *fields)))
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_public(text: object, hospital: str) -> bytes:
    """Returns a public key from 64 hexadecimal digits.

    Raises:
        FederationError: they are not.
    """
    try:
        if not isinstance(text, str) or len(text.strip()) != 2 * KEY_BYTES:
            raise ValueError
        return bytes.fromhex(text.strip())
    except ValueError:
        raise FederationError(
            f"The public key of {hospital} must be {2 * KEY_BYTES} hexadecimal digits, got {brief(text)}; copy it from "
            "their `wardround keys show`."
        ) from None


def check_fingerprint(public: bytes, heard: str, hospital: str) -> None:
    """Refuses a key whose fingerprint is not what was read aloud.

    Raises:
        FederationError: it is another.
    """
    if "".join(heard.split()).lower() != "".join(spoken_fingerprint(public).split()):
        raise FederationError(
            f"The key of {hospital} must have the fingerprint that was read aloud, {heard!r}, and has "
            f"{spoken_fingerprint(public)}; nothing was pinned. One of the two is not theirs.",
            code="federation-fingerprint",
        )
