"""Exact samples of the discrete Gaussian: whole numbers k with probability proportional to exp(-k² / 2σ²).

Canonne, Kamath and Steinke 2020, Algorithm 3 (https://arxiv.org/abs/2004.00010): propose from a discrete Laplace
distribution, accept with a probability that turns it into the Gaussian. With a scale t >= 1 (the paper takes
floor(σ) + 1; any whole number is as right, and σ rounded accepts most, 3 of 4 where σ is large):

    |X| = floor(-t ln u), so that Pr[|X| >= k] = Pr[u <= exp(-k / t)]        u uniform on (0, 1)
    sign fair; minus zero is proposed again
    accept where v < exp(-(|X| - σ²/t)² / 2σ²)                                v uniform on (0, 1)

Exactness. u and v are real uniforms of which the first 64 and 63 bits are drawn. Floating point decides only where the
answer is the same for everything that the undrawn bits and the rounding could be (`_GEOMETRIC_MARGIN`,
`_ACCEPT_MARGIN`); elsewhere, about once in a million, more bits are drawn and whole-number intervals around the
exponential decide (`LazyUniform`). No probability is rounded and no tail is cut, so there is no distance in total
variation to add to delta. Assumed: words of the source are uniform, and log and exp of the floating-point library err
by less than 16 units in the last place (they are held to that by a test).

Guarantee: this file adds noise and promises nothing about data; `wardround.accounting.discrete` says what the noise is
worth. Bytes drawn for a `count` are the same for all outcomes, but for those extra bits and once in 2^40 chunks of
samples. Time is not constant to the last cycle; it depends on the noise alone, never on a patient.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.errors import PrivacyError

Int64: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]
RandomBytes: TypeAlias = Callable[[int], bytes]
"""A cryptographic source: that many bytes, uniform and independent, or an exception."""

LARGEST_STD = 1 << 30
"""Beyond it floating point leaves too many proposals undecided to be fast."""

_GUARD_BITS = 32
_CHUNK = 1 << 14  # samples drawn at a time: what a processor's cache holds

_SURE = np.uint64(1 << 44)
"""A u whose first 64 bits are below this is left to whole numbers: its logarithm would be too coarse."""

_GEOMETRIC_MARGIN = 2.0**-42
"""Times t: more than -t ln u can be off. The undrawn bits of a u above `_SURE` move it by 2^-45; |ln u| < 14 there, so
that 16 units in the last place are 2^-45; rounding u and the product moves it by less."""

_ACCEPT_MARGIN = 2.0**-40
"""More than exp(-γ) - v can be off: 16 units in the last place are 2^-49, the error of γ times exp(-γ) is below 2^-50,
and rounding v and the difference moves it by less."""


def discrete_gaussian(count: int, std: Fraction | int, random_bytes: RandomBytes) -> Int64:
    """Independent samples of the discrete Gaussian, (count,).

    Args:
        count: how many.
        std: the parameter σ > 0, a whole number or a fraction. The variance of the samples is at most σ², and all
            but equal to it from σ = 1 on.
        random_bytes: the source. What it raises ends the call; so does an answer of another length.

    Raises:
        PrivacyError: std is not in (0, 2^30], or the source answered with too few bytes. Nothing is returned then.

    >>> from itertools import count as numbers
    >>> import hashlib
    >>> seconds = numbers()
    >>> source = lambda size: hashlib.shake_256(str(next(seconds)).encode()).digest(size)
    >>> discrete_gaussian(5, 8, source).shape
    (5,)
    """
    std = Fraction(std)
    if not 0 < std <= LARGEST_STD:
        raise PrivacyError(f"std must be > 0 and <= 2^30, got {float(std)}. Choose a coarser grid.")
    if count < 0:
        raise PrivacyError(f"count must be >= 0, got {count}. Ask for as many samples as there are coordinates.")
    proposals = _Proposals(std, random_bytes)
    samples = np.empty(count, dtype=np.int64)
    for start in range(0, count, _CHUNK):
        piece = samples[start : start + _CHUNK]
        filled = 0
        while filled < piece.size:
            accepted = proposals.draw(proposals.enough_for(piece.size))[: piece.size - filled]
            piece[filled : filled + accepted.size] = accepted
            filled += accepted.size
    return samples


def read_words(random_bytes: RandomBytes, count: int) -> Words:
    """Words of 64 bits from a source of bytes, (count,).

    Raises:
        PrivacyError: another number of bytes came.
    """
    data = random_bytes(8 * count)
    if len(data) != 8 * count:
        raise PrivacyError(
            f"The source of randomness must give {8 * count} bytes, got {len(data)}. Nothing was noised: "
            "repair it and begin the round again."
        )
    return np.frombuffer(data, dtype="<u8")


class _Proposals:
    """Algorithm 3 on many proposals at a time; `enough_for`, then `draw`."""

    def __init__(self, std: Fraction, random_bytes: RandomBytes, margin: float = 1.0) -> None:
        """`margin` widens both margins; with a large one whole numbers decide everything."""
        self._random_bytes = random_bytes
        self._scale = max(1, round(std))
        self._variance = std * std
        self._centre = float(self._variance / self._scale)
        self._geometric_margin = self._scale * _GEOMETRIC_MARGIN * margin
        self._accept_margin = _ACCEPT_MARGIN * margin

    def enough_for(self, samples: int) -> int:
        """Proposals of which at least `samples` are accepted, but for a chance below 2^-40.

        Accepted is (1 - exp(-1/t)) / 2 · exp(-σ² / 2t²) · Σ exp(-k² / 2σ²), and the sum is at least 1 and σ sqrt(2π).
        """
        std, scale = math.sqrt(self._variance), self._scale
        mass = max(1.0, std * math.sqrt(2 * math.pi))
        accepted = -math.expm1(-1 / scale) / 2 * math.exp(-(std**2) / (2 * scale**2)) * mass
        return math.ceil((samples + 10 * math.sqrt(samples)) / accepted) + 80

    def draw(self, count: int) -> Int64:
        """The accepted ones of `count` proposals, in order."""
        words = read_words(self._random_bytes, 2 * count)
        first, second = words[:count], words[count:]
        negative = (second & np.uint64(1)).astype(np.bool_)

        depth = first.astype(np.float64)
        depth += 0.5
        depth *= 2.0**-64
        np.log(depth, out=depth)
        depth *= -float(self._scale)
        nearest = np.rint(depth)
        unsure = (np.abs(depth - nearest) <= self._geometric_margin) | (first < _SURE)
        size = np.floor(depth, out=nearest)

        chance = np.subtract(size, self._centre, out=depth)
        chance *= chance
        chance *= -0.5 / float(self._variance)
        np.exp(chance, out=chance)
        chance -= (second >> np.uint64(1)).astype(np.float64) * 2.0**-63
        unsure |= np.abs(chance) <= self._accept_margin
        accepted = (chance > 0) & ~(negative & (size == 0))

        samples = size.astype(np.int64)
        for place in np.flatnonzero(unsure):
            samples[place], accepted[place] = self._decide(int(first[place]), int(second[place]))
        np.negative(samples, out=samples, where=negative)
        kept: Int64 = samples[accepted]
        return kept

    def _decide(self, first: int, second: int) -> tuple[int, bool]:
        """|X| and whether it is accepted, in whole numbers, from as many further bits as it takes."""
        scale, variance = self._scale, self._variance
        u = LazyUniform(first, 64, self._more_bits)
        size = max(0, math.floor(-scale * (math.log(first + 0.5) - 64 * math.log(2))))
        while not u.is_below_exp(Fraction(size, scale)):
            size -= 1
        while u.is_below_exp(Fraction(size + 1, scale)):
            size += 1
        if second & 1 and size == 0:
            return size, False
        v = LazyUniform(second >> 1, 63, self._more_bits)
        return size, v.is_below_exp((size - variance / scale) ** 2 / (2 * variance))

    def _more_bits(self) -> int:
        return int(read_words(self._random_bytes, 1)[0])


class LazyUniform:
    """A uniform on (0, 1) of which some leading bits are known; further ones are drawn as they are needed.

    Comparing it with a real number draws further bits until the answer no longer depends on those that follow, so every
    comparison has exactly the probability that the real number is.
    """

    def __init__(self, leading: int, bits: int, more_bits: Callable[[], int]) -> None:
        """`leading` holds `bits` known bits; `more_bits` gives 64 further ones at a time."""
        self._leading, self._bits, self._more_bits = leading, bits, more_bits

    def is_below_exp(self, exponent: Fraction) -> bool:
        """Returns whether the uniform is below exp(-exponent), for an exponent >= 0."""
        if exponent == 0:
            return True
        while True:
            low, high = exp_bounds(exponent, self._bits)
            if self._leading + 1 <= low:
                return True
            if self._leading >= high:
                return False
            self._leading = self._leading << 64 | self._more_bits()
            self._bits += 64


def exp_bounds(exponent: Fraction, bits: int) -> tuple[int, int]:
    """Returns whole numbers around 2^bits · exp(-exponent), for an exponent >= 0.

    The series of exp(exponent) has positive terms only. Rounded down its sum is a lower bound; rounded up, and with
    the last term twice where each is less than half of the one before, an upper bound.

    >>> exp_bounds(Fraction(1), 20)
    (385749, 385750)
    """
    one = 1 << (bits + _GUARD_BITS)
    low_term = high_term = low = high = one
    step = 0
    while high_term > 1 or step < 2 * exponent:
        step += 1
        over = exponent.denominator * step
        low_term = low_term * exponent.numerator // over
        high_term = -(-high_term * exponent.numerator // over)
        low += low_term
        high += high_term
    # Here step >= 2 exponent, so what follows is less than high_term (1/2 + 1/4 + ...).
    high += high_term
    square = one << bits
    return square // high, -(-square // low)
