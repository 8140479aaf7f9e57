"""The finding of pictures that use few of the bits of their files, such as 12 bits in files of 16."""

from collections.abc import Iterator

import numpy as np

from wardround.boundary.text import counted
from wardround.images.quality.measure import Measures
from wardround.images.quality.notice import Level, Notice

BITS = (10, 12, 14)
"""Depths of detectors whose values lie in files of 16 bits."""

SHARE = 0.9
"""Part of the pictures that are this dark at least: a few have lettering in white."""


def depth_notices(measures: Measures, num_axes: int) -> Iterator[Notice]:
    """Yields the finding where nearly every picture (`num_axes` 2) is darker than a depth of `BITS` in 16 can be."""
    # A dark picture is one; that all are is a matter of their files.
    brightest = int(np.quantile(measures.brightest, SHARE, method="higher"))
    bits = next((bits for bits in BITS if brightest <= round(255 * ((1 << bits) - 1) / 65535)), None)
    if num_axes != 2 or bits is None or not brightest:
        return
    dark = int(np.count_nonzero(measures.brightest <= brightest))
    yield Notice(
        "few_bits", Level.LOOK, dark,
        f"{counted(dark, 'picture')} of {len(measures.brightest):,} reach level {brightest} of 255 at most",
        f"they look like {bits} bits in files of 16, of which a network would see {brightest + 1} grey levels.",
        f"if the files have 16 bits, say how many the device uses: bits = {bits} in [data] of the study, and "
        f"--bits {bits} here.",
    )  # fmt: skip
