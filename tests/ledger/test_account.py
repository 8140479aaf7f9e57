"""Check, then spend: one hospital's account in one run, and what it leaves to other studies."""

import json
import math
import os
import sqlite3
import threading
from contextlib import closing, suppress
from typing import Any

import pytest
from tests.charges import charges_of
from tests.errors import raises_code
from tests.ledger.spending import AFFORDABLE, CAP, DELTA, STEP, THREE, begin, spend, steps

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.calibration import affordable_count
from wardround.accounting.events import (
    GaussianEvent,
    NoEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from wardround.errors import BudgetExhausted, LedgerError, PrivacyError
from wardround.ledger import account
from wardround.ledger.entry import GENESIS, Begun, entry_of
from wardround.ledger.file import LedgerFile

# One run -------------------------------------------------------------------------------------------------


def test_a_charge_says_what_was_about_to_happen_and_in_which_run(ledger):
    run = begin(ledger)
    run.charge(STEP, release="round-1", purpose="training")
    [entry] = charges_of(run)
    assert (entry.event, entry.release, entry.attempt, entry.purpose) == (STEP, "round-1", 1, "training")
    assert entry.at.endswith("+00:00")
    [begun] = [entry for entry in ledger.entries() if isinstance(entry, Begun)]
    assert (begun.run, begun.hospital, begun.version) == ("run", "north", "0.1.0")
    assert (begun.unit, begun.relation, begun.accountant) == ("patient", "add-or-remove-one", "pld")
    assert (begun.epsilon, begun.delta, begun.offered) == (CAP, DELTA, begun.cohort)
    assert run.spent() == epsilon_of(STEP, DELTA)
    assert run.position() == ledger.position()


@pytest.mark.parametrize("planned", [1, 3, AFFORDABLE, 10 * AFFORDABLE])
def test_exactly_as_many_releases_as_fit_are_allowed_whatever_was_planned(ledger, planned):
    run = begin(ledger)
    assert AFFORDABLE > 4
    spend(run, AFFORDABLE, planned=planned)
    before = ledger.entries()
    with pytest.raises(BudgetExhausted, match="Nothing was released"):
        run.charge(STEP, release="one-too-many", purpose="training", planned=planned)
    assert ledger.entries() == before
    assert run.spent() <= CAP < epsilon_of(steps(AFFORDABLE + 1), DELTA)
    ledger.verify()


def test_a_cheaper_release_is_still_allowed_after_a_refusal(ledger):
    run = begin(ledger)
    spend(run, AFFORDABLE)
    with pytest.raises(BudgetExhausted):
        spend(run, 1, first=AFFORDABLE)
    run.charge(GaussianEvent(500.0), release="small", purpose="count")
    assert len(charges_of(run)) == AFFORDABLE + 1


@pytest.mark.thorough
@pytest.mark.parametrize("accountant", list(AccountantKind))
def test_the_cap_holds_for_sampled_events_by_every_bound(ledger, accountant):
    step = PoissonSampledEvent(0.1, GaussianEvent(2.0))
    run = begin(ledger, epsilon=1.5, accountant=accountant, foreseen=steps(1000, step))
    with pytest.raises(BudgetExhausted):
        spend(run, 1_000, event=step, planned=1_000)
    count = len(charges_of(run))
    assert count == affordable_count(None, step, 1.5, DELTA, accountant=accountant, at_most=1_000_000)
    assert 0 < count < 1_000


def test_one_evaluation_certifies_all_the_planned_releases(ledger, monkeypatch):
    asked = []

    def counted(*arguments):
        asked.append(arguments)
        return epsilon_of(*arguments)

    run = begin(ledger)
    monkeypatch.setattr(account, "epsilon_of", counted)
    spend(run, AFFORDABLE, planned=AFFORDABLE)
    assert len(asked) == 1


def test_a_certificate_does_not_outlive_what_another_process_charged(path, ledger):
    run = begin(ledger)
    spend(run, 1, planned=AFFORDABLE)
    with LedgerFile(path) as elsewhere:
        spend(begin(elsewhere), AFFORDABLE - 1, first=1)
    with pytest.raises(BudgetExhausted):
        spend(run, 1, first=AFFORDABLE, planned=AFFORDABLE)
    assert len(charges_of(run)) == AFFORDABLE


def test_charges_are_counted_by_purpose_and_found_again(path):
    ample: dict[str, Any] = {"epsilon": 9.0}
    with LedgerFile(path) as file:
        run = begin(file, **ample)
        spend(run, 3)
        spend(begin(file, "skin", **ample), 1)
        run.charge(SelfComposedEvent(STEP, 4), release="steps", purpose="local-steps")
        run.charge(NoEvent(), release="nothing", purpose="training")
        with LedgerFile(path) as other:
            spend(begin(other, **ample), 1, first=3)
        assert run.charged() == {"training": 4, "local-steps": 4}
    with LedgerFile(path) as file:
        again = begin(file, **ample)
        assert again.charged() == {"training": 4, "local-steps": 4}
        assert (again.charges("training"), again.charges("local-steps")) == (5, 1)
        assert again.released() == ("round-0", "round-1", "round-2", "steps", "round-3")
        assert begin(file, "eyes", **ample).charged() == {}


def test_a_resumed_run_finds_what_was_spent(path):
    for _ in range(2):
        with LedgerFile(path) as file:
            spend(begin(file), 2)
    with LedgerFile(path) as file:
        run = begin(file)
        assert [entry.attempt for entry in charges_of(run)] == [1, 1, 2, 2]
        assert run.spent() == epsilon_of(steps(4), DELTA)


def test_a_release_without_protection_is_refused_unless_there_is_no_cap(ledger):
    with pytest.raises(BudgetExhausted):
        spend(begin(ledger), 1, event=NonPrivateEvent())
    free = begin(ledger, "free", epsilon=math.inf, foreseen=NonPrivateEvent())
    spend(free, 2, event=NonPrivateEvent())
    assert free.spent() == math.inf
    ledger.verify()


def test_a_seeded_release_is_paid_once_and_an_unseeded_one_every_time(ledger):
    def attempts(run, *events):
        for event in events:
            run.charge(event, release="round-1", purpose="training")
        return [(entry.attempt, entry.event) for entry in charges_of(run)]

    other = GaussianEvent(50.0)
    assert attempts(begin(ledger, "seeded", seeded=True), STEP, STEP, other, STEP) == [
        (1, STEP), (2, other), (3, STEP),  # after another draw of noise it is paid again
    ]  # fmt: skip
    assert attempts(begin(ledger, "earnest"), STEP, STEP) == [(1, STEP), (2, STEP)]


def test_a_round_that_fails_charges_nobody(ledger):
    north, south = begin(ledger), begin(ledger, hospital="south", persons=("dan",))
    spend(north, 1)
    _, head = ledger.position()

    def failing_round() -> None:
        with ledger.transaction():
            spend(north, 2, first=1)
            spend(south, 2)
            raise RuntimeError("a hospital did not answer")

    with pytest.raises(RuntimeError):
        failing_round()
    assert (len(charges_of(north)), len(charges_of(south))) == (1, 0)
    assert ledger.position()[1] == head
    assert ledger.epsilon_of("ada", DELTA) == epsilon_of(STEP, DELTA)
    spend(north, 1, first=1)
    ledger.verify(head)


def test_a_thread_joins_no_transaction_of_another(ledger):
    """One that comes while another has a transaction open waits for its end, and loses only its own lines."""
    first, second = begin(ledger, "first"), begin(ledger, "second")
    has_begun, started = threading.Event(), threading.Event()

    def failing():
        has_begun.wait()
        started.set()
        with suppress(KeyError), ledger.transaction():
            second.charge(STEP, release="round-1", purpose="training")
            raise KeyError

    thread = threading.Thread(target=failing)
    thread.start()
    with ledger.transaction():
        first.charge(STEP, release="round-1", purpose="training")
        has_begun.set()
        started.wait()
        thread.join(0.05)
        first.charge(STEP, release="round-2", purpose="training")
    thread.join()
    assert [len(charges_of(run)) for run in (first, second)] == [2, 0]
    ledger.verify()


def test_a_failed_beginning_leaves_no_person_behind(ledger):
    def failing() -> None:
        with ledger.transaction():
            begin(ledger)
            raise RuntimeError("the folder is full")

    with pytest.raises(RuntimeError):
        failing()
    assert not ledger.is_known(THREE).any()
    assert not ledger.book().parts
    spend(begin(ledger), 1)
    ledger.verify()


def test_a_refusal_inside_a_round_leaves_the_others_their_charges(ledger):
    north, south = begin(ledger), begin(ledger, hospital="south", persons=("dan",))
    spend(south, AFFORDABLE)
    with ledger.transaction():
        spend(north, 1)
        with pytest.raises(BudgetExhausted):
            spend(south, 1, first=AFFORDABLE)
    assert len(charges_of(north)) == 1


def test_a_person_may_have_a_file_name_for_an_id_that_is_no_utf_8(ledger):
    names = ["M\udcfcller", "M\udcfdller", "Müller"]
    assert len({ledger.pseudonym(name) for name in names}) == 3
    spend(begin(ledger, persons=names), 1)
    assert all(ledger.is_known(names))


def test_a_person_is_once_in_a_hospital(ledger):
    with raises_code(LedgerError, "ledger-person-twice"):
        begin(ledger, persons=("ada", "ben", "ada"))
    assert ledger.entries() == []


@pytest.mark.parametrize("promise", [{"epsilon": 0.0}, {"delta": 0.0}, {"delta": 1.0}])
def test_a_run_refuses_a_promise_that_is_none(ledger, promise):
    with pytest.raises(PrivacyError, match=r"must .* got"):
        begin(ledger, **promise)


def test_lines_hold_words_and_numbers_and_no_ids(path, ledger):
    spend(begin(ledger, persons=("canary one", "canary two")), 1)
    with closing(sqlite3.connect(path)) as connection:
        bodies = [json.loads(body) for (body,) in connection.execute("SELECT body FROM entries ORDER BY sequence")]
    assert [set(body) for body in bodies] == [
        {
            "kind", "run", "study", "name", "hospital", "offered", "cohort", "foreseen", "epsilon", "delta",
            "accountant", "unit", "relation", "seeded", "version", "at",
        },
        {"kind", "begun", "release", "attempt", "purpose", "event", "at"},
    ]  # fmt: skip
    assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}.mark"]
    assert b"canary" not in path.read_bytes()


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"kind": ' + "[" * 200 + "]" * 200 + "}", "9" * 6000, '{"at": NaN}']
)
def test_a_line_beyond_the_bounds_of_a_document_is_refused(body):
    with raises_code(LedgerError, "ledger-line"):
        entry_of(body)


def test_a_ledger_says_how_far_it_is_and_what_its_head_was_then(ledger):
    assert ledger.position() == (0, GENESIS)
    run, heads = begin(ledger), [GENESIS]
    heads.append(ledger.position()[1])
    for number in range(3):
        spend(run, 1, first=number)
        heads.append(ledger.position()[1])
    assert ledger.position() == (4, heads[4])
    assert [run.head_after(entries) for entries in range(6)] == [*heads, None]


# Runs that end, and copies of them -----------------------------------------------------------------------


def test_a_run_that_has_ended_is_charged_nothing_more_under_any_name_of_its_hospital(ledger):
    run = begin(ledger)
    spend(run, 2)
    run.end()
    for again in (run, begin(ledger), begin(ledger, persons=("ada", "ben"))):
        assert again.begun == run.begun, "one account, and one cap"
        with raises_code(LedgerError, "ledger-ended"):
            spend(again, 1, first=2)
    assert len(charges_of(run)) == 2


def test_a_seeded_run_that_has_ended_repeats_its_releases_and_makes_no_other(ledger):
    run = begin(ledger, seeded=True)
    spend(run, 2)
    run.end()
    again = begin(ledger, seeded=True)
    spend(again, 2)
    with raises_code(LedgerError, "ledger-ended"):
        spend(again, 1, first=2)
    assert len(charges_of(again)) == 2


def test_a_seeded_run_that_ended_before_its_first_charge_begins_again(ledger):
    begin(ledger, seeded=True).end()
    again = begin(ledger, seeded=True)
    spend(again, 2)
    assert len(charges_of(again)) == 2


def test_persons_who_join_during_a_run_are_not_in_it_and_the_cap_stays_one(ledger):
    run = begin(ledger)
    spend(run, AFFORDABLE - 1)
    again = begin(ledger, persons=("dan", "cyd", "ada"))  # ben is gone
    assert again.begun == run.begun
    assert again.admitted.tolist() == [False, True, True]
    spend(again, 1, first=AFFORDABLE)
    with pytest.raises(BudgetExhausted):
        spend(again, 1, first=AFFORDABLE + 1)
    assert ledger.epsilon_of("dan", DELTA) == 0
    assert ledger.epsilon_of("ben", DELTA) == ledger.epsilon_of("ada", DELTA) > 0


def test_one_answer_is_written_down_and_another_refused_before_any_charge(ledger):
    run = begin(ledger)
    run.check_unanswered("round 1", None)
    run.answer_once("round 1", "aa")
    run.answer_once("round 1", "aa")
    run.check_unanswered("round 1", "aa")
    before = ledger.entries()
    for other in ("bb", None):
        with raises_code(LedgerError, "ledger-answered"):
            run.check_unanswered("round 1", other)
    with raises_code(LedgerError, "ledger-answered"):
        run.answer_once("round 1", "bb")
    assert ledger.entries() == before
