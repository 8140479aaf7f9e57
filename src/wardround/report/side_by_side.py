"""From finished runs to their comparison: means over repeats, and the configuration that may be called best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wardround.records.folder import RunRecord
from wardround.records.json_object import JsonObject
from wardround.report.comparison import Charge, Overview, Row, Spread
from wardround.report.contents import Measure, Quality, Report
from wardround.report.numbers import numbers_of
from wardround.report.together import together_of


@dataclass(frozen=True)
class Entry:
    """A finished run in a comparison.

    Attributes:
        run: its name, and that of its folder beside the page.
        source: the study file it comes from, by its study's name; empty where there is one file only.
    """

    run: str
    configuration: str
    source: str
    values: Mapping[str, object]
    record: RunRecord


def overview_of(
    title: str, entries: Sequence[Entry], *, charge: Charge | None = None, missing: Mapping[str, str] | None = None
) -> Overview:
    """Returns the comparison of some finished runs; there is at least one.

    Raises:
        RecordError: a file of a record has another shape than this version writes.
    """
    grouped: dict[str, list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.configuration, []).append(entry)
    reports = {entry.run: numbers_of(entry.record) for entry in entries}
    columns = {m.key: m for r in reports.values() for m in _quality_of(r).measures}
    rows = tuple(_row(group, [reports[entry.run] for entry in group], columns) for group in grouped.values())
    together = together_of([entry.record for entry in entries])
    datasets = {str(entry.record.own.get("dataset")) for entry in entries}
    best, choice = _best(rows, next(iter(columns.values())), one_data_set=len(datasets) == 1)
    return Overview(
        title, tuple(columns.values()), rows, together, _dealt_anew(entries), charge, best, choice,
        dict(missing or {}),
    )  # fmt: skip


def _dealt_anew(entries: Sequence[Entry]) -> bool:
    """Returns whether the runs differ in their test patients."""
    places = [
        ("hospitals", "split_seed"),
        *(("data", key) for key in ("test", "test_fraction", "validation_fraction")),
    ]
    studies = [JsonObject(entry.record.tables(), "study.toml") for entry in entries]
    return len({repr([study.section(table).values.get(key) for table, key in places]) for study in studies}) > 1


def _row(group: Sequence[Entry], reports: Sequence[Report], columns: Mapping[str, Measure]) -> Row:
    loosest = max(zip(reports, group, strict=True), key=lambda pair: pair[0].guarantee.epsilon)
    qualities = [_quality_of(report) for report in reports]
    checked = [report.validation.quality for report in reports if report.validation is not None]
    first = group[0]
    return Row(
        name=first.configuration,
        source=first.source,
        values=first.values,
        runs=tuple(entry.run for entry in group),
        guarantee=loosest[0].guarantee,
        promise=str(loosest[1].record.certificate["short"]),
        seeded=any(report.seeded for report in reports),
        stopped=sum(report.stopped is not None for report in reports),
        hospitals=max(len(report.hospitals) for report in reports),
        scores={key: spread for key in columns if (spread := _scores(qualities, key)) is not None},
        validation=_scores(checked, qualities[0].headline.key) if len(checked) == len(reports) else None,
        curve=_curve(reports),
        measured_on=next((report.looks[-1].measured_on for report in reports if report.looks), "test"),
        majority=_spread([quality.majority_accuracy for quality in qualities]),
        shortcut=_spread([report.shortcut_auroc for report in reports]),
        shortcut_kappa=_spread([report.shortcut_kappa for report in reports]),
        location=_spread([report.location_dice for report in reports]),
    )


def _quality_of(report: Report) -> Quality:
    """Returns the metrics of a simulation, which always has some."""
    assert report.quality is not None, "a run between hospitals is not compared"
    return report.quality


def _scores(qualities: Sequence[Quality], key: str) -> Spread | None:
    scores = [quality.score(key) for quality in qualities]
    return _spread([None if score is None else score.value for score in scores])


def _spread(values: Sequence[float | None]) -> Spread | None:
    """Returns the spread over all repeats; None unless each of them has the figure."""
    known = tuple(value for value in values if value is not None)
    return Spread(known) if known and len(known) == len(values) else None


def _curve(reports: Sequence[Report]) -> tuple[tuple[int, Spread], ...]:
    rounds = dict.fromkeys(look.round for report in reports for look in report.looks)
    spreads = {
        round: _spread([look.score.value for report in reports for look in report.looks if look.round == round])
        for round in sorted(rounds)
    }
    return tuple((round, score) for round, score in spreads.items() if score is not None)


def _best(rows: Sequence[Row], headline: Measure, *, one_data_set: bool) -> tuple[str | None, str]:
    """Returns the best by validation patients alone, and a sentence about its reach."""
    if len(rows) < 2:
        return None, "There is one configuration only, so there is nothing to choose."
    known = [(row.validation, row) for row in rows if row.validation is not None]
    if len(known) < len(rows):
        return None, (
            "No configuration is called best: that takes validation patients in every run, and there are none. Set "
            "data.validation_fraction, for instance to 0.1."
        )
    if not one_data_set:
        return None, "No configuration is called best: the runs are on different data sets."
    (first, winner), (second, _) = sorted(known, key=lambda pair: -pair[0].mean)[:2]
    text = (
        f"By {headline.title} on the validation patients, {winner.label} is best ({first.mean:.3f}, with "
        f"{winner.guarantee.text}); its test figure was not used for that."
    )
    if second.high >= first.low:
        text += f" The next one reaches {second.high:.3f} in a run, so the difference may be chance."
    private = [(score, row) for score, row in known if row.guarantee.holds]
    if private and not winner.guarantee.holds:
        score, row = max(private, key=lambda pair: pair[0].mean)
        text += f" Of those with privacy, {row.label} is best ({score.mean:.3f}, with {row.guarantee.text})."
    return winner.name, text
