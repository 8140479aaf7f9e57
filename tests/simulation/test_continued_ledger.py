"""A run goes on with the ledger that has its charges and no other, and of two copies of a run one goes on."""

import shutil
import sqlite3
from contextlib import closing

import pytest
from tests.cases import family
from tests.charges import charges_in
from tests.errors import raises_code
from tests.simulation.runs import InterruptingRound, files, resume_run, run_study, stopped

from wardround.errors import FederationError, LedgerError, RecordError
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_ledger
from wardround.simulation.accounts import Accounts

# The ledger of a resumed run -----------------------------------------------------------------------------


def gone(ledger, _):
    ledger.unlink()


def older(ledger, copy):
    """The file alone: its mark tells."""
    shutil.copy(copy / ledger.name, ledger)


def older_with_its_mark(ledger, copy):
    """Both: the run's own record tells."""
    older(ledger, copy)
    shutil.copy(copy / f"{ledger.name}.mark", ledger.with_name(f"{ledger.name}.mark"))


def another(ledger, copy):
    ledger.unlink()
    ledger.with_name(f"{ledger.name}.mark").unlink()
    LedgerFile(ledger).close()


def shorter(ledger, _):
    ledger.with_name(f"{ledger.name}.mark").unlink()
    with closing(sqlite3.connect(ledger)) as file:
        file.execute("DROP TRIGGER entries_never_deleted")
        file.execute("DELETE FROM entries WHERE sequence = (SELECT MAX(sequence) FROM entries)")
        file.commit()


@pytest.mark.parametrize(
    ("damage", "kind", "code"),
    family(
        [
            (
                older_with_its_mark,
                LedgerError,
                "ledger-older",
            ),  # what the ledger finds by itself has tests of its own
            (gone, RecordError, "record-ledger-gone"),
            (older, LedgerError, "ledger-older"),
            (another, LedgerError, "ledger-older"),
            (shorter, LedgerError, "ledger-removed"),
        ],
        keep=[
            (older_with_its_mark, LedgerError, "ledger-older"),
            (gone, RecordError, "record-ledger-gone"),
        ],
    ),
)
def test_a_run_does_not_go_on_with_a_ledger_that_lost_its_charges(study_of, tmp_path, damage, kind, code):
    ledger, copy = own_ledger(), tmp_path / "copy"
    run_study(study_of(study={"name": "before"}), tmp_path / "before")
    shutil.copytree(ledger.parent, copy)
    stopped(study_of(), tmp_path / "run")
    damage(ledger, copy)
    before = files(tmp_path / "run")
    with raises_code(kind, code):
        resume_run(tmp_path / "run")
    assert files(tmp_path / "run") == before


def test_a_run_goes_on_with_its_ledger_wherever_that_of_today_is(study_of, tmp_path, monkeypatch):
    stopped(study_of(), tmp_path / "run")
    ledger = own_ledger()
    charged = {name: len(charges) for name, charges in charges_in(ledger).items()}
    (tmp_path / "elsewhere" / "wardround").mkdir(parents=True)
    shutil.copy(ledger.with_name("record-key.pem"), tmp_path / "elsewhere" / "wardround")  # the same person
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    resume_run(tmp_path / "run")
    assert not own_ledger().exists()
    for name, charges in charges_in(ledger).items():
        assert len(charges) == charged[name] + (name in charged)


# Copies of a run folder ----------------------------------------------------------------------------------


def test_two_continuations_of_one_copied_run_both_charge(study_of, tmp_path):
    """Rounds 1 to 3 were made once; each copy makes rounds 3 and 4 with noise of its own, charged to one account."""
    stopped(study_of(privacy={"epsilon_limit": 20.0}), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    once = {name: len(charges) for name, charges in charges_in(own_ledger()).items()}
    with pytest.raises(KeyboardInterrupt):
        resume_run(tmp_path / "run", InterruptingRound(4))
    certificate = resume_run(tmp_path / "copy").certificate
    charged = {name: len(charges) for name, charges in charges_in(own_ledger()).items()}
    assert charged == {hospital: count + 4 for hospital, count in once.items()}
    assert certificate["rounds"] == 4
    spent = [ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()]
    assert certificate["statement"]["epsilon"] == pytest.approx(max(spent))
    assert max(spent) > 3.0, "both copies' releases are in the certificate"
    with raises_code(LedgerError, "ledger-ended"):
        resume_run(tmp_path / "run")


def test_a_copy_of_a_run_that_has_ended_does_not_go_on(study_of, tmp_path):
    """Its rounds would be charged beyond the certificate of the first, under a cap of their own."""
    stopped(study_of(), tmp_path / "run", round=2)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    certificate = resume_run(tmp_path / "run").certificate
    before, charged = files(tmp_path / "copy"), charges_in(own_ledger())
    with raises_code(LedgerError, "ledger-ended"):
        resume_run(tmp_path / "copy")
    assert files(tmp_path / "copy") == before
    assert charges_in(own_ledger()) == charged
    spent = [ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()]
    assert certificate["statement"]["epsilon"] == pytest.approx(max(spent))


def test_a_run_killed_between_its_end_and_its_certificate_is_written_down(study_of, tmp_path, monkeypatch):
    note = Accounts.note

    def killed(accounts, folder, materials=None):
        if materials is not None:
            raise KeyboardInterrupt
        note(accounts, folder)

    with monkeypatch.context() as patched:
        patched.setattr(Accounts, "note", killed)
        with pytest.raises(KeyboardInterrupt):
            run_study(study_of(), tmp_path / "run")
    charged = charges_in(own_ledger())
    certificate = resume_run(tmp_path / "run").certificate
    assert charges_in(own_ledger()) == charged
    for ledger in certificate["ledgers"].values():
        assert ledger["epsilon_spent"] == pytest.approx(certificate["statement"]["epsilon"])


@pytest.mark.parametrize("first", ["stopped again", "ended"])
def test_of_two_continuations_of_correlated_rounds_the_second_is_refused(study_of, tmp_path, first):
    """The run was charged once, for one series of noise: a second one would show what the first hides."""
    correlated = {"plan": "correlated-noise", "cohorts": 2}
    stopped(study_of(privacy=correlated), tmp_path / "run", round=2)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    if first == "ended":
        resume_run(tmp_path / "run")
    else:
        with pytest.raises(KeyboardInterrupt):
            resume_run(tmp_path / "run", InterruptingRound(4))
    charged = charges_in(own_ledger())
    if first == "ended":
        with raises_code(LedgerError, "ledger-ended"):
            resume_run(tmp_path / "copy")
    else:
        with raises_code(FederationError, "federation"):
            resume_run(tmp_path / "copy")
        assert "has another one: a copy" in (tmp_path / "copy" / "hospitals.log").read_text()
    added = {
        charge.release
        for name, charges in charges_in(own_ledger()).items() for charge in charges[len(charged[name]) :]
    }  # fmt: skip
    assert added <= {"2/gradient-sum/1"}, "the answer of round 2 is sent again; of round 3 no line is written"
