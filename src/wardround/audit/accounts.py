"""The accounts of a finished run, walked: what each one was charged, against what the recorded rounds owe it.

A hospital owes the patients of its account one release for each recorded round that it answered, and the count before
round 1. The rounds that it answered follow from public facts: the timetable, simulated absences, and hospitals that the
record names as missing. A run whose cap ends earlier owes no more than its cap. More may be charged, as for a round
that was interrupted, and never less. The test is exact: both sides are computed by the account's own accountant, and
the debt by the second one as well.

Released: nothing. A ledger is read on its holder's own machine.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import LeafEvent, event_of_leaves, leaves, sorted_leaves
from wardround.agreed.plans import epsilon_limit_of, plan_of
from wardround.agreed.strategies import releases_of_visits, timetable_of
from wardround.audit.findings import Recount
from wardround.config import Study
from wardround.federation.timetable import Timetable
from wardround.hospital.charged import foreseen
from wardround.ledger.book import Part
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.plan import Plan
from wardround.records.folder import RunRecord
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_json
from wardround.records.signer import RECEIPTS
from wardround.simulation.availability import Availability, availability_of
from wardround.simulation.verification import ledger_of, parts_of


def accounts_of(
    path: Path, study: Study, record: RunRecord, ledger: Path | None = None
) -> tuple[list[Recount], list[str]]:
    """Returns a recount of every account of a run, and a sentence for each account that lacks persons.

    Accounts are those of the ledger that is given, or that the run's folder names; of a run between hospitals their
    receipts. Both are empty where neither is there, or where the ledger has no part of the run. Each part that cost
    anything owes the whole debt: what one lacks, no other makes up for. Where the folder names no run, the part of each
    hospital that was charged most counts.

    Raises:
        LedgerError: the ledger was edited, or cannot be read.
        RecordError: a file of the run cannot be read.
    """
    plan, results = plan_of(study), JsonObject(record.results, "results.json")
    if (path / RECEIPTS).exists():
        signed = JsonObject({"receipts": read_json(path / RECEIPTS)}, RECEIPTS).named_objects("receipts")
        owed = _owed(study, plan, record, tuple(study.hospitals.names or ()))
        return [
            _recount(f"receipt of {name}", plan, _signed(plan, row), owed.get(name, Counter()))
            for name, row in signed.items()
        ], []
    place = ledger or ledger_of(path)
    if place is None or not place.exists():
        return [], []
    persons = {row.text("name"): row.integer("patients") for row in results.objects("hospitals")}
    with LedgerFile(place, copied=True) as opened:
        parts, book = parts_of(path, study, opened), opened.book()
    if not parts:
        return [], []
    several = len({part.begun.run for part in parts}) > 1
    walked, lacking = list[Recount](), list[str]()
    for name, debt in _owed(study, plan, record, tuple(persons)).items():
        of_name = [part for part in parts if part.begun.hospital == name]
        own = [(part.counts, _persons(part, book.sizes)) for part in of_name if not part.is_free]
        own = own or [(Counter(), max((_persons(part, book.sizes) for part in of_name), default=0))]
        found = [(_recount(f"account of {name}", plan, counts, debt), covered) for counts, covered in own]
        for recount, covered in [max(found, key=lambda one: one[0].claimed)] if several else found:
            walked.append(recount)
            # With a limit, patients who could not afford the study were left out of it.
            if book.limit is None and covered < persons[name]:
                lacking.append(
                    f"accounting, account of {name}: {covered} patients were charged, and {persons[name]} were in the "
                    "run"
                )
    return walked, lacking


def _signed(plan: Plan, receipt: JsonObject) -> Counter[LeafEvent]:
    event = plan.event_after(receipt.integer("releases"), max(1, receipt.integer("counts")))
    return Counter(dict(leaves(event)))


def _persons(part: Part, sizes: list[int]) -> int:
    return sum(sizes[group] for group in part.groups)


def _recount(source: str, plan: Plan, charged: Counter[LeafEvent], owed: Counter[LeafEvent]) -> Recount:
    claimed = epsilon_of(event_of_leaves(sorted_leaves(charged)), plan.delta, plan.accountant)
    return Recount.of(
        source, claimed, event_of_leaves(sorted_leaves(owed)), plan.delta, plan.accountant, "charged"
    )


def _owed(study: Study, plan: Plan, record: RunRecord, names: tuple[str, ...]) -> Mapping[str, Counter[LeafEvent]]:
    """Returns the leaf events that the recorded rounds owe each hospital's account, by name."""
    cap = Counter(dict(leaves(foreseen(plan, epsilon_limit_of(study, plan)))))
    availability, timetable = availability_of(study), timetable_of(study)
    visits = Counter[int](
        place for line in record.rounds for place in _answered(study, names, line, availability, timetable)
    )
    owed = {}
    for place, name in enumerate(names):
        releases = releases_of_visits(study, visits[place])
        due = plan.event_after(releases) if releases or plan.is_counted else None
        owed[name] = Counter[LeafEvent]() if due is None else Counter(dict(leaves(due))) & cap
    return owed


def _answered(
    study: Study,
    names: tuple[str, ...],
    line: Mapping[str, object],
    availability: Availability | None,
    timetable: Timetable,
) -> Iterator[int]:
    """Yields the positions of the hospitals that certainly answered in a recorded round."""
    row = JsonObject(line, "rounds.jsonl")
    round, missing = row.integer("round"), row.texts("missing")
    if not 1 <= round <= study.rounds:
        return  # the record is refused for it
    away = () if availability is None else availability.absent[round - 1].nonzero()[0].tolist()
    left_out = round - (study.rounds - study.hospitals.count + 1) if study.leaves_one_out else -1
    for place in timetable.asked(round):
        if place not in (*away, left_out) and place < len(names) and names[place] not in missing:
            yield place
