"""An epsilon as a sentence: who is protected, how much, against whom, by what, under which assumptions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, Context, Decimal
from typing import assert_never

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.events import JsonDict
from wardround.accounting.numbers import number_from_json, number_to_json
from wardround.accounting.terms import Division, NeighboringRelation, PrivacyUnit
from wardround.errors import PrivacyError
from wardround.noisers import Noiser, NoiseShares, Trust, colluders_of, dropouts_of, noiser_of, trust_of

SEEDED_STAMP = "reproducible, not private"
FLOATING_POINT_CAVEAT = (
    "The noise is continuous noise in floating-point arithmetic; the guarantee is proved for real numbers."
)

_TRUST = {
    Trust.COORDINATOR: "The coordinator adds the noise and sees every hospital's sum before it; it is trusted.",
    Trust.SECURE_AGGREGATION: "Each hospital adds a share of the noise, and only the noised sum is revealed.",
    Trust.NOBODY: "Each hospital adds all of the noise itself; nobody else is trusted.",
}
_BOUNDS = ("clipping_norm", "truncation", "row_norm", "sensitivity")
_METHODS = {
    AccountantKind.PLD: "privacy loss distributions",
    AccountantKind.RDP: "Rényi differential privacy",
}


@dataclass(frozen=True, slots=True)
class Statement:
    """One guarantee, or the plain statement that there is none.

    Attributes:
        sampler: how patients were drawn, such as "Poisson sampling with probability 0.05".
        bound: that the noise is measured against; in JSON it goes by its `bound_name`.
        releases: noised results that epsilon covers, all together.
        released_what: such as "the noised sum of clipped gradients of every round".
        released_to: the parties that see it, such as "every participating hospital and every recipient of the model".
        noiser: adds the noise, among how many hospitals.
        guarantee: False for schemes that are known to give none; `reason` then says why, and epsilon is
            infinite.
        clipping: how gradients are brought to the clipping norm, such as "each layer apart"; empty when flat.
        division: how patients came to their places; one that couples patients is part of every sentence.
        bound_name: `clipping_norm`, the L2 norm of a gradient or an update; `truncation`, the size of a coordinate;
            `row_norm`, of a picture's features; or `sensitivity`, of what is released.
    """

    epsilon: float
    delta: float
    sampler: str
    mechanism: str
    noise_multiplier: float
    bound: float
    releases: int
    released_what: str
    released_to: str
    noiser: Noiser
    images_per_patient: int | None = None
    unit: PrivacyUnit = PrivacyUnit.PATIENT
    relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant: AccountantKind = AccountantKind.PLD
    simulated: bool = False
    seeded: bool = False
    guarantee: bool = True
    reason: str = ""
    caveats: tuple[str, ...] = ()
    clipping: str = ""
    division: Division = Division.BY_OWN_ID
    bound_name: str = "clipping_norm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "caveats", tuple(self.caveats))
        if not self.epsilon >= 0:
            raise PrivacyError(f"epsilon must be >= 0, got {self.epsilon}. Take it from an accountant.")
        if not self.guarantee and self.epsilon < math.inf:
            raise PrivacyError(
                f"A statement without a guarantee must have epsilon = infinity, got {self.epsilon}. "
                "A finite number would be read as a promise."
            )

    @property
    def trust(self) -> Trust:
        """The trust model that the noiser stands for."""
        return trust_of(self.noiser)

    def short(self) -> str:
        """One line that cannot be quoted without its delta and unit.

        >>> from wardround.noisers import ByEachHospital
        >>> short_of = Statement(3.9987, 1e-5, "", "", 1.1, 1.0, 200, "", "", ByEachHospital(5))
        >>> short_of.short()
        'epsilon = 4.00 at delta = 1e-05 for one patient (add-or-remove-one, pld)'
        """
        stamp = f" [{SEEDED_STAMP}]" if self.seeded else ""
        if not self._holds:
            return f"no privacy guarantee: epsilon = infinity for one {self.unit}{stamp}"
        whom = f"{self.unit}{self.division.condition}"
        return f"{self._promise} for one {whom} ({self.relation}, {self.accountant}){stamp}"

    def sentence(self) -> str:
        """The whole statement, as a paragraph."""
        parts = [self._guarantee_sentence(), self._mechanism_sentence(), self._trust_sentence()]
        if self.images_per_patient is not None and self.unit is PrivacyUnit.PATIENT:
            parts.append(f"Each patient contributes at most {_count(self.images_per_patient, 'image')}.")
        if self.simulated:
            parts.append("The hospitals were simulated on one machine, which saw all the data.")
        parts.extend(self.caveats)
        if self.seeded:
            parts.append(f"The random numbers came from a seed: this run is {SEEDED_STAMP}.")
        return " ".join(part for part in parts if part)

    def to_json(self) -> JsonDict:
        """The statement as a JSON object; an infinite epsilon is the string 'infinity'."""
        data: JsonDict = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("noiser", "bound", "bound_name")
        }
        return data | {
            "epsilon": number_to_json(self.epsilon),
            self.bound_name: number_to_json(self.bound),
            "trust": self.trust.value,
            "hospitals": self.noiser.hospitals,
            "colluders": colluders_of(self.noiser),
            "dropouts": dropouts_of(self.noiser),
            "unit": self.unit.value,
            "relation": self.relation.value,
            "division": self.division.value,
            "accountant": self.accountant.value,
            "caveats": list(self.caveats),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "Statement":
        """The statement that `to_json` wrote.

        Raises:
            PrivacyError: a field is missing, unknown or out of its range.
        """
        try:
            rest = dict(data)
            trust, *numbers = (rest.pop(key) for key in ("trust", "hospitals", "colluders", "dropouts"))
            [name] = [key for key in _BOUNDS if key in rest]
            bound = number_from_json(rest.pop(name))
            return cls(
                **{  # type: ignore[arg-type]  # a missing or unknown key is a TypeError, caught below
                    **rest,
                    "epsilon": number_from_json(data["epsilon"]),
                    "bound": bound,
                    "bound_name": name,
                    "noiser": noiser_of(Trust(str(trust)), *map(_whole, numbers)),
                    "unit": PrivacyUnit(str(data["unit"])),
                    "relation": NeighboringRelation(str(data["relation"])),
                    "division": Division(str(data["division"])),
                    "accountant": AccountantKind(str(data["accountant"])),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PrivacyError(
                f"A statement must have exactly the fields of this version, got one that does not: {error}. "
                "Read it with the version of Wardround that wrote it."
            ) from error

    @property
    def _holds(self) -> bool:
        return self.guarantee and self.epsilon < math.inf

    @property
    def _promise(self) -> str:
        return f"epsilon = {format_epsilon(self.epsilon)} at delta = {self.delta:g}"

    def _guarantee_sentence(self) -> str:
        if not self._holds:
            because = f" The reason: {self.reason.rstrip('.')}." if self.reason else ""
            return f"There is no privacy guarantee: epsilon = infinity for one {self.unit}.{because}"
        change = "Replacing" if self.relation is NeighboringRelation.REPLACE_ONE else "Adding or removing"
        return (
            f"{change} {whole_of(self.unit).rstrip(',')}{self.division.condition}, changes the chance of any result by "
            f"a factor of at most exp(epsilon), up to delta: {self._promise} ({self.relation}), computed with "
            f"{_METHODS[self.accountant]} over {_count(self.releases, 'release')}."
        )

    def _mechanism_sentence(self) -> str:
        released = f"What was released is {self.released_what}, to {self.released_to}"
        if not self._holds:
            return f"{released}."
        return (
            f"{released}, protected by the {self.mechanism} mechanism with noise_multiplier "
            f"{self.noise_multiplier:.4g} and {self.bound_name} {self.bound:.4g}"
            f"{f' ({self.clipping})' if self.clipping else ''}, on {self.sampler}."
        )

    def _trust_sentence(self) -> str:
        if not self._holds:
            return ""
        assumed = f" This holds among {_count(self.noiser.hospitals, 'hospital')}"
        if isinstance(self.noiser, NoiseShares):
            assumed += (
                f", against at most {_count(self.noiser.colluders, 'colluding hospital')}, "
                f"with at most {_count(self.noiser.dropouts, 'dropout')} in a round"
            )
        return f"{_TRUST[self.trust]}{assumed}."


def whole_of(unit: PrivacyUnit) -> str:
    """Returns one unit in words, with everything of it that is added or removed together.

    >>> whole_of(PrivacyUnit.PATIENT), whole_of(PrivacyUnit.PICTURE)
    ('one patient, with all their images,', 'one picture, by itself,')
    """
    match unit:
        case PrivacyUnit.PATIENT:
            return "one patient, with all their images,"
        case PrivacyUnit.PICTURE:
            return "one picture, by itself,"
        case PrivacyUnit.HOSPITAL:
            return "one hospital, with all it contributes,"
        case _:
            assert_never(unit)


def format_epsilon(epsilon: float) -> str:
    """Three digits, rounded up, so that a printed epsilon never promises more than was computed.

    >>> format_epsilon(9.0205), format_epsilon(0.45901), format_epsilon(206.56), format_epsilon(math.inf)
    ('9.03', '0.460', '207', 'infinity')
    """
    if epsilon == math.inf:
        return "infinity"
    rounded = Context(prec=3, rounding=ROUND_CEILING).create_decimal_from_float(epsilon)
    if rounded and rounded.adjusted() < 2:
        rounded = rounded.quantize(Decimal(1).scaleb(rounded.adjusted() - 2))
    return f"{rounded:f}"


def _whole(number: object) -> int:
    if type(number) is not int:
        raise TypeError(f"a number of hospitals is no whole number: {number!r}")
    return number


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
