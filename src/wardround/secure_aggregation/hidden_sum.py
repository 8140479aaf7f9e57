"""What every way of adding hidden vectors up has in common: masks, and threshold encryption where it is installed.

    upload     hospital       residues in, signed bytes out; once
    add        coordinator    one upload, checked before it counts
    opening    hospital       all uploads in, what it gives towards opening their sum out; masks open by themselves
    total      coordinator    the sum of all hospitals' residues, or a refusal

Keys come before, and differ: `RoundKey` for masks, a chain of `ThresholdAddend.key` for threshold encryption. Released,
either way: the sum, to the coordinator. Neither adds noise, and what each holds against whom stands with it.
"""

from collections.abc import Sequence
from typing import Protocol

from wardround.errors import FederationError
from wardround.secure_aggregation.confirmation import Agreed
from wardround.secure_aggregation.identity import Identity
from wardround.secure_aggregation.masked_sum import MaskedSum
from wardround.secure_aggregation.ring import Residues
from wardround.secure_aggregation.round_key import RoundKey
from wardround.secure_aggregation.transcript import Transcript
from wardround.secure_aggregation.upload import Upload


class HiddenAddend(Protocol):
    """A hospital's side of one attempt at a sum."""

    def upload(self, vector: Residues) -> bytes:
        """The vector, hidden and signed. Charge the ledger before it leaves the hospital.

        Args:
            vector: noised integers modulo 2^b, (length,). Nothing here adds noise.

        Raises:
            FederationError: this side has hidden a vector before.
        """
        ...

    def opening(self, uploads: Sequence[bytes]) -> bytes:
        """What this hospital gives towards the sum of all uploads of the attempt, and towards nothing else.

        Empty where a sum opens by itself.

        Raises:
            FederationError: something would be given, and an upload is missing, stands twice, or was not signed for
                this attempt by a hospital of it.
        """
        ...


class HiddenSum(Protocol):
    """The coordinator's side of one attempt at a sum."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Hospitals whose upload has not come, sorted."""
        ...

    def add(self, upload: bytes) -> None:
        """Adds one upload; what is refused changes nothing.

        Raises:
            FederationError: it is not a whole upload of a hospital of this attempt, or that hospital's has been added.
        """
        ...

    def total(self, openings: Sequence[bytes]) -> Residues:
        """Sum of all hospitals' vectors modulo 2^b, (length,).

        Raises:
            FederationError: an upload is missing, or it cannot be opened.
        """
        ...


class MaskedAddend:
    """A hospital's side under masks.

    Args:
        key: that it announced for the attempt.
        agreed: what all hospitals of the attempt have confirmed.
        identity: signs the upload.
    """

    def __init__(self, key: RoundKey, agreed: Agreed, identity: Identity) -> None:
        self._key, self._agreed, self._identity = key, agreed, identity

    def upload(self, vector: Residues) -> bytes:
        """See `HiddenAddend`."""
        masked = self._key.masks(self._agreed).hide(vector)
        return Upload.signed(masked, self._agreed, self._identity).to_bytes()

    def opening(self, uploads: Sequence[bytes]) -> bytes:
        """See `HiddenAddend`; nothing, for the masks cancel in the sum. No upload is looked at."""
        del uploads
        return b""


class MaskedTotal:
    """The coordinator's side under masks.

    Args:
        transcript: of the attempt.
    """

    def __init__(self, transcript: Transcript) -> None:
        self._sum = MaskedSum(transcript)

    @property
    def missing(self) -> tuple[str, ...]:
        """See `HiddenSum`."""
        return self._sum.missing

    def add(self, upload: bytes) -> None:
        """See `HiddenSum`."""
        self._sum.add(Upload.from_bytes(upload))

    def total(self, openings: Sequence[bytes]) -> Residues:
        """See `HiddenSum`."""
        if any(openings):
            raise FederationError(
                "A sum under masks must open by itself, and was given something to open it with; compare what the "
                "hospitals run."
            )
        return self._sum.total()
