"""Cryptographic randomness: named streams, variates, places of patients by their own id, Poisson sampling of patients.

An island on numpy and `cryptography`. Every function that draws takes a `Stream`; none has a default.
"""

from wardround.randomness.places import Names, Places, names_of
from wardround.randomness.sampling import LARGER_SAMPLE, Indices, largest_sample, poisson_sample
from wardround.randomness.streams import Randomness, Stream, gumbel, laplace

__all__ = [
    "LARGER_SAMPLE",
    "Indices",
    "Names",
    "Places",
    "Randomness",
    "Stream",
    "gumbel",
    "laplace",
    "largest_sample",
    "names_of",
    "poisson_sample",
]
