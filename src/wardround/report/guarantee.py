"""An epsilon that cannot be printed alone, and its meaning for an attacker."""

import math
from dataclasses import dataclass

from wardround.accounting.numbers import number_to_json
from wardround.accounting.statement import format_epsilon
from wardround.accounting.terms import Division

SAYS_LITTLE_ABOVE = 4.0
"""From here the ceiling of a guess is above 98 %."""
SAYS_NOTHING_ABOVE = 10.0
"""From here the ceiling of a guess is above 99.99 %."""


@dataclass(frozen=True)
class Guarantee:
    """An epsilon with its delta and its unit.

    Attributes:
        epsilon: infinite when nothing is promised.
        delta: means nothing when epsilon is infinite.
        unit: one protected person, such as "patient".
        division: how patients came to their places; one that couples them is part of the condition.
    """

    epsilon: float
    delta: float
    unit: str
    division: Division = Division.BY_OWN_ID

    @property
    def holds(self) -> bool:
        """True if anything is promised."""
        return self.epsilon < math.inf

    @property
    def value(self) -> str:
        """Epsilon, for a place where `condition` stands beside it.

        >>> Guarantee(7.9959, 1e-5, "patient").value
        '8.00'
        """
        return format_epsilon(self.epsilon)

    @property
    def condition(self) -> str:
        """Delta and unit, which must stand beside the number.

        >>> Guarantee(7.9959, 1e-5, "patient").condition
        'at δ = 1e-05, for one patient'
        """
        return f"{self.at}, for one {self.whom}"

    @property
    def at(self) -> str:
        """Delta, where the unit stands beside it.

        >>> Guarantee(7.9959, 1e-5, "patient").at
        'at δ = 1e-05'
        """
        return f"at δ = {self.delta:g}" if self.holds else "at any δ"

    @property
    def whom(self) -> str:
        """The unit, and the condition that the division of the patients puts on the guarantee.

        >>> Guarantee(7.9959, 1e-5, "patient", Division.FIXED).whom
        'patient, for this fixed division of the patients'
        """
        return f"{self.unit}{self.division.condition if self.holds else ''}"

    @property
    def one_in(self) -> str:
        """Delta as a chance.

        >>> Guarantee(8.0, 1e-5, "patient").one_in
        '1 in 100,000'
        """
        return f"1 in {math.floor(1 / self.delta + 1e-9):,}" if self.delta > 0 else "zero"

    @property
    def text(self) -> str:
        """The number and its condition."""
        return f"ε = {self.value} {self.condition}"

    def to_json(self) -> dict[str, object]:
        """Returns epsilon (infinity in words), delta (null where nothing is promised: none would help) and unit."""
        delta = self.delta if self.holds else None
        return {"epsilon": number_to_json(self.epsilon), "delta": delta, "unit": self.unit}

    @property
    def guess_ceiling(self) -> str | None:
        """Highest share of right guesses whether one `unit` took part, or which of two did; None above epsilon 10.

        Before, a coin toss decides; the attacker knows everybody else's data and sees everything released.
        The two error rates of any test satisfy a + exp(epsilon) b >= 1 - delta both ways round (Kairouz, Oh and
        Viswanath 2015, https://arxiv.org/abs/1311.0776, Theorem 2.1), so the mean of its two success rates is
        at most (exp(epsilon) + delta) / (exp(epsilon) + 1). Rounded up.

        >>> Guarantee(1.0, 1e-5, "patient").guess_ceiling, Guarantee(8.0, 1e-5, "patient").guess_ceiling
        ('73.2 %', '99.97 %')
        """
        if self.epsilon > SAYS_NOTHING_ABOVE:
            return None
        rest = math.exp(-self.epsilon)
        return percent_up((1 + self.delta * rest) / (1 + rest))

    @property
    def says_little(self) -> bool:
        """True if the ceiling is so near certainty that it says little by itself."""
        return self.epsilon > SAYS_LITTLE_ABOVE


def percent_up(share: float) -> str:
    """Returns a share as a percentage, rounded up, with more digits near certainty.

    >>> percent_up(0.5), percent_up(0.99966), percent_up(0.999955)
    ('50.0 %', '99.97 %', '99.996 %')
    """
    digits = 1 if share < 0.995 else 2 if share < 0.9999 else 3
    scale = 10**digits
    return f"{math.ceil(share * 100 * scale - 1e-9) / scale:.{digits}f} %"
