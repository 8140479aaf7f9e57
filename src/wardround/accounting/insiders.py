"""Against whom a promise holds: epsilon by who colludes, and by how many shares of the noise are missing.

With secure aggregation each hospital adds a share of variance (z C)² / (K - colluders - dropouts). Colluding
hospitals know their own shares and can take them off; missing ones never added theirs. What protects a
patient of an honest hospital is the noise of the honest hospitals present, and with the numbers foreseen it
is all of z.

Sources:
    Truex et al. 2019, https://arxiv.org/abs/1812.03224 (less noise each, sized for the honest parties).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.discrete import Part, epsilon_of_parts
from wardround.accounting.events import Event, JsonDict
from wardround.accounting.mechanisms import check_noise_multiplier
from wardround.accounting.numbers import number_to_json
from wardround.accounting.terms import Trust
from wardround.errors import PrivacyError


@dataclass(frozen=True, slots=True)
class NoiseShares:
    """How the noise of one sum is shared out: for `hospitals`, of which some may collude and some drop out.

    Raises:
        PrivacyError: no honest hospital would be left.
    """

    hospitals: int
    colluders: int = 1
    dropouts: int = 0

    def __post_init__(self) -> None:
        if self.hospitals < 1:
            raise PrivacyError(f"hospitals must be >= 1, got {self.hospitals}. Count those of a round.")
        if self.colluders < 0 or self.dropouts < 0:
            raise PrivacyError(
                f"colluders and dropouts must be >= 0, got {self.colluders} and {self.dropouts}. "
                "Use 0 to foresee none."
            )
        if self.honest < 1:
            raise PrivacyError(
                f"colluders + dropouts must be < hospitals, got {self.colluders} + {self.dropouts} of "
                f"{self.hospitals}. Someone honest has to be left to add noise: lower them, or invite more "
                f"hospitals."
            )

    @property
    def honest(self) -> int:
        """Shares that are surely there and unknown to the adversary."""
        return self.hospitals - self.colluders - self.dropouts

    @property
    def inflation(self) -> float:
        """Std of the noise in the sum, when nobody colludes or drops out, over the std that was promised."""
        return math.sqrt(self.hospitals / self.honest)

    def share(self, noise_multiplier: float) -> float:
        """Noise multiplier of what one hospital adds.

        >>> round(NoiseShares(hospitals=10, colluders=1).share(1.15), 4)
        0.3833
        """
        return noise_multiplier / math.sqrt(self.honest)

    def left(self, noise_multiplier: float, colluding: int, missing: int) -> float:
        """Noise multiplier against who knows `colluding` shares when `missing` were never added."""
        unknown = max(0, self.hospitals - colluding - missing)
        return noise_multiplier * math.sqrt(unknown / self.honest)


@dataclass(frozen=True, slots=True)
class InsiderRow:
    """What one adversary could learn of one patient of an honest hospital."""

    adversary: str
    colluders: int
    missing: int
    noise_multiplier: float
    epsilon: float

    def to_json(self) -> JsonDict:
        """The row as a JSON object; an infinite epsilon is the string 'infinity'."""
        return {
            "adversary": self.adversary,
            "colluders": self.colluders,
            "missing": self.missing,
            "noise_multiplier": self.noise_multiplier,
            "epsilon": number_to_json(self.epsilon),
        }


def epsilon_by_colluders(
    make_event: Callable[[float], Event],
    noise_multiplier: float,
    *,
    delta: float,
    hospitals: int,
    colluders: int = 1,
    dropouts: int = 0,
    trust: Trust,
    accountant: AccountantKind = AccountantKind.PLD,
    parts: Sequence[Part] = (),
) -> tuple[InsiderRow, ...]:
    """The table of who is protected against whom, from the weakest adversary to the strongest.

    Args:
        make_event: what the whole study releases at a noise multiplier.
        noise_multiplier: the promised one, z.
        delta: the target delta.
        hospitals: those in a round, K.
        colluders: hospitals assumed to collude when the shares were sized.
        dropouts: missing shares assumed when they were sized.
        trust: who adds the noise.
        accountant: what computes epsilon.
        parts: all that is released, in place of `make_event`, where noise is whole numbers; with secure aggregation
            only. Each adversary is then left with fewer shares of every part, and their slack is added. A row's
            noise multiplier is that of the first part.

    Edge cases:
        No noise unknown to the adversary: epsilon is infinite. Trust in nobody: every hospital adds all the
        noise, its own reply is visible, and so epsilon is that of its own noise whoever else colludes.
    """
    check_noise_multiplier(noise_multiplier)
    foreseen = NoiseShares(hospitals, colluders, dropouts)

    def row(adversary: str, colluding: int, missing: int, left: float) -> InsiderRow:
        epsilon = epsilon_of(make_event(left), delta, accountant) if left > 0 else math.inf
        return InsiderRow(adversary, colluding, missing, left, epsilon)

    def discrete_row(adversary: str, colluding: int, missing: int) -> InsiderRow:
        unknown = hospitals - colluding - missing
        if unknown < 1:
            return InsiderRow(adversary, colluding, missing, 0.0, math.inf)
        left = [(replace(noise, shares=unknown), made) for noise, made in parts]
        epsilon = epsilon_of_parts(left, delta, accountant)
        return InsiderRow(adversary, colluding, missing, left[0][0].noise_multiplier, epsilon)

    match Trust(trust):
        case Trust.COORDINATOR:
            return (
                row("whoever sees the models, other hospitals included", hospitals - 1, 0, noise_multiplier),
                row("the coordinator", 0, 0, 0.0),
            )
        case Trust.NOBODY:
            everyone = "everyone else, all other hospitals and the coordinator together"
            return (row(everyone, hospitals - 1, 0, noise_multiplier),)
        case Trust.SECURE_AGGREGATION:
            cases = [(_name(*case), *case) for case in _cases(foreseen)]
            if parts:
                return tuple(discrete_row(*case) for case in cases)
            return tuple(row(*case, foreseen.left(noise_multiplier, *case[1:])) for case in cases)


def _cases(shares: NoiseShares) -> Iterator[tuple[int, int]]:
    """Up to two colluders more than foreseen, and all other hospitals; no share missing, and all that may."""
    counts = {*range(min(shares.hospitals - 1, shares.colluders + 2) + 1), shares.hospitals - 1}
    for missing in sorted({0, shares.dropouts}):
        yield from ((colluding, missing) for colluding in sorted(counts))


def _name(colluding: int, missing: int) -> str:
    others = {0: "", 1: " with 1 hospital"}.get(colluding, f" with {colluding} hospitals")
    absent = {0: "", 1: ", 1 share missing"}.get(missing, f", {missing} shares missing")
    return f"the coordinator{others}{absent}" if colluding else f"the coordinator, or whoever sees models{absent}"
