"""The ledger in the report: its name, the total of all studies, and what a record without it says."""

import copy
from typing import Any

import pytest
from tests.report.conftest import LEDGER

from wardround.report.numbers import numbers_of, summary_of_run
from wardround.report.write import write_report


def sentence(make_record, standing="lasting", **total):
    def bend(certificate, results):
        certificate["standing"] = standing

    own: Any = copy.deepcopy(LEDGER)
    own["total"] |= total
    return numbers_of(
        make_record(bend, own=own if standing == "lasting" else own | {"ledger": None, "total": None})
    )


def test_the_page_has_the_total_beside_the_epsilon_of_the_run(make_record, without_charts):
    page = " ".join(write_report(make_record()).read_text().split())
    assert (
        "All 3 runs on these patients together: ε&nbsp;=&nbsp;7.02 at δ = 1e-05</strong>, for the patient" in page
    )
    assert (
        "Together with 2 other runs on these patients: the patient who spent most has spent epsilon = 7.02" in page
    )
    assert "Ledger …/wardround/ledger.sqlite counts all studies and has no limit." in page
    assert "anna" not in page, "the page has no folder of a person"


@pytest.mark.parametrize(
    ("standing", "total", "said"),
    [
        ("lasting", {"runs": 1}, "No other run on these patients is in the ledger"),
        ("lasting", {"runs": 2}, "Together with 1 other run on these patients"),
        ("lasting", {"limit": {"epsilon": 20.0, "delta": 1e-6}}, "the limit epsilon = 20.0 at delta = 1e-06"),
        ("lasting", {"greatest_epsilon": "infinity"}, "has spent epsilon = infinity."),
        ("rehearsal", {}, "Rehearsal: this run was charged to a ledger of its own"),
        ("generated", {}, "they are nobody, and no account was charged"),
    ],
    ids=["first", "second", "limit", "without privacy", "rehearsal", "generated"],
)
def test_the_sentence_says_whose_accounts_were_charged(make_record, standing, total, said):
    assert said in sentence(make_record, standing, **total).account.sentence()


def test_a_record_without_its_ledger_says_so(make_record):
    record = make_record(own={})
    assert "came without its ledger.json" in numbers_of(record).account.sentence()
    summary: Any = summary_of_run(record)
    assert summary["account"]["together"] is None


def test_the_path_of_the_ledger_is_whole_on_the_own_screen(make_record):
    assert str(LEDGER["ledger"]) in numbers_of(make_record()).account.sentence(full_path=True)
