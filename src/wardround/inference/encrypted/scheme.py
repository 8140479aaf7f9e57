"""Inner products with somebody's weights, computed on ciphertexts: BFV by Microsoft SEAL, through TenSEAL.

A client encrypts a row x of public features under a key of its own. The server multiplies by its weights w slot
by slot, adds a vector r that is drawn uniformly among those of sum b modulo t, adds a fresh encryption of zero, and
switches to the smallest modulus. The client decrypts x w + r and adds its slots up: w . x + b modulo t.

    ring of 8,192 coefficients, ternary secrets, modulus of 218 bits: 128 bits of security, classical, by the
    HomomorphicEncryption.org standard (2018, table 1), which SEAL checks
    plain modulus t, a prime below 2^50 that is 1 modulo 16,384; features in steps of 2^-22, weights in steps of 2^-18,
    larger by the power of two that brings a head with longer rows to a norm of 256

Guarantees:
    The SERVER learns nothing of x but its length and the number of rows, as long as ring learning with errors is hard,
    even if it departs from the steps: no decryption ever goes back to it.
    A CLIENT that encrypts as `Secret.encrypt` does learns w . x + b for each row and each class. The slots of x w + r
    are uniform among those with that sum, so they hold nothing more; the zero hides the factor in the ciphertext, under
    the same assumption; and switching from 158 to 60 bits divides noise that depends on w by 2^98, to about 2^-33 of
    the rounding that follows. So d rows that are linearly independent give all weights: queries have to be limited.
    A client that FORGES ciphertexts, of noise far above that of an encryption, can see the product in that noise, and
    learn all weights by one query. Nothing here prevents that. Privacy of the patients of the training does not rest on
    it: their bound holds for everybody who has the weights.

Sources: Fan and Vercauteren 2012 (https://eprint.iacr.org/2012/144), BFV; the masks of sums as in Juvekar,
Vaikuntanathan and Chandrakasan 2018 (https://eprint.iacr.org/2018/073, section 3), without its rotations.
"""

import os
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.boundary.extras import needed
from wardround.inference.encrypted.frames import no_ciphertext

Rows: TypeAlias = npt.NDArray[np.float64]
Slots: TypeAlias = npt.NDArray[np.uint64]

SLOTS = 8192
"""Features of a row, at most."""

SECURITY_BITS = 128

LARGEST_LOGIT = 500.0
"""A product beyond it, times `scale_of`, is refused before it is asked for: sums are exact modulo t, half of it 512."""

_PRIME_BITS = (60, 49, 49, 60)  # the last one is for keys alone
_PLAIN_BITS = 50
_ROW_STEP, _WEIGHT_STEP = 2.0**22, 2.0**18


class Scheme:
    """The parameters above and what both sides do with them. Keys and ciphertexts are bytes.

    Raises:
        MissingExtra: TenSEAL is not here.
    """

    def __init__(self) -> None:
        seal = self.seal = _seal()
        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(SLOTS)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(SLOTS, list(_PRIME_BITS)))
        plain = seal.PlainModulus.Batching(SLOTS, _PLAIN_BITS)
        parameters.set_plain_modulus(plain)
        self.modulus = int(plain.value())
        self.context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        self._encoder = seal.BatchEncoder(self.context)

    def plain(self, numbers: npt.NDArray[Any]) -> Any:
        """Returns a plaintext of whole numbers modulo t, one a slot; the slots after them are zero."""
        slots = np.zeros(SLOTS, dtype=np.uint64)
        slots[: len(numbers)] = np.mod(numbers, self.modulus).astype(np.uint64)
        found = self.seal.Plaintext()
        self._encoder.encode(slots.tolist(), found)
        return found

    def slots(self, plain: Any) -> Slots:
        """Returns the numbers of a plaintext, (SLOTS,), below t."""
        return np.asarray(self._encoder.decode_uint64(plain), dtype=np.uint64)

    def saved(self, thing: Any) -> bytes:
        """Returns a key or a ciphertext as bytes; the library knows files only."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "thing")
            thing.save(str(path))
            return path.read_bytes()

    def loaded(self, kind: str, content: bytes) -> Any:
        """Returns the `PublicKey` or `Ciphertext` of bytes from outside, which the library holds to the parameters.

        Raises:
            DataError: they are none of this scheme (code `data-ciphertext`).
        """
        thing = getattr(self.seal, kind)()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "thing")
            path.write_bytes(content)
            try:
                thing.load(self.context, str(path))
            except (RuntimeError, ValueError, MemoryError) as error:
                raise no_ciphertext(str(error)) from None
        return thing


class Secret:
    """The side that asks: a key of its own, drawn by the operating system, for one request or many."""

    def __init__(self) -> None:
        scheme = self._scheme = Scheme()
        keys = scheme.seal.KeyGenerator(scheme.context)
        public, secret = scheme.seal.PublicKey(), keys.secret_key()
        keys.create_public_key(public)
        self._encryptor = scheme.seal.Encryptor(scheme.context, public, secret)
        self._decryptor = scheme.seal.Decryptor(scheme.context, secret)
        self.public: bytes = scheme.saved(public)

    def encrypt(self, row: Rows) -> bytes:
        """Returns the ciphertext of one row of features, (feature,), at most `SLOTS` of them."""
        plain = self._scheme.plain(np.rint(row * _ROW_STEP).astype(np.int64))
        return self._scheme.saved(self._encryptor.encrypt_symmetric(plain))

    def open(self, answer: bytes, scale: float = 1.0) -> float:
        """Returns the logit in an answer of `Head.answers`; `scale` is that of the head's norm."""
        scheme, plain = self._scheme, self._scheme.seal.Plaintext()
        self._decryptor.decrypt(scheme.loaded("Ciphertext", answer), plain)
        total = sum(map(int, scheme.slots(plain))) % scheme.modulus
        return (
            (total - scheme.modulus if total > scheme.modulus // 2 else total) * scale / (_ROW_STEP * _WEIGHT_STEP)
        )


class Head:
    """The side that answers: a linear layer.

    Args:
        weights: (class, feature), at most `SLOTS` features.
        biases: (class,).
    """

    def __init__(self, weights: Rows, biases: Rows) -> None:
        self._scheme = Scheme()
        step = _WEIGHT_STEP / scale_of(largest_norms(weights, biases)[0])
        self._factors = [self._scheme.plain(np.rint(row * step).astype(np.int64)) for row in weights]
        self._biases = [round(float(bias) * step * _ROW_STEP) for bias in biases]

    def answers(self, public: bytes, ciphertexts: Sequence[bytes]) -> list[bytes]:
        """Returns the encrypted logits of encrypted rows, class after class of each row.

        Args:
            public: the key of the client; it encrypts the zeros that are added.
            ciphertexts: of rows.

        Raises:
            DataError: something is none of this scheme's (code `data-ciphertext`).
        """
        scheme = self._scheme
        seal = scheme.seal
        evaluator = seal.Evaluator(scheme.context)
        encryptor = seal.Encryptor(scheme.context, scheme.loaded("PublicKey", public))
        found = []
        for content in ciphertexts:
            row = scheme.loaded("Ciphertext", content)
            if (
                row.size() != 2
                or row.is_ntt_form()
                or list(row.parms_id()) != list(scheme.context.first_parms_id())
            ):
                raise no_ciphertext("it is not fresh")
            for factor, bias in zip(self._factors, self._biases, strict=True):
                answer, zero = seal.Ciphertext(), seal.Ciphertext()
                # A head of zeros only: SEAL refuses the product, which is a known zero.
                if factor.is_zero():
                    encryptor.encrypt_zero(answer)
                else:
                    evaluator.multiply_plain(row, factor, answer)
                evaluator.add_plain_inplace(answer, scheme.plain(masks_of_sum(bias, scheme.modulus)))
                encryptor.encrypt_zero(zero)
                evaluator.add_inplace(answer, zero)
                evaluator.mod_switch_to_inplace(answer, scheme.context.last_parms_id())
                found.append(scheme.saved(answer))
        return found


def masks_of_sum(total: int, modulus: int) -> Slots:
    """Returns numbers below a modulus of 50 bits, uniform among those whose sum is a given one modulo it, (SLOTS,).

    They come from the operating system's generator.
    """
    masks = np.empty(0, dtype=np.uint64)
    while len(masks) < SLOTS:
        fresh = np.frombuffer(os.urandom(8 * SLOTS), dtype=np.uint64) >> np.uint64(64 - _PLAIN_BITS)
        masks = np.concatenate([masks, fresh[fresh < modulus]])[:SLOTS]
    masks[-1] = (total - sum(map(int, masks[:-1]))) % modulus
    return masks


def largest_norms(weights: Rows, biases: Rows) -> tuple[float, float]:
    """Returns bounds on the norms of a head's rows and on its biases, as powers of two, which tell little of either."""
    norms, size = np.linalg.norm(weights, axis=1).max(), np.abs(biases).max(initial=0.0)
    return tuple(float(2.0 ** np.ceil(np.log2(max(one, 2.0**-20)))) for one in (norms, size))  # type: ignore[return-value]


def scale_of(norm: float) -> float:
    """Returns the power of two, at least 1, by which steps of weights grow, from `largest_norms`."""
    return max(1.0, norm / 256)


def _seal() -> Any:
    with needed("encrypted", "An encrypted answer"):
        return import_module("tenseal.sealapi")
