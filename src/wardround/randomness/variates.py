"""Laplace and Gumbel variates from a cryptographic stream.

Arithmetic caveat, printed in every statement: the variates are logarithms of uniforms of 52 bits. They lie on a coarse
set of floating-point numbers whose tail ends (a Laplace variate at 37 scales, which a real one passes once in 1e16
draws), and a sum with them reveals more than a sum of real numbers: Mironov 2012,
https://doi.org/10.1145/2382196.2382264.
"""

import numpy as np
import numpy.typing as npt

from wardround.randomness.streams import Stream

Float64 = npt.NDArray[np.float64]


def laplace(stream: Stream, count: int) -> Float64:
    """Returns independent Laplace variates of scale 1, (count,): an exponential one with a fair sign."""
    signs = np.where(stream.words(count) >> np.uint64(63), 1.0, -1.0)
    return np.asarray(signs * -np.log(stream.uniform(count)), dtype=np.float64)


def gumbel(stream: Stream, count: int) -> Float64:
    """Returns independent standard Gumbel variates, (count,).

    The largest of a_i + gumbel_i is number i with probability exp(a_i) / sum of exp(a_j).
    """
    return np.asarray(-np.log(-np.log(stream.uniform(count))), dtype=np.float64)
