"""The published sum of encrypted models: BFV with one secret key, which every hospital has.

As in the code of Dopamine (Malekzadeh et al. 2021): one hospital makes a key pair and sends the secret key to all other
hospitals, and not to the server. In a round every hospital rounds its weights to three decimals, encrypts them as whole
numbers and uploads them; the server adds ciphertexts and sends the sum back; hospitals decrypt it. Polynomials of
degree 4096, plain modulus 40961: 4096 numbers in a ciphertext, and sums between -20480 and 20480, of thousandths.
(After the last round models are sent in the clear there; that is not repeated here.) TenSEAL has scheme and parameters.

Guarantee: none. The key that opens the sum opens every single upload. The server has the uploads and each hospital has
the key, so that the server and any one hospital read everybody's model exactly, as does any hospital that sees uploads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.boundary.extras import needed
from wardround.errors import FederationError

SLOTS = 4096
PLAIN_MODULUS = 40_961
SCALE = 1000
"""Numbers to a unit: three decimals."""


@dataclass(frozen=True)
class SharedKey:
    """The keys that are handed out before the first round.

    Attributes:
        hospitals: the parameters and the secret key; the same bytes for every hospital.
        server: the parameters and the public key.
    """

    hospitals: bytes = field(repr=False)
    server: bytes

    @classmethod
    def new(cls) -> "SharedKey":
        """Returns a new key pair.

        Raises:
            MissingExtra: TenSEAL is not installed.
        """
        fhe = _tenseal()
        context = fhe.context(fhe.SCHEME_TYPE.BFV, SLOTS, plain_modulus=PLAIN_MODULUS, n_threads=1)
        only_public = {"save_secret_key": False, "save_galois_keys": False, "save_relin_keys": False}
        return cls(context.serialize(save_secret_key=True), context.serialize(save_public_key=True, **only_public))


def encoded(weights: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns weights in thousandths, rounded, (parameter,)."""
    return np.rint(SCALE * weights.astype(np.float64)).astype(np.int64)


def encrypted(key: bytes, numbers: npt.NDArray[np.int64]) -> list[bytes]:
    """Returns whole numbers, (parameter,), as ciphertexts of 4096 each."""
    fhe = _tenseal()
    context = fhe.context_from(key)
    blocks = np.split(numbers, range(SLOTS, numbers.size, SLOTS))
    return [fhe.bfv_vector(context, block.tolist()).serialize() for block in blocks]


def added(key: bytes, uploads: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Returns the ciphertexts of the sum of all uploads, formed without a secret key."""
    fhe = _tenseal()
    context, sums = fhe.context_from(key), []
    for block in zip(*uploads, strict=True):
        total = fhe.bfv_vector_from(context, block[0])
        for one in block[1:]:
            total += fhe.bfv_vector_from(context, one)
        sums.append(total.serialize())
    return sums


def opened(key: bytes, ciphertexts: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Returns the numbers that ciphertexts hold, (parameter,), whether they are of a sum or of one hospital.

    Raises:
        FederationError: the key is without the secret half.
    """
    fhe = _tenseal()
    context = fhe.context_from(key)
    if not context.has_secret_key():
        raise FederationError(
            "Opening a ciphertext needs the secret key, and this is the server's half; ask a hospital."
        )
    return np.concatenate([fhe.bfv_vector_from(context, one).decrypt() for one in ciphertexts]).astype(np.int64)


def _tenseal() -> Any:
    with needed("encrypted", "The published sum of encrypted models"):
        return import_module("tenseal")
