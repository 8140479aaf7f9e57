"""The ledger that a run was charged to, and what all runs on its patients have cost together, in a sentence."""

from dataclasses import dataclass
from pathlib import PurePath

from wardround.records.json_object import JsonObject
from wardround.report.guarantee import Guarantee


@dataclass(frozen=True)
class Account:
    """The accounts of a run's patients, as the person who simulates knows them.

    It depends on the account of the patient who spent most, and is in the report only.

    Attributes:
        standing: "lasting", "rehearsal", "generated", "hospitals" where each has its own, or "".
        one: "patient", or "picture" where pictures name nobody.
        ledger: path of the lasting ledger; empty where there is none, or the record came without it.
        runs: runs on these patients, this one included.
        together: the greatest epsilon of any of them, over all studies; None where it is not known.
        limit: that of the ledger; None for none.
    """

    standing: str
    one: str
    ledger: str = ""
    runs: int = 0
    together: Guarantee | None = None
    limit: Guarantee | None = None

    @property
    def is_rehearsal(self) -> bool:
        """True if the run was charged to nobody's account, though its patients may be real."""
        return self.standing == "rehearsal"

    def sentence(self, *, full_path: bool = False) -> str:
        """Returns what the run was charged to, and the total; the page leaves the folders of the ledger out."""
        if self.is_rehearsal:
            return (
                "Rehearsal: this run was charged to a ledger of its own, which goes with it. It is in no account, and "
                f"what these {self.one}s have spent in other studies is not counted."
            )
        if self.standing == "hospitals":
            return (
                "Each hospital keeps its own ledger; what all studies have cost its patients is on its own screen."
            )
        if self.standing == "generated":
            return f"The {self.one}s are generated: they are nobody, and no account was charged."
        if self.together is None:
            return "This record came without its ledger.json: what other studies have cost is not known here."
        path = self.ledger if full_path else "/".join(("…", *PurePath(self.ledger).parts[-2:]))
        others = self.runs - 1
        so_far = (
            f"Together with {others} other run{'' if others == 1 else 's'} on these {self.one}s"
            if others > 0
            else f"No other run on these {self.one}s is in the ledger"
        )
        limit = "has no limit" if self.limit is None else f"has the limit {_of(self.limit)}"
        return (
            f"{so_far}: the {self.one} who spent most has spent {_of(self.together)}. Ledger {path} counts all studies "
            f"and {limit}."
        )

    def to_json(self) -> dict[str, object]:
        """Returns the account as a JSON object."""
        return {
            "standing": self.standing,
            "ledger": self.ledger or None,
            "runs": self.runs,
            "together": None if self.together is None else self.together.to_json(),
            "limit": None if self.limit is None else self.limit.epsilon,
        }


def account_of(certificate: JsonObject, own: JsonObject, one: str) -> Account:
    """Returns the account of a finished run, from its certificate and its own notes; `own` may be empty.

    Raises:
        RecordError: one of them has another shape than this version writes.
    """
    standing = certificate.text("standing", "")
    total = own.maybe_section("total")
    if total is None or own.values.get("ledger") is None:
        return Account(standing, one)
    limit = total.maybe_section("limit")
    return Account(
        standing,
        one,
        own.text("ledger"),
        total.integer("runs"),
        Guarantee(total.number("greatest_epsilon"), total.number("delta"), one),
        None if limit is None else Guarantee(limit.number("epsilon"), limit.number("delta"), one),
    )


def _of(guarantee: Guarantee) -> str:
    return f"epsilon = {guarantee.value}" + (f" at delta = {guarantee.delta:g}" if guarantee.holds else "")
