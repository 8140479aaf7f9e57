"""Names for the values that cross rooms: arrays with their axes, the two kinds of identity, and who has one."""

from collections.abc import Callable
from enum import StrEnum
from typing import NewType, TypeAlias

import numpy as np
import numpy.typing as npt

PatientId = NewType("PatientId", str)
"""One person, with all their images, folded by `images.identity.folded`; where no person is named, one picture's file.

It never leaves the hospital; records hold a keyed hash of it.
"""


class Persons(StrEnum):
    """The knowledge that a data set has of its persons; the unit of every guarantee follows from it."""

    NAMED = "named"
    """Every picture names its patient."""
    ONE_PER_PICTURE = "one-per-picture"
    """The site states that no person has two pictures; nothing in the pictures shows it."""
    UNNAMED = "unnamed"
    """No picture names its patient: a person may have several, and what is protected is one picture."""

    @property
    def one(self) -> str:
        """The noun for one record of the set: "patient", or "picture" where persons are unnamed."""
        return "picture" if self is Persons.UNNAMED else "patient"


HospitalName = NewType("HospitalName", str)
"""A holder of patients. The part it plays in a round is called a client."""

Pictures: TypeAlias = npt.NDArray[np.uint8]
"""Decoded pictures, (picture, channel, *space), 0..255; space is (height, width), or (x, y, z) in RAS+."""

Masks: TypeAlias = npt.NDArray[np.uint8]
"""Class index of each pixel or voxel, (picture, *space)."""

Vector: TypeAlias = npt.NDArray[np.float32]
"""All trained parameters of a model, or an update to them, in one row, (parameter,)."""

Scores: TypeAlias = npt.NDArray[np.float64]
"""Class probabilities, (picture, class); rows sum to one."""

Labels: TypeAlias = npt.NDArray[np.int64]
"""Class indices, (picture,)."""

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many pictures, rounds or steps are done, and how many there are."""
