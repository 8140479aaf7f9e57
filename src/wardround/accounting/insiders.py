"""Epsilon against each attacker: by the hospitals that collude, and by the shares of the noise that are missing.

Under secure aggregation (`wardround.noisers.NoiseShares`) a patient of an honest hospital is protected by the noise of
the honest hospitals present. With the colluders and dropouts that the shares were sized for, that noise is all of z.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import assert_never

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.discrete import Part, epsilon_of_parts
from wardround.accounting.events import Event, JsonDict
from wardround.accounting.mechanisms import check_noise_multiplier
from wardround.accounting.numbers import number_to_json
from wardround.noisers import ByCoordinator, ByEachHospital, Noiser, NoiseShares


@dataclass(frozen=True, slots=True)
class InsiderRow:
    """One line of the table: an attacker, and epsilon of one patient of an honest hospital against it."""

    adversary: str
    colluders: int
    missing: int
    noise_multiplier: float
    epsilon: float

    def to_json(self) -> JsonDict:
        """Returns the row as a JSON object; an infinite epsilon is the string 'infinity'."""
        return asdict(self) | {"epsilon": number_to_json(self.epsilon)}


def epsilon_by_colluders(
    make_event: Callable[[float], Event],
    noise_multiplier: float,
    noiser: Noiser,
    *,
    delta: float,
    accountant: AccountantKind = AccountantKind.PLD,
    parts: Sequence[Part] = (),
) -> tuple[InsiderRow, ...]:
    """Returns epsilon against each attacker, from the weakest to the strongest.

    `make_event` is the release of the whole study at a noise multiplier, and `noise_multiplier` the promised one, z.
    The noiser's shares carry the colluders and dropouts that they were sized for. Where noise is whole numbers, with
    secure aggregation only, `parts` are all that is released, in place of `make_event`: each attacker is then left with
    fewer shares of every part, and their slack is added. A row's noise multiplier is that of the first part.

    Edge cases:
        No noise unknown to the attacker: epsilon is infinite. `ByEachHospital`: every hospital adds all the noise and
        its own reply is visible, so epsilon is that of its own noise, for any number of colluders.
    """
    check_noise_multiplier(noise_multiplier)

    def row(adversary: str, colluding: int, missing: int, left: float) -> InsiderRow:
        epsilon = epsilon_of(make_event(left), delta, accountant) if left > 0 else math.inf
        return InsiderRow(adversary, colluding, missing, left, epsilon)

    def discrete_row(adversary: str, colluding: int, missing: int) -> InsiderRow:
        unknown = noiser.hospitals - colluding - missing
        if unknown < 1:
            return InsiderRow(adversary, colluding, missing, 0.0, math.inf)
        left = [(replace(noise, shares=unknown), made) for noise, made in parts]
        epsilon = epsilon_of_parts(left, delta, accountant)
        return InsiderRow(adversary, colluding, missing, left[0][0].noise_multiplier, epsilon)

    match noiser:
        case ByCoordinator():
            return (
                row("a reader of the models, other hospitals included", noiser.hospitals - 1, 0, noise_multiplier),
                row("the coordinator", 0, 0, 0.0),
            )
        case ByEachHospital():
            everyone = "everyone else, all other hospitals and the coordinator together"
            return (row(everyone, noiser.hospitals - 1, 0, noise_multiplier),)
        case NoiseShares():
            cases = [(_name(*case), *case) for case in _cases(noiser)]
            if parts:
                return tuple(discrete_row(*case) for case in cases)
            return tuple(row(*case, noiser.left(noise_multiplier, *case[1:])) for case in cases)
        case _:
            assert_never(noiser)


def _cases(shares: NoiseShares) -> Iterator[tuple[int, int]]:
    """Yields up to two colluders more than foreseen, and all others; with no share missing, and all that may."""
    counts = {*range(min(shares.hospitals - 1, shares.colluders + 2) + 1), shares.hospitals - 1}
    for missing in sorted({0, shares.dropouts}):
        yield from ((colluding, missing) for colluding in sorted(counts))


def _name(colluding: int, missing: int) -> str:
    others = {0: "", 1: " with 1 hospital"}.get(colluding, f" with {colluding} hospitals")
    absent = {0: "", 1: ", 1 share missing"}.get(missing, f", {missing} shares missing")
    return f"the coordinator{others}{absent}" if colluding else f"the coordinator, or a reader of models{absent}"
