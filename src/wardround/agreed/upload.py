"""The upload of a hospital in a round of masked sums, foreseen from public numbers alone."""

from collections.abc import Iterable
from dataclasses import dataclass

from wardround.agreed.masks import count_mechanism_of, fitting, mechanism_of
from wardround.privacy.plans.plan import Plan
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.round.upload import size_of_upload

_SINGLE_PRECISION_BYTES = 4


@dataclass(frozen=True)
class MaskedUpload:
    """The upload of the hospital with the longest name.

    Attributes:
        ring_bits: b, sent for each coordinate.
        num_bytes: of a round's upload, with header, witness coordinates, check and signature.
        count_bytes: of the upload that counts patients before round 1; None where their number is public.
    """

    parameters: int
    ring_bits: int
    num_bytes: int
    count_bytes: int | None

    @property
    def ratio(self) -> float:
        """Its size over that of the parameters alone in single precision."""
        return self.num_bytes / (_SINGLE_PRECISION_BYTES * self.parameters)

    def sentence(self) -> str:
        """Returns the size in words, for a reader who plans a network."""
        counted = (
            "" if self.count_bytes is None else f", and {_size(self.count_bytes)} before round 1 to count patients"
        )
        return (
            f"Each hospital sends {_size(self.num_bytes)} a round under masks, {self.ring_bits} bits a coordinate: "
            f"{self.ratio:.2f} times its {self.parameters:,} parameters in single precision{counted}."
        )

    def to_json(self) -> dict[str, object]:
        """Returns the upload as a JSON object."""
        return {
            "sentence": self.sentence(),
            "bytes": self.num_bytes,
            "ring_bits": self.ring_bits,
            "of_single_precision": self.ratio,
            "count_bytes": self.count_bytes,
        }


def upload_of(plan: Plan, parameters: int, hospitals: Iterable[str]) -> MaskedUpload | None:
    """Returns the upload of each hospital; None where sums are not masked.

    Raises:
        FederationError: no ring holds sums over so many patients.
        PrivacyError: the plan's grid cannot carry so many parameters.
    """
    if plan.masked is None:
        return None
    longest = max(hospitals, key=lambda name: len(name.encode()))

    def size(mechanism: IntegerMechanism) -> int:
        return size_of_upload(mechanism.dimension, mechanism.ring, longest)

    mechanism, count = fitting(mechanism_of(plan, parameters), plan), count_mechanism_of(plan)
    return MaskedUpload(parameters, mechanism.ring.bits, size(mechanism), None if count is None else size(count))


def _size(num_bytes: int) -> str:
    """Returns a size in three digits and a unit."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= 0.9995 * size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} bytes"
