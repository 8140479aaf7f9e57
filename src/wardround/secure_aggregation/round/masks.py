"""Masks that hide a vector and cancel in the sum: one AES-256 stream for every pair of hospitals.

    key of a pair = HKDF-SHA256(X25519 secret, salt = hash of the transcript, info = label, both fingerprints)
    masked = vector + streams shared with later hospitals - streams shared with earlier ones   (mod 2^w, w = 32 or 64)

Guarantee: computational. Under the usual assumptions on X25519, HKDF and AES, the masked vectors of a transcript's
honest hospitals tell a relay, together with any number of colluding hospitals, the sum of the honest ones
and nothing else; with an honest one missing, nothing at all. There is no phase in which a mask is opened.
Masks give no differential privacy; that is the noise's part.

In a ring of b < w bits the low b bits of each masked word are sent and the others are not. That is a function of the
masked words alone, so an attacker who tells two vectors apart by it could do so by the words; the low bits of a uniform
word are uniform; and keeping them is a homomorphism (`ring`), so that masks cancel modulo 2^b as they do modulo 2^w.

Sources: pairwise masks as in Bonawitz et al. 2017 (https://doi.org/10.1145/3133956.3133982, section 4), without their
second masks, secret shares and unmasking; X25519, RFC 7748; HKDF, RFC 5869; counter mode, NIST SP 800-38A, section 6.5,
from counter zero.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.secure_aggregation.canonical import canonical
from wardround.secure_aggregation.integers.ring import Residues, Ring
from wardround.secure_aggregation.keys.secret import Once

CHECK_BITS = 128
"""Bits of zeros, or a few more, that are masked behind every vector; in a sum in which all masks cancel they are zero
again."""

_CHUNK_BYTES = 1 << 17  # stays in the cache of one core, with the part of the vector that it masks
_BLOCK_BYTES = 16


class Share(NamedTuple):
    """A key that two hospitals have, and this one's sign."""

    key: bytes
    adds: bool


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, num_bytes: int) -> bytes:
    """Returns HKDF with SHA-256 (RFC 5869)."""
    return HKDF(SHA256(), num_bytes, salt, info).derive(secret)


def pair_key(secret: bytes, transcript: bytes, fingerprints: tuple[bytes, bytes]) -> bytes:
    """Returns the AES-256 key of a pair of hospitals, for one transcript.

    `secret` is what X25519 gave both of them, 32 bytes; the fingerprints of their identities are in the order of the
    transcript, whose hash is given.
    """
    return hkdf_sha256(secret, transcript, canonical(("wardround/v1/mask", fingerprints)), 32)


class Masks:
    """The masks of one hospital for one vector; a second vector is refused.

    Two vectors under the same masks would open their difference to everybody.

    `shares` are a key and a sign for every other hospital; `length` is that of the vector.
    """

    def __init__(self, shares: Sequence[Share], length: int, ring: Ring) -> None:
        self.length, self.ring = length, ring
        self._shares = Once(tuple(shares), "A set of masks")

    def hide(self, vector: Residues) -> Residues:
        """Returns the vector and the check coordinates under all masks, (length + check coordinates,).

        Args:
            vector: noised integers modulo 2^b, in whole words, (length,). Nothing here adds noise.

        Returns:
            Words of which the low b bits are sent (`Upload.signed`) and count.

        Raises:
            FederationError: the masks were used before.
            ValueError: the vector has another length or is not in the ring; the masks are unused.
        """
        if vector.shape != (self.length,) or vector.dtype != self.ring.dtype:
            raise ValueError(
                f"vector must be ({self.length},) of {self.ring.dtype}, got {vector.shape} of {vector.dtype}"
            )
        shares = self._shares.take()
        masked = np.zeros(self.length + check_coordinates(self.ring), dtype=self.ring.dtype)
        masked[: self.length] = vector
        streams = [Cipher(algorithms.AES256(share.key), modes.CTR(bytes(16))).encryptor() for share in shares]
        zeros, drawn = memoryview(bytes(_CHUNK_BYTES)), bytearray(_CHUNK_BYTES + _BLOCK_BYTES)
        stream_part = np.frombuffer(drawn, self.ring.dtype)
        coordinates = _CHUNK_BYTES // self.ring.dtype.itemsize
        for start in range(0, masked.size, coordinates):
            part = masked[start : start + coordinates]
            for share, stream in zip(shares, streams, strict=True):
                stream.update_into(zeros[: part.nbytes], drawn)
                (np.add if share.adds else np.subtract)(part, stream_part[: part.size], out=part)
        return masked


def check_coordinates(ring: Ring) -> int:
    """Returns the coordinates of the check: ceil(128 / b), which have 128 bits or more.

    A sum of masks that do not cancel is uniform, and passes with probability 2^-(b ceil(128 / b)): 2^-128 in the rings
    of 16, 32 and 64 bits, 2^-155 in that of 31, and never more than 2^-128.
    """
    return -(-CHECK_BITS // ring.bits)
