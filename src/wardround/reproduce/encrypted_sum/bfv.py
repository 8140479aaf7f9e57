"""The threshold repair: whole-number vectors that are added while encrypted, opened by all holders of a key together.

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

Guarantee: computational, under ring learning with errors, as long as the HOSPITALS follow the steps. Then the
coordinator, together with any number of hospitals that show it all they have, learns the sum of the others' vectors and
nothing else. A hospital that does not follow them can do more than under masks, together with the coordinator: the last
of the chain can publish a key of its own, the first can choose the public polynomial with a trapdoor, and a party that
sees ciphertexts before it uploads can subtract them from its own. So no run offers this: it is measured in one process,
with nothing signed, and nothing here is made for bytes of others.

Sources: Asharov et al. 2012 (https://doi.org/10.1007/978-3-642-29011-4_29, section 4), keys and flooding; Fan and
Vercauteren 2012 (https://eprint.iacr.org/2012/144), BFV; OpenFHE 1.5, `MultipartyKeyGen` to `MultipartyDecryptFusion`.
"""

from collections.abc import Sequence
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


class Bfv:
    """The scheme with the parameters above, for that many holders of secrets. Keys and ciphertexts are bytes.

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

        `before` is the public key of those before; None for the first.
        """
        context = self._context
        pair = context.KeyGen() if before is None else context.MultipartyKeyGen(self._read("PublicKey", before))
        return self._bytes(pair.publicKey), pair.secretKey

    def encrypt(self, public: bytes, values: Int64) -> list[bytes]:
        """Returns the values modulo p, encrypted: as many ciphertexts as it takes, the last filled up with zeros."""
        key, residues = self._read("PublicKey", public), np.mod(values, PLAIN_MODULUS)
        return [
            self._bytes(self._context.Encrypt(key, self._context.MakePackedPlaintext(block.tolist())))
            for block in np.split(residues, range(SLOTS, residues.size, SLOTS))
        ]

    def added(self, total: Sequence[Any], ciphertexts: Sequence[bytes]) -> list[Any]:
        """Returns a sum of ciphertexts, block by block, and these; an empty sum is the beginning of one."""
        read = [self._read("Ciphertext", content) for content in ciphertexts]
        pairs = zip(total, read, strict=True) if total else ()
        return [self._context.EvalAdd(one, other) for one, other in pairs] or read

    def partial(self, total: Sequence[Any], secret: Any, leads: bool) -> list[bytes]:
        """Returns one holder's part of opening a sum, block by block; exactly one of the holders leads."""
        decrypt = self._context.MultipartyDecryptLead if leads else self._context.MultipartyDecryptMain
        return [self._bytes(decrypt([block], secret)[0]) for block in total]

    def fuse(self, partials: Sequence[Sequence[bytes]]) -> Int64:
        """Returns the opened sum between -p/2 and p/2, (blocks x SLOTS,); the leading holder's part comes first."""
        opened = np.empty((len(partials[0]), SLOTS), dtype=np.int64)
        for row, block in zip(opened, zip(*partials, strict=True), strict=True):
            read = [self._read("Ciphertext", content) for content in block]
            row[:] = self._context.MultipartyDecryptFusion(read).GetPackedValue()
        return opened.reshape(-1)

    def _bytes(self, thing: Any) -> bytes:
        content: bytes = self._library.Serialize(thing, self._library.BINARY)
        return content

    def _read(self, kind: str, content: bytes) -> Any:
        return getattr(self._library, f"Deserialize{kind}String")(content, self._library.BINARY)


def _openfhe() -> Any:
    try:
        return import_module("openfhe")
    except ImportError as error:
        raise MissingExtra(
            f"Threshold homomorphic sums need OpenFHE for this Python, which cannot be imported ({error}): its wheel "
            "on PyPI says any Python 3 and holds a library for CPython 3.10 on Ubuntu only, so build openfhe-python "
            "from source, or use masks, which need nothing more and cost less."
        ) from None
