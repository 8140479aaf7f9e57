"""Cost of several runs to one patient of theirs: guarantees add up, and choosing among runs is use.

Everything that was released under a guarantee is composed, each event as often as it happened in the hospital that
was asked most often. Repeats deal patients to other hospitals, so a patient may have been in that hospital in every
run: composing all of it holds for everybody.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import ComposedEvent, Event, from_json
from wardround.accounting.statement import Statement
from wardround.accounting.terms import Division
from wardround.records.folder import JsonDict, RunRecord
from wardround.records.json_object import JsonObject
from wardround.report.guarantee import Guarantee

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Together:
    """All runs on the same patients with guarantees of one kind.

    Attributes:
        without: runs on the same patients that give no guarantee; they are in no number.
        references: reference runs on the same patients, likewise.
        untold: private runs whose records came without `ledger.json`: they may be on the patients of other entries.
        is_sum: epsilons and deltas were simply added, as some event does not tell all.
    """

    runs: int
    without: int
    references: int
    untold: int
    guarantee: Guarantee
    relation: str
    is_sum: bool
    seeded: bool

    def sentence(self) -> str:
        """Returns the composed guarantee, and what it leaves out."""
        said = f"All {self.runs} private runs together" if self.runs > 1 else "The one private run"
        how = ", by adding epsilons and deltas" if self.is_sum else ""
        text = (
            f"{said}: epsilon = {self.guarantee.value} at delta = {self.guarantee.delta:g} for one "
            f"{self.guarantee.whom} ({self.relation}{how}), against those whom each run's own promise covers."
        )
        left = [
            f"{count} {what}{'' if count == 1 else 's'}"
            for count, what in ((self.without, "unprotected run"), (self.references, "unprotected reference run"))
            if count
        ]
        if left:
            text += f" Not in it: {' and '.join(left)} on the same patients; with them there is no limit."
        if self.untold:
            known = "Its" if self.runs == 1 else f"Of {self.untold} of them the"
            text += (
                f" {known} patients are not known, as ledger.json, which has the data set, is missing; if another run "
                "is on the same, these add up."
            )
        if self.seeded:
            text += " Seeded runs are reproducible, not private."
        return text

    def to_json(self) -> JsonDict:
        """Returns the entry as a JSON object."""
        return {
            "runs": self.runs,
            "runs_without_privacy": self.without,
            "reference_runs": self.references,
            "runs_of_unknown_patients": self.untold,
            **self.guarantee.to_json(),
            "relation": self.relation,
            "by": "sum" if self.is_sum else "composition of all events",
            "seeded": self.seeded,
            "sentence": self.sentence(),
        }


@dataclass(frozen=True)
class _Run:
    statement: Statement
    event: Event | None
    references: int
    is_told: bool

    @property
    def is_private(self) -> bool:
        return self.statement.epsilon < math.inf

    @property
    def is_told_by_its_event(self) -> bool:
        """True if the event alone gives at least the epsilon that was stated."""
        stated = self.statement
        if self.event is None:
            return stated.epsilon == 0
        alone = epsilon_of(self.event, stated.delta, stated.accountant)
        return alone >= stated.epsilon * (1 - _ROUNDING)


def together_of(records: Sequence[RunRecord]) -> tuple[Together, ...]:
    """Returns one entry for all runs on the same patients whose guarantees are of one unit and relation.

    Guarantee:
        An epsilon here holds for the models of all private runs, whichever was chosen after seeing which, at the
        smallest delta that one of them states. Runs are on the same patients if their pictures are the same or
        come from the same folder; data sets that overlap otherwise are not recognised. A record without `ledger.json`
        has no digest of its pictures, which is no mark in common: its folder alone puts it with others.
    """
    found = []
    for people in _by_people(records):
        runs = [_read(record) for record in people]
        private = [run for run in runs if run.is_private]
        references = sum(run.references for run in runs)
        for unit, relation in dict.fromkeys((run.statement.unit, run.statement.relation) for run in private):
            alike = [r for r in private if (r.statement.unit, r.statement.relation) == (unit, relation)]
            guarantee, is_sum = _composed(alike, unit.value)
            seeded = any(run.statement.seeded for run in alike)
            without = len(runs) - len(private)
            untold = sum(not run.is_told for run in alike)
            found.append(
                Together(len(alike), without, references, untold, guarantee, relation.value, is_sum, seeded)
            )
    return tuple(found)


def _composed(runs: Sequence[_Run], unit: str) -> tuple[Guarantee, bool]:
    """Returns everything composed; where an event does not tell all, the sum, which holds for any mechanism."""
    statements = [run.statement for run in runs]
    divisions = {one.division for one in statements}
    division = Division.FIXED if Division.FIXED in divisions else Division.BY_OWN_ID
    if all(run.is_told_by_its_event for run in runs):
        delta = min(one.delta for one in statements)
        event = ComposedEvent(tuple(run.event for run in runs if run.event is not None))
        return Guarantee(epsilon_of(event, delta, AccountantKind.PLD), delta, unit, division), False
    total = math.fsum(one.epsilon for one in statements)
    return Guarantee(total, math.fsum(one.delta for one in statements), unit, division), True


def _by_people(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Returns runs by their patients: with a digest of the pictures or a data folder in common, however indirectly."""
    groups: list[tuple[set[str], list[RunRecord]]] = []
    for record in records:
        marks, members = _marks(record), [record]
        for other in [group for group in groups if group[0] & marks]:
            groups.remove(other)
            marks, members = marks | other[0], [*other[1], *members]
        groups.append((marks, members))
    return [members for _, members in groups]


def _marks(record: RunRecord) -> set[str]:
    tables, own = JsonObject(record.tables(), "study.toml"), record.own
    marks = {f"digest {own['dataset']}"} if "dataset" in own else set()
    paths = [tables.section(name).values.get("path") for name in ("site", "data")]
    return marks | {f"path {path}" for path in paths if path is not None}


def _read(record: RunRecord) -> _Run:
    certificate = JsonObject(record.certificate, "certificate.json")
    event = certificate.maybe_section("event")
    references = JsonObject(record.results, "results.json").named_objects("references")
    return _Run(
        Statement.from_json(certificate.section("statement").values),
        None if event is None else from_json(event.values),
        len(references),
        "dataset" in record.own,
    )
