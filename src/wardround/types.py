"""Names for the values that cross rooms: arrays with their axes, and the two kinds of identity."""

from typing import NewType, TypeAlias

import numpy as np
import numpy.typing as npt

PatientId = NewType("PatientId", str)
"""One person, with all their images. Never leaves the hospital; records hold a keyed hash of it."""

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
