"""Every number of the report, read from a finished run."""

import re
from collections.abc import Iterable
from dataclasses import asdict, replace

from wardround.accounting.statement import Statement
from wardround.accounting.terms import PrivacyUnit
from wardround.errors import PrivacyError, RecordError
from wardround.records.folder import JsonDict, RunRecord
from wardround.records.json_object import JsonObject
from wardround.report.account import account_of
from wardround.report.contents import (
    Aside,
    Calibration,
    Comparison,
    Hospital,
    Insider,
    Look,
    LostAttempts,
    Measure,
    NoiseWitness,
    OperatingRow,
    Quality,
    Released,
    ReliabilityBin,
    Repeats,
    Report,
    Score,
    Subgroup,
    Validation,
)
from wardround.report.evaluation import evaluation_of
from wardround.report.guarantee import Guarantee
from wardround.report.signal import Signal

_PLACES = {"pooled": "All patients in one place", "alone": "Each hospital alone"}
_ORDER = ("All patients in one place", "Federated", "Each hospital alone")
_REPEATS = "repeats"
_FOLDERS = re.compile(
    r'^(path|labels|key_file|table|ledger|cache|weights|file) = "(?:[^"\n]*[/\\])?([^"/\\\n]*)"$', re.MULTILINE
)
_FINDINGS = {
    "unreadable": "unreadable pictures, left out",
    "shared_pictures": "groups of identical pictures that stand under two patients",
    "two_labels": "patients whose pictures carry two labels",
    "straddling": "patients in both published parts, training and test",
    "conflicting_duplicates": "groups of identical pictures with different labels",
    "repeated_pictures": "pictures that are exact copies of another one",
    "cut_off": "pictures or volumes of which more than two fifths lie outside of the middle that is read",
    "unnamed": "pictures that name no patient",
    "like_another": "groups of patients whose ids look alike",
    "classes_alike": "groups of classes whose names look alike",
    "two_sites": "patients with pictures at two hospitals",
    "shared_series": "series that have files of two patients or more",
    "left_out": "files, series and rows that were left out",
    "empty_classes": "classes without a picture",
}
_UNNAMED_FINDINGS = _FINDINGS | {
    "shared_pictures": "groups of identical pictures in two files",
    "unnamed": "pictures that name no person",
}
_OF_PATIENTS = ("two_labels", "straddling", "like_another", "two_sites")
"""Findings that a set without names cannot have."""


def numbers_of(record: RunRecord) -> Report:
    """Returns everything that the page shows, from a finished run.

    Raises:
        RecordError: a file of the record has another shape than this version writes.
    """
    certificate = JsonObject(record.certificate, "certificate.json")
    results = JsonObject(record.results, "results.json")
    study = JsonObject(record.tables(), "study.toml")
    federation = study.section("federation")
    statement = _statement(certificate)
    guarantee = Guarantee(statement.epsilon, statement.delta, statement.unit.value, statement.division)
    metrics = results.maybe_section("metrics")
    quality = None if metrics is None else _quality(metrics)
    strategy = federation.text("strategy", "fedsgd")
    main_place = _PLACES.get(strategy, "Federated")
    comparisons: tuple[Comparison, ...] = ()
    if quality is not None:
        main = Comparison("federated", main_place, guarantee.holds, "this run", "", True, guarantee, quality)
        beside = {name: row for name, row in results.named_objects("references").items() if name != _REPEATS}
        comparisons = (main, *(_comparison(name, row, main) for name, row in beside.items()))
    return Report(
        name=certificate.text("study"),
        description=study.section("study").text("description", ""),
        strategy=strategy,
        statement=statement,
        sentence=certificate.text("sentence"),
        guarantee=guarantee,
        account=account_of(
            certificate,
            JsonObject(record.own, "ledger.json"),
            "picture" if statement.unit is PrivacyUnit.PICTURE else "patient",
        ),
        seeded=certificate.flag("seeded"),
        rounds=certificate.integer("rounds"),
        planned_rounds=_planned(federation),
        stopped=None if certificate.values.get("stopped") is None else certificate.text("stopped"),
        quality=quality,
        classes=results.texts("classes"),
        parameters=results.integer("parameters"),
        test=_test(results),
        looks=_looks(record),
        comparisons=tuple(
            sorted(comparisons, key=lambda row: (_ORDER.index(row.place), row.private, row.is_main))
        ),
        insiders=_insiders(certificate, statement, guarantee),
        hospitals=_hospitals(results, certificate, guarantee),
        released=tuple(Released(*map(row.text, ("what", "to", "protected_by"))) for row in results.objects("released")),
        findings=_findings(results.section("findings"), is_unnamed=statement.unit is PrivacyUnit.PICTURE),
        environment=_environment(record.environment),
        settings=_FOLDERS.sub(r'\1 = "…/\2"', record.study.strip()),
        study_digest=certificate.text("study_digest"),
        model_sha256=certificate.text("model_sha256"),
        encoder=certificate.text("encoder", ""),
        target=results.text("target", "classes"),
        shortcut_auroc=results.maybe_number("shortcut_auroc"),
        shortcut_kappa=results.maybe_number("shortcut_kappa"),
        location_dice=results.maybe_number("location_dice"),
        operating_points=_operating_points(results),
        calibration=_calibration(results),
        subgroups=() if quality is None else _subgroups(results, quality.headline.key),
        validation=_validation(results),
        witness=_witness(certificate),
        upload=_upload(results).text("sentence", ""),
        lost=_lost(_lines(record)),
        evaluation=evaluation_of(results, certificate),
        outstanding=record.outstanding,
        repeats=_repeats(results),
        signal=Signal.of(record.rounds, results.integer("parameters")),
    )  # fmt: skip


def headline_of(record: RunRecord) -> str:
    """Returns the promise and the first figure of a finished run, in one line."""
    report = numbers_of(record)
    first = None if report.quality is None else report.quality.headline
    if first is None or first.score.value is None:
        return report.guarantee.text
    return f"{report.guarantee.text}, {first.title} {first.score.value:.3f}"


def summary_of_run(record: RunRecord) -> JsonDict:
    """Returns the numbers of a run as one JSON object; an infinite epsilon is the string 'infinity'."""
    report = numbers_of(record)
    return {
        "study": report.name,
        **report.guarantee.to_json(),
        "statement": report.sentence,
        "account": report.account.to_json(),
        "seeded": report.seeded,
        "rounds": report.rounds,
        "stopped": report.stopped,
        **({} if report.quality is None else _quality_json(report.quality)),
        "comparisons": {
            row.key: {"text": row.text, "private": row.private}
            | row.guarantee.to_json()
            | _quality_json(row.quality)
            for row in report.comparisons
        },
        "repeats": None
        if report.repeats is None
        else asdict(report.repeats) | {"mean": report.repeats.mean, "standard_deviation": report.repeats.spread},
        "operating_points": [asdict(row) for row in report.operating_points],
        "calibration": None if report.calibration is None else asdict(report.calibration),
        "shortcut_auroc": report.shortcut_auroc,
        "shortcut_kappa": report.shortcut_kappa,
        "location_dice": report.location_dice,
        "witness": None if report.witness is None else asdict(report.witness),
        "upload": dict(_upload(JsonObject(record.results, "results.json")).values) or None,
        "lost_attempts": None if report.lost is None else report.lost.attempts,
        "signal": None if report.signal is None else asdict(report.signal),
        "evaluation": None if report.evaluation is None else asdict(report.evaluation),
        "model_sha256": report.model_sha256,
        "report": str(record.path / "report.html"),
    }


def _quality_json(quality: Quality) -> JsonDict:
    headline = quality.headline
    spread = None if headline.score.low is None else [headline.score.low, headline.score.high]
    return {
        "models": quality.models,
        "headline": headline.key,
        **{measure.key: measure.score.value for measure in quality.measures},
        f"{headline.key}_interval": spread if quality.models == 1 else None,
        f"{headline.key}_range": spread if quality.models > 1 else None,
        "majority_accuracy": quality.majority_accuracy,
    }


def _statement(certificate: JsonObject) -> Statement:
    try:
        return Statement.from_json(certificate.section("statement").values)
    except PrivacyError as error:
        raise RecordError(f"certificate.json must hold a statement. {error}") from None


def _quality(row: JsonObject) -> Quality:
    shown = [(one.text("key"), one.text("title"), one.text("unit", "")) for one in row.objects("shown")]
    if not shown:
        raise RecordError("results.json must name at least one metric under 'shown'; run again.")
    return Quality(
        models=row.integer("models"),
        measures=tuple(Measure(key, title, unit, _score(row, key)) for key, title, unit in shown),
        majority_accuracy=row.maybe_number("majority_accuracy"),
    )


def _test(results: JsonObject) -> Aside | None:
    if (row := results.maybe_section("test")) is None:
        return None
    return Aside(row.integer("patients"), row.integer("images"), row.flag("leaking"), row.text("note", ""))


def _validation(results: JsonObject) -> Validation | None:
    if (row := results.maybe_section("validation")) is None:
        return None
    return Validation(row.integer("patients"), _quality(row.section("metrics")))


def _planned(federation: JsonObject) -> int | None:
    """Returns the rounds of the study, those of scores among them; None where the study gives none."""
    if "rounds" not in federation.values:
        return None
    scores = federation.integer("score_rounds") if "score_rounds" in federation.values else 0
    return federation.integer("rounds") + scores


def _operating_points(results: JsonObject) -> tuple[OperatingRow, ...]:
    return tuple(
        OperatingRow(
            row.text("class"),
            row.maybe_number("asked_sensitivity"),
            row.number("score"),
            row.number("accuracy"),
            _score(row, "sensitivity"),
            _score(row, "specificity"),
            row.text("reason", ""),
        )
        for row in results.objects("operating_points")
    )


def _calibration(results: JsonObject) -> Calibration | None:
    if (row := results.maybe_section("calibration")) is None:
        return None
    bins = tuple(
        ReliabilityBin(each.integer("count"), each.number("mean_confidence"), each.number("accuracy"))
        for each in row.objects("bins")
        if each.integer("count") > 0
    )
    if not all(0 <= each.accuracy <= 1 for each in bins):
        raise RecordError("results.json must hold shares from 0 to 1 in the bins of its calibration; run again.")
    return Calibration(row.flag("released"), row.number("error"), row.number("brier"), bins)


def _subgroups(results: JsonObject, key: str) -> tuple[Subgroup, ...]:
    found = []
    for column, groups in results.named_objects("subgroups").items():
        for value, row in groups.named_objects("shown").items():
            found.append(Subgroup(column, value, row.integer("n_patients"), _score(row, key)))
        if (rest := groups.maybe_section("together")) is not None:
            value = f"{groups.integer('num_together')} rare values together"
            found.append(Subgroup(column, value, rest.integer("n_patients"), _score(rest, key)))
    return tuple(found)


def _score(row: JsonObject, key: str) -> Score:
    value = row.maybe_number(key)
    if f"{key}_range" in row.values:
        low, high = row.numbers(f"{key}_range")
        return Score(value, low, high)
    if (interval := row.maybe_section(f"{key}_interval")) is not None:
        return Score(value, interval.number("low"), interval.number("high"))
    return Score(value)


def _lines(record: RunRecord) -> tuple[JsonObject, ...]:
    return tuple(JsonObject(line, f"rounds.jsonl, line {i}") for i, line in enumerate(record.rounds, start=1))


def _looks(record: RunRecord) -> tuple[Look, ...]:
    def look(line: JsonObject) -> Look:
        score = _quality(line.section("metrics")).headline.score
        return Look(line.integer("round"), line.number("epsilon"), score, line.text("measured_on", "test"))

    return tuple(look(line) for line in _lines(record) if "metrics" in line.values)


def _comparison(name: str, row: JsonObject, main: Comparison) -> Comparison:
    guarantee = replace(main.guarantee, epsilon=row.number("epsilon"), delta=row.number("delta"))
    place = _PLACES.get(name.split("-")[0], main.place)
    quality = _quality(row.section("metrics"))
    private = row.flag("private")
    how = "" if private else row.text("how", "the same training, clipped alike, with no noise")
    return Comparison(name, place, private, row.text("text"), how, False, guarantee, quality)


def _repeats(results: JsonObject) -> Repeats | None:
    """Returns the repeats of the noise; None where they are not there, or have no headline."""
    row = results.named_objects("references").get(_REPEATS)
    if row is None or row.section("metrics").maybe_number(_quality(row.section("metrics")).headline.key) is None:
        return None
    return Repeats(row.numbers("headlines"))


def _insiders(certificate: JsonObject, statement: Statement, promised: Guarantee) -> tuple[Insider, ...]:
    def insider(row: JsonObject) -> Insider:
        left = row.number("noise_multiplier")
        return Insider(
            row.text("adversary"),
            replace(promised, epsilon=row.number("epsilon")),
            left,
            left >= statement.noise_multiplier * (1 - 1e-9),
        )

    return tuple(map(insider, certificate.objects("insiders")))


def _hospitals(results: JsonObject, certificate: JsonObject, promised: Guarantee) -> tuple[Hospital, ...]:
    ledgers = certificate.named_objects("ledgers")

    def hospital(row: JsonObject) -> Hospital:
        ledger = ledgers.get(row.text("name"))
        patients, images = (row.integer(k) if k in row.values else None for k in ("patients", "images"))
        spent = replace(promised, epsilon=ledger.number("epsilon_spent")) if ledger else None
        head = ledger.text("head") if ledger else None
        return Hospital(row.text("name"), patients, images, row.maybe_number("share_not_first_class"), spent, head)

    return tuple(map(hospital, results.objects("hospitals")))


def _findings(row: JsonObject, *, is_unnamed: bool) -> tuple[tuple[str, int], ...]:
    words = _UNNAMED_FINDINGS if is_unnamed else _FINDINGS
    keys = [key for key in row.values if not (is_unnamed and key in _OF_PATIENTS)]
    return tuple((words.get(key, key.replace("_", " ")), row.integer(key)) for key in keys)


def _witness(certificate: JsonObject) -> NoiseWitness | None:
    if (row := certificate.maybe_section("witness")) is None:
        return None
    return NoiseWitness(row.integer("coordinates"), row.number("ratio"), row.number("p_value"))


def _upload(results: JsonObject) -> JsonObject:
    """Returns the hospital's upload in a masked round; empty where sums were not masked."""
    return results.maybe_section("upload") or JsonObject({}, "results.json")


def _lost(lines: Iterable[JsonObject]) -> LostAttempts | None:
    again = [line.integer("attempts") - 1 for line in lines if "attempts" in line.values]
    return LostAttempts(sum(again), len(again)) if again else None


def _environment(environment: JsonDict) -> tuple[tuple[str, str], ...]:
    """Returns date, versions and machine, without what the run did not have."""
    packages = JsonObject(environment, "environment.json").section("packages").values
    own = {k: v for k, v in environment.items() if k not in ("packages", "study_digest") and v is not None}
    return tuple((key, str(value)) for key, value in {**own, **packages}.items())
