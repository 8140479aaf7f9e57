"""Encrypted whole-number vectors that are added while encrypted, and opened by all holders of a key together.

Threshold BFV of OpenFHE, additions only. Public keys are joint: the first holder's is (b, a), every further one adds
e - a s to b for a secret s of its own, so that the last one's belongs to the sum of all secrets. Without any one of
them nothing is opened.

    ring of 8192 coefficients, ternary secrets, modulus of 218 bits: 128 bits of security, classical, by the
    HomomorphicEncryption.org standard (2018, table 1), which OpenFHE checks
    plain modulus p, the largest prime below 2^40 that is 1 modulo 16384: 8192 numbers modulo p in a ciphertext

Partial decryptions are flooded: noise uniform on an interval of 2^169, against at most 2^30 of noise in a sum of
ciphertexts, so that one of them is within 2^-139 a coefficient of what the opened sum alone lets anybody simulate
(`NOISE_FLOODING_MULTIPARTY`; the library's default, a Gaussian of 2^20, has no such argument). That doubles the bytes.
Exact: the floods of n holders take n p / q of the distance between two plain numbers, q the first prime of the modulus,
just below 2^49, and rounding is right up to 1/2; `MOST_PARTIES` leaves a factor of two.

Keys, encryption and floods are drawn by OpenFHE itself (BLAKE2 seeded by the operating system), not by Wardround. Its
parser is not made for hostile bytes: nothing reaches it that was not measured, and `threshold` checks signatures
before. A trusted hospital that sends bytes made to break that parser is not defended against.

Sources: Asharov et al. 2012 (https://doi.org/10.1007/978-3-642-29011-4_29, section 4), keys and flooding; Fan and
Vercauteren 2012 (https://eprint.iacr.org/2012/144), BFV; OpenFHE 1.5, `MultipartyKeyGen` to `MultipartyDecryptFusion`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.errors import FederationError, MissingExtra

Int64: TypeAlias = npt.NDArray[np.int64]

SLOTS = 8192
"""Numbers in a ciphertext."""

PLAIN_MODULUS = 1_099_511_480_321
"""p; a sum between -p/2 and p/2 is exact, another wrong by a multiple of p."""

MOST_PARTIES = 100

_PRIME_BITS = 49
_PRIMES = 4
_POLYNOMIAL_BYTES = 8 * _PRIMES * SLOTS
_HEADING_BYTES = 4096  # parameters and tags that OpenFHE writes with every object, at most


def num_blocks(length: int) -> int:
    """Ciphertexts of a vector."""
    return -(-length // SLOTS)


class Bfv:
    """The scheme with the parameters above, for that many holders of secrets.

    Bytes that OpenFHE cannot read under these parameters are a FederationError in every method.

    Args:
        parties: how many hold a part of the key.

    Raises:
        FederationError: there are too many for exact sums, or too few for a joint key.
        MissingExtra: OpenFHE is not here.
    """

    def __init__(self, parties: int) -> None:
        if not 2 <= parties <= MOST_PARTIES:
            raise FederationError(
                f"A threshold sum must have 2 to {MOST_PARTIES} hospitals, got {parties}; use masks for more."
            )
        self.parties = parties
        fhe = self._library = _openfhe()
        parameters = fhe.CCParamsBFVRNS()
        parameters.SetSecurityLevel(fhe.HEStd_128_classic)
        parameters.SetRingDim(SLOTS)
        parameters.SetPlaintextModulus(PLAIN_MODULUS)
        parameters.SetScalingModSize(_PRIME_BITS)
        parameters.SetMultiplicativeDepth(0)
        parameters.SetEvalAddCount(parties - 1)
        parameters.SetThresholdNumOfParties(parties)
        parameters.SetKeySwitchTechnique(fhe.BV)
        parameters.SetMultipartyMode(fhe.NOISE_FLOODING_MULTIPARTY)
        self._context = fhe.GenCryptoContext(parameters)
        for feature in (fhe.PKE, fhe.LEVELEDSHE, fhe.ADVANCEDSHE, fhe.MULTIPARTY):
            self._context.Enable(feature)

    def new_part(self, before: bytes | None) -> tuple[bytes, Any]:
        """Returns a public key that belongs to the secrets so far and a new one, and the new secret.

        Args:
            before: public key of those before; None for the first.
        """
        _check_process()
        if before is None:
            pair = self._context.KeyGen()
        else:
            self.encrypt(before, np.zeros(1, np.int64))  # where the library holds a key against the parameters
            pair = self._context.MultipartyKeyGen(self._read("PublicKey", before, 2))
        return self._bytes(pair.publicKey), pair.secretKey

    def encrypt(self, public: bytes, values: Int64) -> list[bytes]:
        """Returns the values modulo p, encrypted: `num_blocks` ciphertexts, the last filled up with zeros."""
        _check_process()
        key, residues = self._read("PublicKey", public, 2), np.mod(values, PLAIN_MODULUS)
        with _refusing():
            return [
                self._bytes(self._context.Encrypt(key, self._context.MakePackedPlaintext(block.tolist())))
                for block in np.split(residues, range(SLOTS, residues.size, SLOTS))
            ]

    def added(self, total: Sequence[Any], ciphertexts: Sequence[bytes]) -> list[Any]:
        """Returns a sum of ciphertexts, block by block, and these; an empty sum is the beginning of one."""
        read = [self._read("Ciphertext", content, 2) for content in ciphertexts]
        with _refusing():
            pairs = zip(total, read, strict=True) if total else ()
            return [self._context.EvalAdd(one, other) for one, other in pairs] or read

    def partial(self, total: Sequence[Any], secret: Any, leads: bool) -> list[bytes]:
        """Returns one holder's part of opening a sum, block by block; exactly one of the holders leads."""
        _check_process()
        decrypt = self._context.MultipartyDecryptLead if leads else self._context.MultipartyDecryptMain
        return [self._bytes(decrypt([block], secret)[0]) for block in total]

    def fuse(self, partials: Sequence[Sequence[bytes]]) -> Int64:
        """Returns the opened sum between -p/2 and p/2, (blocks x SLOTS,); the leading holder's part comes first."""
        opened = np.empty((len(partials[0]), SLOTS), dtype=np.int64)
        for row, block in zip(opened, zip(*partials, strict=True), strict=True):
            read = [self._read("Ciphertext", content, 1) for content in block]
            with _refusing():
                row[:] = self._context.MultipartyDecryptFusion(read).GetPackedValue()
        return opened.reshape(-1)

    def _bytes(self, thing: Any) -> bytes:
        content: bytes = self._library.Serialize(thing, self._library.BINARY)
        return content

    def _read(self, kind: str, content: bytes, polynomials: int) -> Any:
        """An object of OpenFHE's. Bytes of another size are refused here: some it reads as nothing at all."""
        with _refusing():
            if not 0 < len(content) - polynomials * _POLYNOMIAL_BYTES < _HEADING_BYTES:
                raise RuntimeError(f"{len(content)} bytes are not those of a {kind}")
            thing = getattr(self._library, f"Deserialize{kind}String")(content, self._library.BINARY)
            if thing is None or (kind == "Ciphertext" and thing.GetCryptoContext() is not self._context):
                raise RuntimeError("it is of other parameters")
        return thing


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise FederationError(
            f"What a hospital sent must be readable by this OpenFHE under the same parameters and keys, and is not "
            f"({error}); nothing is opened. Compare versions, then begin a new attempt."
        ) from None


@cache
def _first_process() -> int:
    return os.getpid()


def _check_process() -> None:
    """OpenFHE's random state is copied by a fork, and two processes would encrypt with the same randomness."""
    if os.getpid() != _first_process():
        raise FederationError(
            "OpenFHE must draw its randomness in the process that loaded it, and this one was forked from it; start a "
            "new process for every hospital."
        )


def _openfhe() -> Any:
    try:
        library = import_module("openfhe")
    except ImportError as error:
        raise MissingExtra(
            f"Threshold homomorphic sums need OpenFHE for this Python, which cannot be imported ({error}): its wheel "
            "on PyPI says any Python 3 and holds a library for CPython 3.10 on Ubuntu only, so build openfhe-python "
            "from source, or use masks, which need nothing more and cost less."
        ) from None
    _first_process()
    return library
