"""Repaired rows: ordinary studies, with run folder, ledger and certificate; finished ones are read, not run again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.accounting.statement import Statement
from wardround.config import Study, parse_study
from wardround.coordinator.observer import Observer
from wardround.records.folder import RunRecord
from wardround.reproduce.table import Origin, Row, Score
from wardround.simulation.sweeps.many import run_many

Sections = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Repaired:
    """One row that is an ordinary study, once for each repeat.

    `studies` are by name of their run folder; they differ by their split and their starting weights only.
    """

    setting: str
    name: str
    studies: Mapping[str, Study]


def repeated(setting: str, name: str, run: str, sections: Sections, repeats: int) -> Repaired:
    """A row's studies: repeat r has its own split (test patients too) and its own first weights.

    `run` is the beginning of the run folders' names; `sections` are the study as dictionaries, without `[study]`.
    """
    numbers = {f"{run}-r{number}": number for number in range(1, repeats + 1)}
    return Repaired(setting, name, {run: study_of(run, sections, number) for run, number in numbers.items()})


def study_of(name: str, sections: Sections, repeat: int) -> Study:
    """One study, checked; `repeat` (1, 2, ...) chooses its split and its first weights."""
    own: Sections = {
        "study": {"name": name},
        "hospitals": {"split_seed": repeat - 1},
        "model": {"init_seed": repeat - 1},
    }
    return parse_study(
        {key: {**sections.get(key, {}), **own.get(key, {})} for key in {**sections, **own}}, source=name
    )


def run_repaired(
    wanted: Iterable[Repaired], out: Path, observer: Observer, *, workers: int | None = None
) -> list[Row]:
    """Runs every study that is not finished below `out`; one row each.

    Guarantee: each row that of its own runs, by the certificates; the rows of one table are not composed.
    """
    rows = list(wanted)
    studies = {name: study for row in rows for name, study in row.studies.items()}
    records = run_many(studies, out, observer, workers=workers)
    return [row_of(row, [records[name] for name in row.studies]) for row in rows]


def row_of(repaired: Repaired, records: Sequence[RunRecord]) -> Row:
    """One row from its finished runs; its statement is that of the largest epsilon."""
    contents: list[Any] = [record.certificate["statement"] for record in records]
    statement = max(map(Statement.from_json, contents), key=lambda one: one.epsilon)
    origin = Origin.REPAIRED if statement.guarantee else Origin.OPEN
    return Row(
        repaired.setting, repaired.name, origin, scores_of_runs(records), statement, runs=tuple(repaired.studies)
    )


def scores_of_runs(records: Sequence[RunRecord]) -> dict[str, Score]:
    """Numbers on the test patients, by metric, over all repeats."""
    found = [_numbers(record) for record in records]
    return {key: Score.of([one[key] for one in found]) for key in found[0] if all(key in one for one in found)}


def _numbers(record: RunRecord) -> dict[str, float]:
    """The headline numbers, and Matthews' correlation as the mean over the run's models."""
    results: Any = record.results
    numbers = {
        item["key"]: float(value)
        for item in results["metrics"]["shown"]
        if (value := results["metrics"][item["key"]]) is not None
    }
    correlations = [model["matthews"] for model in results["models"].values() if model.get("matthews") is not None]
    if correlations:
        numbers["matthews"] = sum(correlations) / len(correlations)
    return numbers
