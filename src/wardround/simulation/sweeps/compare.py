"""Sweeps and studies run and held side by side: the runs, the shared ledger, the page.

Runs that are charged go one after the other, so that which of them a spent budget stops is no accident.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from wardround.config import Study
from wardround.config.sweep import Sweep
from wardround.coordinator.observer import Observer
from wardround.errors import MissingExtra, StudyError, WardroundError
from wardround.ledger.file import LedgerFile
from wardround.ledger.spending import spending_of
from wardround.records.folder import RunRecord
from wardround.report.comparison import Charge, Overview
from wardround.report.guarantee import Guarantee
from wardround.report.side_by_side import Entry, overview_of
from wardround.report.write import write_comparison
from wardround.simulation.sweeps.many import Finished, finish_many, sentence_of


def compare(sweeps: Sequence[Sweep], out: Path, observer: Observer, *, workers: int | None = None) -> Overview:
    """Runs whatever is not finished, and writes `comparison.json` and `comparison.html` into `out`.

    Guarantee: each run's own; the comparison states what all of them cost a patient together.

    Raises:
        StudyError: two runs of one name.
        WardroundError: runs failed; the comparison of the others is written first.
    """
    studies = [
        (sweep, name, study) for sweep in sweeps for c in sweep.configurations for name, study in c.runs.items()
    ]
    twice = [name for name, count in Counter(name for _, name, _ in studies).items() if count > 1]
    if twice:
        raise StudyError(f"Every run must have a name of its own, and two are called {twice[0]}; rename a study.")
    free = {name: study for sweep, name, study in studies if not sweep.charge}
    charged = {name: _on_ledger(study, out) for sweep, name, study in studies if sweep.charge}
    if charged:
        out.mkdir(parents=True, exist_ok=True)
        _limit(charged)
    one = finish_many(free, out, observer, workers=workers) if free else Finished({}, {})
    other = finish_many(charged, out, observer, workers=1) if charged else Finished({}, {})
    found = Finished(one.records | other.records, one.failures | other.failures, one.spent | other.spent)
    failed = {name: why for name, why in found.failures.items() if not (name in found.spent and name in charged)}
    if not found.records:
        raise WardroundError(sentence_of(found))
    overview = overview_of(
        " and ".join(dict.fromkeys(sweep.name for sweep in sweeps)),
        _entries(sweeps, found.records),
        charge=_charge(charged),
        missing=found.failures,
    )
    observer.stage("writing the comparison")
    try:
        write_comparison(overview, out)
    except MissingExtra as error:
        observer.stage(str(error))
    if failed:
        raise WardroundError(sentence_of(Finished(found.records, failed)))
    return overview


def _on_ledger(study: Study, out: Path) -> Study:
    ledger = study.privacy.ledger or (out / "ledger.sqlite").resolve()
    return study.model_copy(update={"privacy": study.privacy.model_copy(update={"ledger": ledger})})


def _shared(charged: Mapping[str, Study]) -> tuple[Path, float, float]:
    """Returns the ledger that charged runs share, their limit, and its delta."""
    privacy = next(iter(charged.values())).privacy
    assert privacy.ledger is not None
    return privacy.ledger, privacy.epsilon_limit or 0.0, getattr(privacy, "delta", None) or 1e-5


def _limit(charged: Mapping[str, Study]) -> None:
    """Sets the limit of the ledger that these runs share, unless it is that already."""
    path, limit, delta = _shared(charged)
    with LedgerFile(path) as ledger:
        known = ledger.limit
        if known is None or (known.epsilon, known.delta) != (limit, delta):
            ledger.set_limit(limit, delta, by="the study file", reason="charge = true")


def _entries(sweeps: Sequence[Sweep], records: Mapping[str, RunRecord]) -> list[Entry]:
    """Returns the finished runs, in the order in which they were asked for."""
    entries = []
    for sweep in sweeps:
        for configuration in sweep.configurations:
            source = sweep.name if len(sweeps) > 1 else ""
            for run in configuration.runs:
                if run in records:
                    entries.append(Entry(run, configuration.name, source, configuration.values, records[run]))
    return entries


def _charge(charged: Mapping[str, Study]) -> Charge | None:
    """Returns what the runs that share a ledger have spent of its limit together; None where none do."""
    if not charged:
        return None
    path, limit, delta = _shared(charged)
    with LedgerFile(path) as ledger:
        spent = spending_of(ledger, delta=delta)
    return Charge(limit, Guarantee(spent.greatest, spent.delta, "patient"))
