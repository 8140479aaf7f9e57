"""Places of patients from a keyed hash of each patient's own id, so that no place depends on another patient.

A place is the test part, the validation part or the hospital of a patient. `Places.of` maps (key, purpose, patient id)
to a number in [0, 1), and a place is an interval of it. Removing one patient leaves the numbers of all others as they
are, bit for bit. A permutation of a list does not have this property: one patient fewer moves many others. The price is
that a share of the patients is an expectation and no exact number.

The hash is BLAKE2b with a key (RFC 7693, https://www.rfc-editor.org/rfc/rfc7693), which is a pseudorandom function of
its input. A public key, derived from the seed of a study's split, makes the division of a simulation reproducible. It
hides nothing: a number from a public key must never decide what the guarantee needs to be secret, such as Poisson
sampling.

`names_of` gives each patient a name of 128 bits. Draws that belong to one patient (`Stream.uniform_of`, augmentation)
are keyed by the name instead of by the position in a list. Names identify; they are not keyed and not secret by
themselves, and they never leave the hospital.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Names = npt.NDArray[np.uint64]
"""A name of 128 bits for each patient, (patient, 2), little-endian."""

_NAME_BYTES = 16


@dataclass(frozen=True)
class Places:
    """A keyed hash of patient ids to [0, 1).

    Attributes:
        key: 32 bytes; public where it is that of a seed.
    """

    key: bytes

    def __post_init__(self) -> None:
        """Refuses a key of another length."""
        if len(self.key) != 32:
            raise ValueError(f"key must be 32 bytes, got {len(self.key)}")

    @classmethod
    def of_seed(cls, seed: int) -> "Places":
        """Returns the places of a public seed: the same on every machine, and reproducible by any party."""
        return cls(hashlib.sha256(b"wardround/v1/places" + str(seed).encode()).digest())

    def of(self, purpose: str, patient: str) -> float:
        """Returns a number of 53 bits in [0, 1): a function of the key, the purpose and this id alone.

        Numbers of different purposes are independent, as are those of different ids: the length of the purpose is
        hashed before it, so that no two pairs of purpose and id are hashed alike.

        >>> round(Places.of_seed(0).of("test", "p0001"), 6)
        0.311895
        """
        said = purpose.encode()
        content = len(said).to_bytes(4, "big") + said + _bytes_of(patient)
        digest = hashlib.blake2b(content, key=self.key, digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def names_of(patients: Iterable[str]) -> Names:
    """Returns the name of each patient, (patient, 2): BLAKE2b of the id, 128 bits; equal for equal ids only."""
    digests = [hashlib.blake2b(_bytes_of(patient), digest_size=_NAME_BYTES).digest() for patient in patients]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64).reshape(-1, 2)


def _bytes_of(patient: str) -> bytes:
    # A file name that is no UTF-8 may be an id; Python keeps its bytes as surrogates.
    return patient.encode("utf-8", "surrogatepass")
