"""Sweeps, studies and finished runs held side by side: the runs, the shared ledger, the page.

Runs that are charged go one after the other, so that which of them a spent budget stops is no accident.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from wardround.boundary.private import make_private_folder
from wardround.config import Study
from wardround.config.sweep import Sweep
from wardround.coordinator.observer import Observer
from wardround.errors import MissingExtra, StudyError, WardroundError
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_ledger
from wardround.ledger.spending import spending_of
from wardround.records.folder import RunRecord
from wardround.report.comparison import Charge, Overview
from wardround.report.guarantee import Guarantee
from wardround.report.numbers import numbers_of
from wardround.report.side_by_side import Entry, overview_of, quality_of
from wardround.report.write import write_comparison
from wardround.simulation.accounts import IN_FOLDER
from wardround.simulation.sweeps.many import Finished, finish_many, sentence_of

_MOST_IN_TITLE = 2


def compare(
    sweeps: Sequence[Sweep],
    out: Path,
    observer: Observer,
    *,
    finished: Sequence[RunRecord] = (),
    workers: int | None = None,
    rehearsal: bool = False,
) -> Overview:
    """Runs every study that is not finished, and writes `comparison.json` and `comparison.html` into `out`.

    Guarantee: each run's own; the comparison states what all of them cost a patient together. Each run of a `rehearsal`
    is charged to a ledger that goes with it.

    Args:
        sweeps: of studies; their runs lie in `out`.
        out: the folder of these runs and of the comparison.
        observer: sees the runs.
        finished: records of runs elsewhere, which the caller has verified; they are read and stay as they are.
        workers: runs at once, at most; default by cores and memory.
        rehearsal: nothing is charged to a lasting ledger.

    Raises:
        RecordError: a finished run has no figures of test patients; nothing has run then.
        StudyError: two runs of one name, one folder twice, files that would come into a finished run, a rehearsal of a
            sweep that is to be charged, or no limit to end it.
        WardroundError: runs failed; the comparison of the others is written first.
    """
    studies = [
        (sweep, name, study) for sweep in sweeps for c in sweep.configurations for name, study in c.runs.items()
    ]
    names = _names([record.path for record in finished])
    twice = [name for name, count in Counter([*names, *(name for _, name, _ in studies)]).items() if count > 1]
    if twice:
        raise StudyError(
            f"Every run must have a name of its own, and two are called {twice[0]}; rename a study, or leave one out."
        )
    if rehearsal and any(sweep.charge for sweep in sweeps):
        raise StudyError(
            "`[sweep] charge` must be left out of a rehearsal, and is true: such runs share a ledger. "
            "Remove it, or run without --rehearsal.",
            code="study-charged-rehearsal",
        )
    _check_apart(finished, [out, *(out / name for _, name, _ in studies)])
    for record in finished:
        quality_of(numbers_of(record))
    free = {name: study for sweep, name, study in studies if not sweep.charge}
    charged = {name: _on_ledger(study, out) for sweep, name, study in studies if sweep.charge}
    if charged:
        make_private_folder(out)
        _limited(charged, out)
    one = finish_many(free, out, observer, workers=workers, rehearsal=rehearsal) if free else Finished({}, {})
    other = finish_many(charged, out, observer, workers=1) if charged else Finished({}, {})
    found = Finished(one.records | other.records, one.failures | other.failures, one.spent | other.spent)
    failed = {name: why for name, why in found.failures.items() if not (name in found.spent and name in charged)}
    if not found.records and not finished:
        raise WardroundError(sentence_of(found))
    make_private_folder(out)
    beside = [_beside(name, record, out) for name, record in zip(names, finished, strict=True)]
    overview = overview_of(
        " and ".join(dict.fromkeys([*(sweep.name for sweep in sweeps), *_titles(names)])),
        [*_entries(sweeps, found.records, is_only=not finished), *beside],
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


def _check_apart(finished: Sequence[RunRecord], places: Sequence[Path]) -> None:
    """Refuses places to write that are the folder of a finished run, or inside it.

    Raises:
        StudyError: one of them is.
    """
    for path in (record.path for record in finished):
        if any(place.resolve().is_relative_to(path.resolve()) for place in places):
            raise StudyError(
                "--out must keep files out of the finished runs, which stay as they are, and would bring some into "
                f"{path}; choose another folder.",
                code="study-compare-out",
            )


def _on_ledger(study: Study, out: Path) -> Study:
    """Returns the study on the ledger of a charged sweep: of real patients never one that begins with the sweep."""
    own = (out / IN_FOLDER).resolve() if study.site.layout == "phantom" else own_ledger()
    ledger = study.privacy.ledger or own
    return study.model_copy(update={"privacy": study.privacy.model_copy(update={"ledger": ledger})})


def _limited(charged: Mapping[str, Study], out: Path) -> None:
    """Sees to a limit that ends the sweep: the ledger's own, or of generated patients the study's.

    Raises:
        StudyError: a lasting ledger has none; no study file may set the limit of persons.
    """
    study = next(iter(charged.values()))
    path, privacy = study.privacy.ledger, study.privacy
    assert path is not None
    with LedgerFile(path) as ledger:
        if path == (out / IN_FOLDER).resolve():
            limit, delta = privacy.epsilon_limit or 0.0, getattr(privacy, "delta", None) or 1e-5
            known = ledger.limit
            if known is None or (known.epsilon, known.delta) != (limit, delta):
                ledger.set_limit(limit, delta, by="the study file", reason="charge = true, of generated patients")
        elif ledger.limit is None:
            raise StudyError(
                f"`[sweep] charge` needs a limit in the ledger that it is charged to, and {path} has none. Set it "
                "with: wardround ledger set-limit.",
                code="study-charge-limit",
            )


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns the last part of each path, with as many parts before it as tell them apart.

    >>> _names([Path("/runs/a/lungs"), Path("/runs/b/lungs")])
    ['a/lungs', 'b/lungs']
    """
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while len({one[-depth:] for one in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(one[-depth:]) for one in parts]


def _titles(names: Sequence[str]) -> Sequence[str]:
    return names if len(names) <= _MOST_IN_TITLE else [f"{len(names)} finished runs"]


def _beside(name: str, record: RunRecord, out: Path) -> Entry:
    folder = Path(os.path.relpath(record.path.resolve(), out.resolve())).as_posix()
    return Entry(name, name, name, {}, record, folder)


def _entries(sweeps: Sequence[Sweep], records: Mapping[str, RunRecord], *, is_only: bool) -> list[Entry]:
    """Returns the runs of sweeps, in the order in which they were asked for; `is_only`: there are no other runs."""
    entries = []
    for sweep in sweeps:
        for configuration in sweep.configurations:
            source = "" if is_only and len(sweeps) == 1 else sweep.name
            for run in configuration.runs:
                if run in records:
                    entries.append(Entry(run, configuration.name, source, configuration.values, records[run]))
    return entries


def _charge(charged: Mapping[str, Study]) -> Charge | None:
    """Returns what persons of the ledger of charged runs have spent of its limit; None where none were charged."""
    if not charged:
        return None
    path = next(iter(charged.values())).privacy.ledger
    assert path is not None
    with LedgerFile(path, copied=True) as ledger:
        limit = ledger.limit
        assert limit is not None, "seen to before"
        spent = spending_of(ledger, delta=limit.delta)
    return Charge(limit.epsilon, Guarantee(spent.greatest, spent.delta, "patient"))
