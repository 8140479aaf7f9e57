"""Ledgers that were put back: what the others see, what the hospital is told, and what is no reason for an alarm."""

import json
import shutil
from dataclasses import replace

import pytest
from tests.cases import family
from tests.charges import another_run, charge_another_run
from tests.hospital.masked_rounds import MaskedFederation, ends_the_run, masked_plan

from wardround.errors import LedgerError, RecordError
from wardround.federation.messages import Failure, FailureCode, Stage
from wardround.hospital.kept.notes import Notes
from wardround.hospital.masked import MaskedRounds
from wardround.ledger.entry import GENESIS
from wardround.ledger.file import LedgerFile
from wardround.secure_aggregation.round.transcript import NO_ENTRY

VICTIM = "hospital-3"


class Backups:
    """A federation of five whose third hospital can be put back to what its disk once held."""

    def __init__(self, make_federation, folder, seed):
        plan = masked_plan()
        self.federation = make_federation(hospitals=5, plan=plan, seed=seed)
        self.folder, self.opened = folder, []
        (folder / "notes").mkdir()
        self.masked = MaskedFederation(self.federation, folder / "notes")

    def save(self):
        """A copy of the third hospital's ledger and notes."""
        copy = self.folder / f"backup {len(list(self.folder.glob('backup *')))}"
        copy.mkdir()
        shutil.copy(self.federation.ledgers[VICTIM].path, copy / "ledger.sqlite")
        notes = self.folder / "notes" / f"{VICTIM}.json"
        if notes.exists():
            shutil.copy(notes, copy / "notes.json")
        return copy

    def save_after_the_first_of_three(self):
        """A copy of before two of three rounds."""
        self.masked.ask(1)
        copy = self.save()
        for round in (2, 3):
            self.masked.ask(round)
        return copy

    def restore(self, copy, *, other_lines=0, notes=True):
        """Puts the third hospital back; the others go on as they are."""
        file = LedgerFile(copy / "ledger.sqlite")
        self.opened.append(file)
        agent = self.federation.agents[VICTIM]
        account = self.federation.account_in(file, VICTIM)
        for number in range(other_lines):
            another_run(file, VICTIM) if number == 0 else charge_elsewhere(file, number)
        own, party = copy / "notes.json", self.masked.parties[VICTIM]
        if not notes:
            own = self.folder / "notes" / f"{VICTIM}.json"
        agreement = self.masked.agreement
        self.masked.parties[VICTIM] = MaskedRounds(
            replace(agent, account=account), party._identity, party._rule.pins, agreement, own
        )

    def restart_all(self):
        self.masked = MaskedFederation(self.federation, self.folder / "notes")

    def others_are_untouched(self):
        return {self.masked.charges(name) for name in self.masked.channel.hospitals if name != VICTIM}


def charge_elsewhere(ledger, number):
    """One more charge of another run with the same patients; the first also adds the line that it began with."""
    charge_another_run(ledger, VICTIM, release=f"{number}")


@pytest.fixture
def make_backups(make_federation, tmp_path):
    made = []

    def make(seed=None):
        made.append(Backups(make_federation, tmp_path, seed))
        return made[-1]

    yield make
    for one in made:
        for file in one.opened:
            file.close()


SEEDS = pytest.mark.parametrize("seed", family([None, 5]), ids=["in earnest", "seeded"])


@SEEDS
@pytest.mark.parametrize("restarted", [False, True])
def test_a_ledger_and_notes_put_back_to_an_earlier_copy_are_noticed_by_the_others(
    make_backups, seed, restarted, caplog
):
    backups = make_backups(seed)
    copy = backups.save_after_the_first_of_three()
    if restarted:
        backups.restart_all()
    uploads = len(backups.masked.uploads)
    backups.restore(copy)
    least = 4 if seed is None and not restarted else 3  # what was opened last is remembered in earnest, in memory
    with ends_the_run(caplog, f"of {VICTIM} must reach charge {least}, as it did before, and ends at 2"):
        backups.masked.ask(4)
    assert len(backups.masked.uploads) == uploads
    assert backups.others_are_untouched() == {3}, "it is noticed before anybody is charged"


@SEEDS
def test_as_many_charges_and_other_ones_are_noticed(make_backups, seed, caplog):
    backups = make_backups(seed)
    copy = backups.save_after_the_first_of_three()
    backups.restart_all()
    backups.restore(copy, other_lines=1)
    with ends_the_run(caplog, f"of {VICTIM} must have charge 3 as it was seen before, and has another"):
        backups.masked.ask(4)


@SEEDS
@pytest.mark.parametrize("charges", [2, 9])
def test_a_ledger_put_back_and_grown_again_is_noticed_by_its_own_hospital(make_backups, seed, charges, caplog):
    backups = make_backups(seed)
    copy = backups.save_after_the_first_of_three()
    backups.restore(copy, other_lines=charges)
    with ends_the_run(caplog, f"of {VICTIM} must contain charge 3 as hospital-1 saw it, and does not"):
        backups.masked.ask(4)
    assert backups.others_are_untouched() == {3}


def test_the_charge_of_a_round_that_was_opened_must_be_there(make_backups, caplog):
    backups = make_backups()
    for round in (1, 2):
        backups.masked.ask(round)
    copy = backups.save()
    backups.masked.ask(3)  # announced with three entries, and opened: so there are four
    backups.restore(copy)
    with ends_the_run(caplog, f"of {VICTIM} must reach charge 4, as it did before, and ends at 3"):
        backups.masked.ask(4)


def test_a_charge_that_could_not_be_made_is_no_reason_for_an_alarm(make_backups):
    backups = make_backups()
    backups.masked.ask(1)
    first = backups.masked.parties["hospital-1"]
    silent = backups.masked.parties[VICTIM].admit
    setattr(  # noqa: B010  # mypy knows methods
        backups.masked.parties[VICTIM], "admit", lambda _: Failure(FailureCode.LEDGER, Stage.ADMISSION)
    )
    backups.masked.ask(2)
    known = first.notes.peers[VICTIM]  # as announced with its first charge; the second is not counted on
    assert (known.mark.entries, known.is_charged) == (2, False)
    setattr(backups.masked.parties[VICTIM], "admit", silent)  # noqa: B010
    assert backups.masked.ask(3).failures == {}


def test_its_own_notes_find_it_first(make_backups):
    backups = make_backups()
    backups.masked.ask(1)
    copy = backups.save()
    backups.masked.ask(2)
    with pytest.raises(LedgerError, match="older copy"):
        backups.restore(copy, notes=False)


@SEEDS
def test_other_runs_of_a_hospital_are_no_reason_for_an_alarm(make_backups, seed):
    backups = make_backups(seed)
    for round in (1, 2, 3):
        for number in range(3):
            charge_elsewhere(backups.federation.ledgers[VICTIM], f"{round}/{number}")
        assert backups.masked.ask(round).failures == {}
    assert backups.masked.parties["hospital-1"].notes.peers[VICTIM].mark.entries == 2 + 3 + 2 + 6


@pytest.mark.thorough
@SEEDS
def test_rounds_repeated_from_an_older_checkpoint_are_no_reason_for_an_alarm(make_backups, seed):
    backups = make_backups(seed)
    for round in (1, 2, 3, 4):
        backups.masked.ask(round)
    for restart in (False, True):
        if restart:
            backups.restart_all()
        for round in (2, 3, 4):
            assert backups.masked.ask(round).failures == {}
    assert backups.masked.charges(VICTIM) == (10 if seed is None else 4)


@SEEDS
def test_a_hospital_that_was_away_for_some_rounds_is_told_of_what_it_missed_to_see(make_backups, seed):
    backups = make_backups(seed)
    backups.masked.ask(1)
    away = backups.masked.parties.pop("hospital-1")
    for round in (2, 3):
        requests = dict.fromkeys(backups.masked.parties, backups.masked.request(round))
        assert backups.masked.aggregator.collect(backups.masked.channel, requests, 60.0).failures == {}
    backups.masked.parties["hospital-1"] = away
    assert backups.masked.ask(4).failures == {}
    assert away.notes.peers[VICTIM].mark.entries == 4


def test_what_is_remembered_is_on_disk_before_the_upload_leaves(make_backups):
    backups = make_backups()
    for round in (1, 2):
        backups.masked.ask(round)
    for party in backups.masked.parties.values():
        on_disk = Notes.read(party._path)
        assert {name: known.mark.entries for name, known in on_disk.peers.items()} == {
            name: 2 for name in backups.masked.channel.hospitals if name != party._identity.hospital
        }
        assert not any(known.is_charged for known in on_disk.peers.values())
        assert all(known.is_charged for known in party.notes.peers.values())


def test_notes_come_back_as_they_were_written(make_backups, tmp_path):
    backups = make_backups()
    backups.masked.ask(1)
    notes = backups.masked.parties[VICTIM].notes
    notes.write(tmp_path / "again.json")
    assert Notes.read(tmp_path / "again.json") == notes


@pytest.mark.parametrize(
    "change",
    family(
        [
            lambda notes: notes.pop("format"),  # as an earlier version wrote them
            lambda notes: notes.update(format=3),
            lambda notes: notes.pop("peers"),
            lambda notes: notes.update(charged=["hospital-1"]),
            lambda notes: notes.update(peers=["hospital-1"]),
            lambda notes: notes["peers"]["hospital-1"].update(entries=1.5),
            lambda notes: notes["peers"]["hospital-1"].update(entries=0),
            lambda notes: notes["peers"]["hospital-1"].update(head="x"),
            lambda notes: notes["peers"]["hospital-1"].update(is_charged=1),
            lambda notes: notes["peers"]["hospital-1"].pop("head"),
        ]
    ),
)
def test_notes_of_another_version_or_damaged_are_a_sentence_and_not_forgotten(make_backups, change):
    backups = make_backups()
    for round in (1, 2):
        backups.masked.ask(round)
    path = backups.folder / "notes" / f"{VICTIM}.json"
    notes = json.loads(path.read_text())
    change(notes)
    path.write_text(json.dumps(notes))
    with pytest.raises(RecordError, match="start a new run"):
        Notes.read(path)


def test_an_empty_ledger_has_no_head_in_either_room():
    assert NO_ENTRY == GENESIS
