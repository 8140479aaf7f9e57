"""From finished runs to their comparison: means over repeats, and the configuration that may be called best."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wardround.boundary.documents import dotted
from wardround.errors import RecordError
from wardround.records.folder import RunRecord
from wardround.report.comparison import Charge, Overview, Row, Spread
from wardround.report.contents import Measure, Quality, Report
from wardround.report.numbers import numbers_of
from wardround.report.together import together_of

_UNTOLD = (
    "study.name",
    "study.description",
    "site",
    "performance",
    "data.path",
    "privacy.ledger",
    "model.weights",
    "model.own_encoder.file",
)
"""Settings and sections that change no result, or are places on a machine: a file of weights has its hash beside it."""


@dataclass(frozen=True)
class Entry:
    """A finished run in a comparison.

    Attributes:
        run: its name.
        source: the study file it comes from, by its study's name, or the finished run; empty where there is one only.
        folder: of the run, as seen from the page; None if it is beside it, under the run's name.
    """

    run: str
    configuration: str
    source: str
    values: Mapping[str, object]
    record: RunRecord
    folder: str | None = None


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
    columns = {m.key: m for r in reports.values() for m in quality_of(r).measures}
    rows = tuple(_row(group, [reports[entry.run] for entry in group], columns) for group in grouped.values())
    together = together_of([entry.record for entry in entries])
    held_out = [frozenset(map(_held_out, group)) for group in grouped.values()]
    validated = {
        (places, _values_of(group[0])["data.validation_fraction"])
        for places, group in zip(held_out, grouped.values(), strict=True)
    }
    best, choice = _best(rows, next(iter(columns.values())), one_set=len(validated) == 1)
    return Overview(
        title, tuple(columns.values()), rows, _settings([group[0] for group in grouped.values()]),
        _not_comparable(rows, held_out, entries), together, _dealt_anew(entries), charge, best, choice,
        dict(missing or {}),
    )  # fmt: skip


def _values_of(entry: Entry) -> defaultdict[str, object]:
    """Returns the settings of a run by dotted key; None for one that is not there."""
    return defaultdict(lambda: None, dotted(entry.record.tables()))


def _settings(entries: Sequence[Entry]) -> dict[str, tuple[str, ...]]:
    """Returns the settings that differ, a value for each entry, without those that all labels have."""
    studies = [_values_of(entry) for entry in entries]
    keys = dict.fromkeys(key for study in studies for key in tuple(study))
    said = {
        key: tuple("–" if study[key] is None else json.dumps(study[key], ensure_ascii=False) for study in studies)
        for key in keys
        if not f"{key}.".startswith(tuple(f"{one}." for one in _UNTOLD))
        and not all(key in entry.values for entry in entries)
    }
    return {key: values for key, values in said.items() if len(set(values)) > 1}


def _held_out(entry: Entry) -> object:
    """Returns a value that runs on the same test patients share, and one that does not tell them with no other."""
    return entry.record.own.get("held_out", ("not known", entry.run))


def _dataset_of(entry: Entry) -> object:
    """Returns a value that runs on the same data set share, and one that does not tell its data set with no other."""
    return entry.record.own.get("dataset", ("not known", entry.run))


def _not_comparable(rows: Sequence[Row], held_out: Sequence[frozenset[object]], entries: Sequence[Entry]) -> str:
    """Returns a sentence on rows whose test patients are not the same; empty where all are."""
    alike: dict[frozenset[object], list[str]] = {}
    for row, places in zip(rows, held_out, strict=True):
        alike.setdefault(places, []).append(row.label)
    if len(alike) == 1:
        return ""
    groups = " and ".join(f"({', '.join(labels)})" for labels in alike.values())
    untold = [entry.run for entry in entries if "held_out" not in entry.record.own]
    text = f"Not comparable: {groups} are on different held-out patients."
    if untold:
        text += (
            f" Of {', '.join(untold)} the patients are not known: ledger.json is missing, or does not tell them."
        )
    return text


def _dealt_anew(entries: Sequence[Entry]) -> bool:
    """Returns whether runs that tell the same data set differ in their test patients."""
    places = ("hospitals.split_seed", "data.test", "data.test_fraction", "data.validation_fraction")
    dealt: defaultdict[object, set[object]] = defaultdict(set)
    for entry in entries:
        study, dataset = _values_of(entry), _dataset_of(entry)
        dealt["settings", dataset].add(repr([study[key] for key in places]))
        if "held_out" in entry.record.own:
            dealt["patients", dataset].add(_held_out(entry))
    return any(len(ways) > 1 for ways in dealt.values())


def _row(group: Sequence[Entry], reports: Sequence[Report], columns: Mapping[str, Measure]) -> Row:
    loosest = max(zip(reports, group, strict=True), key=lambda pair: pair[0].guarantee.epsilon)
    qualities = [quality_of(report) for report in reports]
    checked = [report.validation.quality for report in reports if report.validation is not None]
    first = group[0]
    return Row(
        name=first.configuration,
        source=first.source,
        values=first.values,
        runs=tuple(entry.run for entry in group),
        folders=tuple(entry.run if entry.folder is None else entry.folder for entry in group),
        guarantee=loosest[0].guarantee,
        promise=str(loosest[1].record.certificate["short"]),
        seeded=any(report.seeded for report in reports),
        stopped=sum(report.stopped is not None for report in reports),
        rounds=max(report.rounds for report in reports),
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


def quality_of(report: Report) -> Quality:
    """Returns the metrics of a run; every simulation has some.

    Raises:
        RecordError: no figure of a test patient left the hospitals.
    """
    if report.quality is None:
        raise RecordError(
            f"A run must have figures of test patients to be compared, and {report.name} has none: no figure of a test "
            "patient left the hospitals. Leave it out.",
            code="record-not-measured",
        )
    return report.quality


def _scores(qualities: Sequence[Quality], key: str) -> Spread | None:
    scores = [quality.score(key) for quality in qualities]
    spread = _spread([None if score is None else score.value for score in scores])
    [only, *others] = zip(qualities, scores, strict=True)
    quality, score = only
    if spread is None or others or quality.models > 1 or score is None or score.low is None or score.high is None:
        return spread
    return Spread(spread.values, (score.low, score.high))


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


def _best(rows: Sequence[Row], headline: Measure, *, one_set: bool) -> tuple[str | None, str]:
    """Returns the best by validation patients alone, and a sentence about its reach."""
    if len(rows) < 2:
        return None, "There is one configuration only, so there is nothing to choose."
    known = [(row.validation, row) for row in rows if row.validation is not None]
    if len(known) < len(rows):
        return None, (
            "No configuration is called best: that takes validation patients in every run, and there are none. Set "
            "data.validation_fraction, for instance to 0.1."
        )
    if not one_set:
        return None, "No configuration is called best: the runs are on different held-out patients."
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
