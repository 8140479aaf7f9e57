"""A uniform real number whose bits are drawn as they are needed, held against an exponential in whole numbers."""

from collections.abc import Callable
from fractions import Fraction

_GUARD_BITS = 32


class LazyUniform:
    """A uniform on (0, 1) of which some leading bits are known.

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
