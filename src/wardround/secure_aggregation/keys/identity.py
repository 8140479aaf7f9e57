"""A hospital's own signing key: made once, kept in one file that nobody else can read.

The file is PEM (PKCS 8) without a passphrase, so that a machine can take part at night; its protection is the mode 0600
and the account that runs the hospital's side. A person who copies it can sign as the hospital: pinned keys are then
replaced by hand, at every hospital.
"""

import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from wardround.boundary.documents import Unfit, read_regular
from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import Field, canonical, digest
from wardround.secure_aggregation.keys.key_files import write_key_file
from wardround.secure_aggregation.keys.secret import Entropy

KEY_BYTES = 32

_SPOKEN_BYTES = 20
_LARGEST_FILE = 1 << 14


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 private key; its public half is what others pin."""

    _key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def new(cls, entropy: Entropy) -> "SigningKey":
        """A new key.

        Raises:
            FederationError: there is no entropy.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(entropy(32)))

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """The key that a file holds.

        Raises:
            FederationError: the file is missing, others than its owner can open it, or it holds something else.
        """
        return cls(_key_of(path))

    @property
    def public(self) -> bytes:
        """The key that others pin, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, purpose: str, *fields: Field) -> bytes:
        """Ed25519 signature, 64 bytes, of the canonical bytes of the fields under a purpose."""
        return self._key.sign(canonical((purpose, *fields)))

    def write(self, path: Path) -> None:
        """Writes the key, whole or not at all, to a file that only its owner can open.

        Raises:
            FederationError: there is a file already, which is never replaced; or it cannot be written.
        """
        content = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_key_file(path, content, replace=False)


@dataclass(frozen=True)
class Identity:
    """A hospital that can sign: the name under which the others have pinned its key, and the key."""

    hospital: str
    key: SigningKey

    def __post_init__(self) -> None:
        """Refuses what cannot be a name."""
        check_name(self.hospital)


def fingerprint(public: bytes) -> bytes:
    """SHA-256 of an Ed25519 public key under its purpose, 32 bytes."""
    return digest("wardround/v1/identity", public)


def spoken_fingerprint(public: bytes) -> str:
    """The first 160 bits of the fingerprint as ten groups of four hexadecimal digits, for reading aloud.

    Another key with the same groups would take about 2^160 trials.

    >>> spoken_fingerprint(bytes(32))
    '8dc9 c4a6 c9ca 4cbb 0fbd 4352 a60e a203 326f 145f'
    """
    digits = fingerprint(public)[:_SPOKEN_BYTES].hex()
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def _key_of(path: Path) -> Ed25519PrivateKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = read_regular(path, _LARGEST_FILE)
    except (OSError, Unfit) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FederationError(
            f"{path} must be a key file ({reason}); make one with `wardround keys new`."
        ) from None
    if mode & 0o077:
        raise FederationError(
            f"{path} must be closed to everybody but its owner, and has mode {mode:04o}; run `chmod 600` on it, and "
            "replace the key if others may have read it."
        )
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise FederationError(
            f"{path} must be a key without a passphrase, and has one; make one with `wardround keys new`."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise FederationError(
            f"{path} must hold a private key in PEM, and is damaged or something else; restore it from a copy."
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise FederationError(
            f"{path} must hold an Ed25519 key, and holds another kind ({type(key).__name__}); make one with "
            "`wardround keys new`."
        )
    return key


def check_name(hospital: str) -> None:
    """Refuses a name that two people could read differently: empty, padded, longer than 100, or unprintable."""
    if not 0 < len(hospital) <= 100 or hospital != hospital.strip() or not hospital.isprintable():
        raise FederationError(
            "A hospital's name must be 1 to 100 printable characters without spaces around them, got "
            f"{hospital[:101]!r}."
        )
