"""Neighbouring data sets of per-patient gradients.

A data set is a tuple of patients, and a patient an array of gradients, (picture, number).
"""

import math
from typing import TypeAlias

import numpy as np

from wardround.audit.bounds import Float64

Dataset: TypeAlias = tuple[Float64, ...]
Pairs: TypeAlias = tuple[tuple[Dataset, Dataset], ...]

WIDTH = 16


FIRST = np.eye(WIDTH)[0]
DENSE = np.full(WIDTH, 1 / math.sqrt(WIDTH))
OTHERS: Dataset = tuple(row[None] for row in np.random.default_rng(7).normal(size=(4, WIDTH)) / WIDTH)

NEIGHBOURS: Pairs = (
    (OTHERS, (*OTHERS, 10 * FIRST[None])),
    (OTHERS, (*OTHERS, np.stack([10 * DENSE] * 4 + [10 * FIRST] * 4))),
    ((), (10 * DENSE[None],)),
    ((-DENSE[None],), (-DENSE[None], 10 * DENSE[None])),
)
"""One patient more: with one long gradient; with several pictures; alone; beside one who is the opposite."""
REPLACED: Pairs = (((*OTHERS, 10 * FIRST[None]), (*OTHERS, -10 * FIRST[None])),)
"""One patient replaced by the opposite."""
