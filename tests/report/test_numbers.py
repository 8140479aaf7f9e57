import json

import pytest

from wardround.errors import RecordError
from wardround.report.contents import Score
from wardround.report.numbers import numbers_of, summary_of_run
from wardround.report.write import write_report


def test_the_summary_has_the_agreed_keys(make_record):
    summary = summary_of_run(make_record())
    assert {
        "epsilon", "delta", "unit", "auroc", "auroc_interval", "accuracy", "balanced_accuracy", "sensitivity",
        "specificity", "majority_accuracy", "statement", "rounds", "stopped", "seeded", "comparisons", "report",
    } <= summary.keys()  # fmt: skip
    assert (summary["epsilon"], summary["delta"], summary["unit"]) == (3.4567, 1e-5, "patient")
    assert summary["auroc_interval"] == [0.83, 0.92]
    assert str(summary["report"]).endswith("report.html")


def test_the_summary_compares_the_run_with_its_references(make_record):
    rows = json.loads(json.dumps(summary_of_run(make_record())["comparisons"]))
    assert set(rows) == {"federated", "no-privacy", "alone"}
    keys = {"epsilon", "delta", "unit", "auroc", "accuracy", "balanced_accuracy", "private", "text"}
    assert all(keys <= row.keys() for row in rows.values())
    assert rows["no-privacy"]["epsilon"] == "infinity"
    assert rows["no-privacy"]["private"] is False
    assert rows["federated"]["auroc"] == 0.88
    assert rows["alone"]["auroc_interval"] is None
    assert rows["alone"]["auroc_range"] == [0.731, 0.752]


def test_the_summary_has_the_noise_witness_of_a_masked_run_and_of_no_other(make_record):
    def masked(certificate, results):
        certificate["witness"] = {
            "statistic": 61624.3, "coordinates": 61440, "ratio": 1.003, "p_too_little": 0.8, "p_too_much": 0.2,
            "p_value": 0.4,
        }  # fmt: skip

    witness = {"coordinates": 61440, "ratio": 1.003, "p_value": 0.4}
    assert summary_of_run(make_record(masked))["witness"] == witness
    assert summary_of_run(make_record())["witness"] is None
    assert summary_of_run(make_record(lambda certificate, _: certificate.update(witness=None)))["witness"] is None
    with pytest.raises(RecordError, match="coordinates"):
        numbers_of(make_record(lambda certificate, _: certificate.update(witness={"ratio": 1.0})))


def test_the_summary_is_json_without_nan_or_infinity(make_record, bends):
    for bend in bends.values():
        json.dumps(summary_of_run(make_record(bend)), allow_nan=False)


def test_without_privacy_the_summary_says_infinity_and_gives_no_delta(make_record, bends):
    summary = summary_of_run(make_record(bends["not private"]))
    assert summary["epsilon"] == "infinity"
    assert summary["delta"] is None


def test_an_interval_and_a_range_are_both_read_as_low_and_high(make_record):
    report = numbers_of(make_record())
    rows = {row.key: row.quality.headline.score for row in report.comparisons}
    assert rows["federated"] == Score(0.88, 0.83, 0.92)
    assert rows["alone"] == Score(0.74, 0.731, 0.752)


def test_comparisons_stand_in_one_order_whatever_the_study_asked_first(make_record):
    report = numbers_of(make_record())
    assert [row.key for row in report.comparisons] == ["no-privacy", "federated", "alone"]


def test_an_adversary_with_less_noise_than_promised_is_not_covered(make_record):
    assert [row.covered for row in numbers_of(make_record()).insiders] == [True, False]


def test_only_evaluated_rounds_are_looks(make_record):
    assert [look.round for look in numbers_of(make_record()).looks] == [2, 4]


def test_settings_do_not_show_where_the_pictures_lie(make_record):
    settings = numbers_of(make_record()).settings
    assert "/srv/anna" not in settings
    assert 'path = "…/radiographs"' in settings


@pytest.mark.parametrize(
    ("section", "key"),
    [("site", "path"), ("site", "key_file"), ("site.patients", "table"), ("model", "weights"),
     ("model.own_encoder", "file"), ("privacy", "ledger"), ("performance", "cache")],
)  # fmt: skip
def test_settings_do_not_show_the_folder_of_any_file(make_record, section, key):
    settings = numbers_of(make_record(study=f'[{section}]\n{key} = "/home/anna/x/one.bin"\n')).settings
    assert settings == f'[{section}]\n{key} = "…/one.bin"'


def test_the_digest_of_the_data_is_not_shown(make_record):
    assert not any("febef1cf" in value for _, value in numbers_of(make_record()).environment)


def test_a_missing_number_is_a_damaged_record(make_record):
    def bend(certificate, results):
        results["metrics"]["accuracy"] = "much"

    with pytest.raises(RecordError, match=r"results\.json, metrics must hold a number under 'accuracy'"):
        numbers_of(make_record(bend))


def test_a_statement_of_another_version_is_a_damaged_record(make_record):
    def bend(certificate, results):
        del certificate["statement"]["trust"]

    with pytest.raises(RecordError, match="must hold a statement"):
        numbers_of(make_record(bend))


@pytest.mark.usefixtures("without_charts")
def test_repeats_of_the_noise_stand_beside_the_headline_and_in_no_row(make_record):
    def repeated(_, results):
        row = {"text": "", "private": True, "epsilon": 3.0, "delta": 1e-5, "metrics": results["metrics"]}
        results["references"] = {"repeats": row | {"headlines": [0.86, 0.9, 0.88]}}

    page = write_report(make_record(repeated)).read_text()
    assert "this model: 0.880; 3 repeats of the noise: 0.880 ± 0.020 (standard deviation)" in page.lower()
    assert "No reference runs but repeats of the noise were asked for" in page


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("how", ["", "fitted to the end"])
def test_the_figure_without_privacy_stands_beside_the_headline(make_record, how):
    """The way it was reached is in brackets; earlier records do not name one, and were clipped alike."""

    def said(_, results):
        results["references"]["no-privacy"] |= {"how": how} if how else {}

    record = make_record(said)
    expected = f"without privacy: 0.910 ({how or 'the same training, clipped alike, with no noise'})"
    assert numbers_of(record).without_privacy == expected
    page = write_report(record).read_text()
    assert page.count(f"{expected[0].upper()}{expected[1:]}.") == 1
    assert f"“Without privacy” is {how or 'the same training'}" in page


def test_without_a_reference_nothing_is_said_of_no_privacy(make_record):
    assert (
        numbers_of(make_record(lambda _, results: results["references"].pop("no-privacy"))).without_privacy == ""
    )
