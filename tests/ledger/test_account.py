"""Check, then spend: what has to hold of a ledger whatever is charged to it."""

import json
import math
import os
import sqlite3

import pytest
from tests.cases import family
from tests.ledger.spending import AFFORDABLE, LIMIT, STEP, spend

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.calibration import affordable_count
from wardround.accounting.events import (
    GaussianEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from wardround.accounting.terms import PrivacyUnit
from wardround.errors import BudgetExhausted, LedgerError, PrivacyError
from wardround.ledger import account
from wardround.ledger.entry import GENESIS
from wardround.ledger.file import LedgerFile


def test_a_charge_says_what_was_about_to_happen_and_under_which_promise(ledger):
    entry = ledger.charge(STEP, study="chest", release_id="round-1", purpose="training")
    assert ledger.entries() == [entry]
    assert (entry.event, entry.study, entry.sequence, entry.attempt) == (STEP, "chest", 1, 1)
    assert (entry.unit, entry.relation, entry.accountant) == ("patient", "add-or-remove-one", "pld")
    assert (entry.epsilon_limit, entry.delta, entry.version) == (2.0, 1e-5, "0.1.0")
    assert entry.created_utc.endswith("+00:00")
    assert ledger.head() == entry.hash
    assert ledger.spent() == epsilon_of(STEP, 1e-5)


@pytest.mark.parametrize("planned", [1, 3, AFFORDABLE, 10 * AFFORDABLE])
def test_exactly_as_many_releases_as_fit_are_allowed_whatever_was_planned(ledger, planned):
    assert ledger.remaining(STEP) == AFFORDABLE > 4
    spend(ledger, AFFORDABLE, planned=planned)
    before = ledger.entries()
    with pytest.raises(BudgetExhausted, match="Nothing was released"):
        ledger.charge(STEP, study="study", release_id="one-too-many", purpose="training", planned=planned)
    assert ledger.entries() == before
    assert ledger.spent() <= 2.0 < epsilon_of(SelfComposedEvent(STEP, AFFORDABLE + 1), 1e-5)
    assert ledger.remaining(STEP) == 0
    ledger.verify()


def test_a_cheaper_release_is_still_allowed_after_a_refusal(ledger):
    spend(ledger, AFFORDABLE)
    with pytest.raises(BudgetExhausted):
        spend(ledger, 1, study="other")
    ledger.charge(GaussianEvent(500.0), study="study", release_id="small", purpose="count")
    assert len(ledger.entries()) == AFFORDABLE + 1


@pytest.mark.parametrize("accountant", family([AccountantKind.PLD, AccountantKind.RDP], keep=[AccountantKind.RDP]))
def test_the_limit_holds_for_sampled_events_by_every_bound(ledger_file, accountant):
    step = PoissonSampledEvent(0.1, GaussianEvent(2.0))
    ledger = ledger_file.open("north", "digest", epsilon_limit=1.5, delta=1e-5, accountant=accountant)
    with pytest.raises(BudgetExhausted):
        spend(ledger, 1_000, event=step, planned=1_000)
    count = len(ledger.entries())
    assert count == affordable_count(None, step, 1.5, 1e-5, accountant=accountant, at_most=1_000_000)
    assert 0 < count < 1_000


def test_one_evaluation_certifies_all_the_planned_releases(ledger, monkeypatch):
    asked = []

    def counted(*arguments):
        asked.append(arguments)
        return epsilon_of(*arguments)

    monkeypatch.setattr(account, "epsilon_of", counted)
    spend(ledger, AFFORDABLE, planned=AFFORDABLE)
    assert len(asked) == 1


def test_studies_share_one_budget(ledger_file, ledger):
    spend(ledger, AFFORDABLE - 1, study="first")
    again = ledger_file.open("north", "digest", **LIMIT)
    spend(again, 1, study="second")
    with pytest.raises(BudgetExhausted):
        spend(again, 1, study="third")


def test_a_certificate_does_not_outlive_what_another_process_charged(path, ledger):
    spend(ledger, 1, planned=AFFORDABLE)
    with LedgerFile(path) as elsewhere:
        spend(elsewhere.open("north", "digest", **LIMIT), AFFORDABLE - 1, study="elsewhere")
    with pytest.raises(BudgetExhausted):
        spend(ledger, 1, study="late", planned=AFFORDABLE)
    assert len(ledger.entries()) == AFFORDABLE


def test_a_file_tells_whose_ledgers_it_holds(ledger_file, ledger):
    south = ledger_file.open("south", "digest", **LIMIT)
    spend(ledger, 2)
    spend(south, 1)
    assert ledger_file.chains() == [("north", "digest"), ("south", "digest")]
    assert ledger_file.entries("north", "digest") == ledger.entries()


def test_hospitals_have_their_own_budgets_in_one_file(ledger_file, ledger):
    spend(ledger, AFFORDABLE)
    spend(ledger_file.open("south", "digest", **LIMIT), AFFORDABLE)
    assert len(ledger.entries()) == AFFORDABLE


def test_what_was_charged_for_a_study_is_counted_by_purpose_and_found_again(path):
    ample = LIMIT | {"epsilon_limit": 9.0}
    with LedgerFile(path) as file:
        ledger = file.open("north", "digest", **ample)
        spend(ledger, 3, "chest")
        spend(ledger, 1, "skin")
        ledger.charge(SelfComposedEvent(STEP, 4), study="chest", release_id="steps", purpose="local-steps")
        assert ledger.charged("chest") == {"training": 3, "local-steps": 4}
        with LedgerFile(path) as other:
            spend(other.open("north", "digest", **ample), 1, "chest", seeded=True)
        assert ledger.charged("chest") == {"training": 4, "local-steps": 4}
    with LedgerFile(path) as file:
        again = file.open("north", "digest", **ample)
        assert again.charged("chest") == {"training": 4, "local-steps": 4}
        assert again.charged("skin") == {"training": 1}
        assert again.charged("eyes") == {}


def test_a_resumed_run_finds_what_was_spent(path):
    for _ in range(2):
        with LedgerFile(path) as file:
            spend(file.open("north", "digest", **LIMIT), 2)
    with LedgerFile(path) as file:
        ledger = file.open("north", "digest", **LIMIT)
        assert [entry.attempt for entry in ledger.entries()] == [1, 1, 2, 2]
        assert ledger.remaining(STEP) == AFFORDABLE - 4


def test_a_release_without_protection_is_refused_unless_there_is_no_limit(ledger_file, ledger):
    with pytest.raises(BudgetExhausted):
        spend(ledger, 1, event=NonPrivateEvent())
    unlimited = ledger_file.open("open", "digest", epsilon_limit=math.inf, delta=1e-5)
    spend(unlimited, 2, event=NonPrivateEvent())
    assert unlimited.spent() == math.inf
    assert unlimited.entries()[1].epsilon_limit == math.inf
    unlimited.verify()


def test_a_seeded_release_is_paid_once_and_an_unseeded_one_every_time(ledger):
    options = {"study": "study", "release_id": "round-1", "purpose": "training"}
    first = ledger.charge(STEP, seeded=True, **options)
    assert ledger.charge(STEP, seeded=True, **options) == first
    assert ledger.charge(GaussianEvent(50.0), seeded=True, **options).attempt == 2
    assert ledger.charge(STEP, seeded=False, **options).attempt == 3
    assert ledger.charge(STEP, seeded=True, **options).attempt == 4  # the last one was another draw of noise
    assert ledger.charge(STEP, seeded=True, study="other", release_id="round-1", purpose="training").attempt == 1


def test_a_round_that_fails_charges_nobody(ledger_file, ledger):
    south = ledger_file.open("south", "digest", **LIMIT)
    spend(ledger, 1, study="before")
    head = ledger.head()

    def failing_round() -> None:
        with ledger_file.transaction():
            spend(ledger, 2)
            spend(south, 2)
            raise RuntimeError("a hospital did not answer")

    with pytest.raises(RuntimeError):
        failing_round()
    assert (len(ledger.entries()), len(south.entries())) == (1, 0)
    assert ledger.head() == head
    spend(ledger, 1)
    ledger.verify(head)


def test_a_refusal_inside_a_round_leaves_the_others_their_charges(ledger_file, ledger):
    south = ledger_file.open("south", "digest", **LIMIT)
    spend(south, AFFORDABLE)
    with ledger_file.transaction():
        spend(ledger, 1)
        with pytest.raises(BudgetExhausted):
            spend(south, 1, study="other")
    assert len(ledger.entries()) == 1


def test_another_data_set_never_starts_a_fresh_budget_silently(ledger_file, ledger):
    spend(ledger, 1)
    with pytest.raises(LedgerError, match="new_dataset"):
        ledger_file.open("north", "other digest", **LIMIT)
    other = ledger_file.open("north", "other digest", new_dataset=True, **LIMIT)
    spend(other, 1)
    assert len(ledger.entries()) == len(ledger_file.open("north", "digest", **LIMIT).entries()) == 1


def test_a_ledger_keeps_its_unit(ledger_file, ledger):
    spend(ledger, 1)
    with pytest.raises(LedgerError, match="unit"):
        ledger_file.open("north", "digest", unit=PrivacyUnit.PICTURE, **LIMIT)


@pytest.mark.parametrize(
    "promise",
    [
        {"epsilon_limit": 0.0, "delta": 1e-5},
        {"epsilon_limit": 1.0, "delta": 0.0},
    ],
)
def test_a_ledger_refuses_a_promise_that_is_none(ledger_file, promise):
    with pytest.raises(PrivacyError, match=r"must .* got"):
        ledger_file.open("north", "digest", **promise)


def test_entries_hold_nothing_but_words_and_numbers(path, ledger):
    spend(ledger, 1)
    connection = sqlite3.connect(path)
    [(body,)] = connection.execute("SELECT body FROM entries").fetchall()
    connection.close()
    assert set(json.loads(body)) == {
        "hospital", "dataset_digest", "sequence", "study", "release_id", "attempt", "purpose", "event", "seeded",
        "unit", "relation", "epsilon_limit", "delta", "accountant", "created_utc", "version", "previous",
    }  # fmt: skip
    assert os.listdir(path.parent) == [path.name]


def test_a_ledger_says_how_far_it_is_and_what_its_head_was_then(ledger_file, ledger):
    other = ledger_file.open("south", "digest", **LIMIT)
    assert ledger.position() == (0, GENESIS)
    heads = [GENESIS]
    for _ in range(3):
        spend(ledger, 1)
        spend(other, 1)
        heads.append(ledger.head())
    assert ledger.position() == (3, heads[3])
    assert [ledger.head_after(entries) for entries in range(5)] == [*heads, None]
    assert other.head_after(2) not in heads
