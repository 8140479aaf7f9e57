"""The ledger of a simulated run: the lasting one of the person who runs it, or a throw-away one in the run's folder.

    ledger.json    the run's name, its ledger, how far that was after the last round, the folder that it began in, and
                   digests of the pictures, of the division into hospitals, validation and test patients, and of the
                   test patients

Patients who cannot afford the study are left out before it begins, each by their own history alone. Generated patients
are nobody, and a rehearsal is charged to nobody's account: their ledger lies in the run's folder, and goes with it.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from wardround import __version__
from wardround.accounting.numbers import number_to_json
from wardround.boundary.machine import machine_faults
from wardround.boundary.text import counted
from wardround.config import Study
from wardround.errors import BudgetExhausted, LedgerError, RecordError
from wardround.hospital.charged import open_accounts as open_all
from wardround.hospital.charged import run_of
from wardround.images.group import digest_of
from wardround.images.patients import Patient
from wardround.ledger.account import Account
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_ledger
from wardround.ledger.spending import spending_of
from wardround.privacy.plans.plan import Plan
from wardround.records.folder import RunFolder
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_json
from wardround.simulation.materials import Materials
from wardround.simulation.references import POOLED
from wardround.training.patients import training_patients
from wardround.types import HospitalName

_KEEPS, _KEEP = "run that did not end keeps", "runs that did not end keep"
_GIVE_UP = "go on with wardround resume, give a run up with wardround ledger end, or "
FILE = "ledger.json"
IN_FOLDER = "ledger.sqlite"


class Standing(StrEnum):
    """The part that a run has in anybody's account."""

    LASTING = "lasting"
    """Charged to the patients' accounts, in a ledger that outlives the run."""
    REHEARSAL = "rehearsal"
    """Charged to a ledger that goes with the run."""
    GENERATED = "generated"
    """Charged to generated patients, who are nobody; their ledger goes with the run."""

    @property
    def stamp(self) -> str:
        """The words that follow a line which is quoted alone; empty where there is nothing to add."""
        return " [rehearsal: charged to no account]" if self is Standing.REHEARSAL else ""


@dataclass(frozen=True)
class Accounts:
    """The accounts of a run's hospitals.

    Attributes:
        ledger: all of them are in.
        run: its name there.
        of: by hospital.
        standing: whose accounts these are.
        digests: of the pictures and the places of patients, by their names in `ledger.json`. Known data could be held
            against them, so they are in no file that is shared.
        home: the folder that it began in, as `_home_of` has it; empty where an earlier version began it.
    """

    ledger: LedgerFile
    run: str
    of: Mapping[HospitalName, Account]
    standing: Standing
    digests: Mapping[str, str]
    home: str = ""

    @property
    def is_lasting(self) -> bool:
        """True if the ledger outlives the run."""
        return self.standing is Standing.LASTING

    def note(self, folder: RunFolder, materials: Materials | None = None) -> None:
        """Writes down how far the ledger is: a resumed run finds one that was put back, or is gone.

        With `materials`, also what all studies together have cost these patients, for the person who simulates.
        """
        entries, head = self.ledger.position()
        ledger = str(self.ledger.path.resolve()) if self.is_lasting else None
        total = {} if materials is None else {"total": total_of(self, materials)}
        known = {
            "run": self.run,
            "standing": self.standing.value,
            "ledger": ledger,
            "home": self.home,
            "entries": entries,
            "head": head,
        }
        if folder.signer is not None:
            folder.signer.note_ledger(head)
        folder.write_json(FILE, known | dict(self.digests) | total)

    def check_continues(self, done: int, rounds: int) -> None:
        """Refuses to go on with a run that has ended, unless `done` of its `rounds` are all: it is written down then.

        Raises:
            LedgerError: a copy of the run ended elsewhere.
        """
        ended = [name for name, account in self.of.items() if account.is_ended and not account.is_seeded]
        if ended and done < rounds:
            raise LedgerError(
                f"A run that has ended cannot go on, and ledger {self.ledger.path} says that this one did: a copy of "
                f"it ended elsewhere, and this folder is at round {done} of {rounds}. Use that copy, or start a new "
                "run.",
                code="ledger-ended",
            )

    def end(self) -> None:
        """Ends the run for every hospital: what was foreseen and not charged is free again."""
        with self.ledger.transaction():
            for account in self.of.values():
                account.end()


@dataclass(frozen=True)
class _Replaced:
    """An unfinished run that a new one takes the place of, and the place of its ledger."""

    run: str
    place: Path

    @classmethod
    def of(cls, out: Path) -> "_Replaced | None":
        """Returns the run in a folder; None where it holds none, or a damaged one, or the copy of one.

        A copy and its original are one run in a lasting ledger, where the original may go on.
        """
        try:
            noted = JsonObject(read_json(out / FILE), FILE)
            if noted.values.get("ledger") is None:
                return cls(noted.text("run"), out / IN_FOLDER)  # which was copied with it
            if noted.values.get("home") != _home_of(out):
                return None
            return cls(noted.text("run"), Path(noted.text("ledger")))
        except RecordError:
            return None

    def ledger_unless(self, path: Path) -> LedgerFile | None:
        """Returns the run's ledger, open; None where it is the one at `path`, or is not there."""
        if self.place.resolve() == path.resolve() or not self.place.exists():
            return None
        return LedgerFile(self.place, version=__version__)

    def give_up(self, ledger: LedgerFile) -> None:
        """Ends the run, if it is in this ledger, as `wardround ledger end` does: what it was charged stays charged.

        A seeded run keeps its account. It is known by its study and `_origin_of`, and goes on in any folder.
        """
        lines = [
            line
            for line, part in ledger.book().parts.items()
            if part.begun.run == self.run and not (part.begun.seeded or part.is_ended)
        ]
        if lines:
            ledger.end(lines[0])


def _home_of(folder: Path) -> str:
    """Returns the file system's own number of a folder, which stays when it is moved and which no copy has."""
    with machine_faults(folder):
        found = folder.stat()
    return f"{found.st_dev}:{found.st_ino}"


@contextmanager
def begun(
    study: Study, plan: Plan, materials: Materials, out: Path, *, fresh: bool, rehearsal: bool
) -> Iterator[tuple[RunFolder, Accounts]]:
    """Makes the folder of a new run and opens its hospitals' accounts; the folder is free again at the end.

    An unfinished run that it replaces is given up in the same write to their ledger: the new one has what was kept
    for it, or is refused and leaves it as it was. In another ledger, as that of a charged run under a rehearsal, it is
    given up as soon as its files are gone. The copy of a run gives up nothing of the run.

    Raises:
        BudgetExhausted: nobody can afford the study; the folder was not touched.
        LedgerError: the ledger is damaged, busy, or cannot be written.
        RecordError: the folder holds something else.
    """
    run = run_of(study, _origin_of(materials), secrets.token_hex(16))
    replaced = _Replaced.of(out)  # without `fresh` one that was stopped before its study file was there
    goes_with_run = rehearsal or (study.privacy.ledger is None and study.site.layout == "phantom")
    path = out / IN_FOLDER if goes_with_run else study.privacy.ledger or own_ledger()
    with ExitStack() as stack:
        elsewhere = None if replaced is None else replaced.ledger_unless(path)
        if elsewhere is not None:
            stack.enter_context(elsewhere)
        if goes_with_run:
            if path.exists():
                LedgerFile(path).close()  # one that cannot be used is refused before a file is removed
            folder = RunFolder.create(out, fresh=fresh)
            stack.callback(folder.close)
            ledger = stack.enter_context(LedgerFile(path, version=__version__))
            standing = Standing.REHEARSAL if rehearsal else Standing.GENERATED
            if replaced is not None:
                replaced.give_up(ledger)
            accounts = open_accounts(study, plan, materials, ledger, run, standing)
        else:
            ledger = stack.enter_context(LedgerFile(path, version=__version__))
            with ledger.transaction():
                if replaced is not None:
                    replaced.give_up(ledger)
                accounts = open_accounts(study, plan, materials, ledger, run, Standing.LASTING)
                folder = RunFolder.create(out, fresh=fresh)  # which no other process writes
                stack.callback(folder.close)
            aside = [patient.id for patient in (*materials.split.test, *materials.split.validation)]
            ledger.unprotected(run=run, study=study.digest, persons=aside, purpose="metrics")
        if replaced is not None and elsewhere is not None:
            replaced.give_up(elsewhere)
            elsewhere.close()
        accounts = replace(accounts, home=_home_of(folder.path))
        accounts.note(folder)
        yield folder, accounts


@contextmanager
def resumed(study: Study, plan: Plan, materials: Materials, path: Path) -> Iterator[Accounts]:
    """Opens the accounts that a run was charged to.

    Raises:
        LedgerError: the ledger is an older copy than the run knows, or damaged.
        RecordError: the ledger is gone, the folder does not say which it was, the pictures have changed, or an earlier
            version began the run.
    """
    noted = JsonObject(read_json(path / FILE), FILE)
    if "places" not in noted.values:
        raise RecordError(
            f"A run goes on with the places that its patients were dealt to, and that in {path}, begun by an earlier "
            "version, has not noted them. Start it anew: wardround run --fresh.",
            code="record-earlier",
        )
    for name, now in _digests_of(materials).items():
        if noted.text(name) != now:
            raise RecordError(
                f"The data set must be what the run in {path} began with, its sites and published parts included, and "
                "has changed; restore it, or start a new run.",
                code="record-dataset",
            )
    try:
        standing = Standing(noted.text("standing"))
    except ValueError:
        raise RecordError(f"{FILE} must say whose accounts a run is charged to; restore it from a copy.") from None
    place = Path(noted.text("ledger")) if standing is Standing.LASTING else path / IN_FOLDER
    if not place.exists():
        raise RecordError(
            f"A run goes on with the ledger that it was charged to, and {place} is gone; restore it from a copy, or "
            "start a new run.",
            code="record-ledger-gone",
        )
    with LedgerFile(place, version=__version__) as ledger:
        ledger.verify(noted.text("head"))
        accounts = open_accounts(study, plan, materials, ledger, noted.text("run"), standing)
        yield replace(accounts, home=str(noted.values.get("home") or ""))


def open_accounts(
    study: Study, plan: Plan, materials: Materials, ledger: LedgerFile, run: str, standing: Standing
) -> Accounts:
    """Returns the accounts of a run's hospitals; the same ones where it is resumed.

    Raises:
        BudgetExhausted: nobody can afford the study.
        LedgerError: the ledger is damaged, busy, or cannot be written.
    """
    places = dealt(study, materials)
    persons = {name: [patient.id for patient in patients] for name, patients in places.items()}
    accounts = open_all(ledger, study, plan, persons, run)
    if any(places.values()) and not any(account.admitted.any() for account in accounts.values()):
        limit = ledger.limit
        assert limit is not None, "a ledger without a limit leaves nobody out"
        everybody = [patient.id for patients in places.values() for patient in patients]
        spent, waiting = spending_of(ledger, everybody), _waiting(ledger, everybody)
        kept = f", and {counted(len(waiting), _KEEPS, _KEEP)} what is foreseen" if waiting else ""
        raise BudgetExhausted(
            f"Somebody must have budget left for this study, and everybody in it has spent up to epsilon = "
            f"{spent.greatest:.2f} of {limit.epsilon:g} at delta = {limit.delta:g} in ledger {ledger.path}{kept}. "
            f"Nothing was changed; {_GIVE_UP if waiting else ''}set another limit with wardround ledger set-limit if "
            "that is right.",
            code="budget-exhausted-kept" if waiting else None,
        )
    return Accounts(ledger, run, accounts, standing, _digests_of(materials))


def _origin_of(materials: Materials) -> str:
    """Returns what a seeded run's releases follow from beside its study, which knows a weights file by its name.

    Another division into hospitals, or other weights in that file, make another run: it releases other sums.
    """
    weights = materials.workbench.network.weights_sha256
    return _digests_of(materials)["places"] + ("" if weights is None else f"/{weights}")


def _digests_of(materials: Materials) -> dict[str, str]:
    """Returns digests of the data set, of the places of its patients, and of the test patients.

    An edited site or published part changes the second, and the third where test patients do.
    """
    split = materials.split
    held_out, validation = digest_of(split.test), digest_of(split.validation)
    hospitals = {name: digest_of(patients) for name, patients in split.hospitals.items()}
    places = hashlib.sha256(json.dumps([hospitals, validation, held_out]).encode()).hexdigest()
    return {"dataset": materials.images.digest, "places": places, "held_out": held_out}


def _waiting(ledger: LedgerFile, persons: Sequence[str]) -> set[str]:
    """Returns the runs that did not end and keep what is foreseen from any of these persons."""
    book = ledger.book()
    places = book.places_of([ledger.pseudonym(person) for person in persons])
    histories = [book.histories[group] for group in np.unique(book.group_of[places[places >= 0]]).tolist()]
    parts = [book.parts[number] for history in histories for number in history]
    return {part.begun.run for part in parts if not part.is_ended}


def admitted(study: Study, materials: Materials, accounts: Accounts) -> tuple[Materials, int]:
    """Returns the materials that train without patients who cannot afford the study, and how many those are.

    The division stays as it was dealt: what is said of it to others depends on no account.
    """
    out = {
        patient.id
        for name, patients in dealt(study, materials).items()
        for patient, is_in in zip(patients, accounts.of[name].admitted, strict=True)
        if not is_in
    }
    if not out:
        return materials, 0
    bound = study.privacy.images_per_patient
    hospitals = {
        name: training_patients([patient for patient in patients if patient.id not in out], bound)
        for name, patients in materials.split.hospitals.items()
    }
    return replace(materials, hospitals=hospitals), len(out)


def dealt(study: Study, materials: Materials) -> dict[HospitalName, tuple[Patient, ...]]:
    """Returns the patients of each hospital that is asked; of a pooled run all of them are one hospital's."""
    places = materials.split.hospitals
    if study.federation.strategy == "pooled":
        return {POOLED: tuple(patient for patients in places.values() for patient in patients)}
    return dict(places)


def total_of(accounts: Accounts, materials: Materials) -> dict[str, object] | None:
    """Returns what all studies together have cost the patients of a run; None where the ledger goes with the run.

    For the screen and the record of the person who simulates: it depends on the accounts of single patients.
    """
    if not accounts.is_lasting:
        return None
    found = spending_of(
        accounts.ledger, [patient.id for patients in materials.split.hospitals.values() for patient in patients]
    )
    return {
        "runs": sum(run.epsilon > 0 for run in found.runs),
        "studies": found.studies,
        "persons": found.persons,
        "greatest_epsilon": number_to_json(found.greatest),
        "delta": found.delta,
        "limit": None if found.limit is None else {"epsilon": found.limit.epsilon, "delta": found.limit.delta},
    }
