"""The sum of a round's uploads: all of them or nothing."""

import numpy as np

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.ring import Residues
from wardround.secure_aggregation.round.transcript import Transcript
from wardround.secure_aggregation.round.upload import Upload, num_coordinates


class MaskedSum:
    """Adds uploads up as they arrive, each checked before it is added.

    Released, to the holder of this object: the sum of the hospitals' noised vectors, once the last upload is in.
    Until then it holds residues that are uniform to any party without the key of a missing hospital.
    """

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._missing = {member.hospital for member in transcript.members}
        self._sum = np.zeros(num_coordinates(transcript), transcript.terms.ring.dtype)

    @property
    def missing(self) -> tuple[str, ...]:
        """Hospitals whose upload has not come, sorted."""
        return tuple(sorted(self._missing))

    def add(self, upload: Upload) -> None:
        """Adds one upload; what is refused changes nothing.

        Raises:
            FederationError: it does not hold (`Upload.check`), its payload is not packed as it must be, or that
                hospital's has been added.
        """
        upload.check(self._transcript)
        if upload.hospital not in self._missing:
            raise FederationError(f"{upload.hospital} must upload once, and did twice; the second was not added.")
        np.add(self._sum, upload.residues, out=self._sum)
        self._missing.remove(upload.hospital)

    def total(self) -> Residues:
        """Sum of all hospitals' vectors modulo 2^b, (length,).

        Raises:
            FederationError: an upload is missing, or the masks did not cancel: then the sum is uniform, and says
                nothing. A sum of masks that do not cancel passes with probability 2^-128 or less
                (`wardround.secure_aggregation.round.masks.check_coordinates`).
        """
        if self._missing:
            raise FederationError(
                f"Every hospital of an attempt must upload, and {', '.join(self.missing)} did not; nothing can be "
                "opened. Begin a new attempt with the others, with new keys and new noise."
            )
        length, total = self._transcript.terms.length, self._transcript.terms.ring.lowest(self._sum)
        if total[length:].any():
            raise FederationError(
                "The masks of all hospitals must cancel, and do not: they disagree about the round, or one of them is "
                "wrong; the sum says nothing. Compare the terms, then begin a new attempt."
            )
        return total[:length]
