"""Verifying a run: its signature and files, and then its parts against each other, under any signature.

Each check either holds, and is said in a line, or raises `RecordError` with a code that names what differs. A record
that its maker signed may still be false: epsilon is computed anew from the plan that follows from the study file, and a
second time by other ways (`accounting.second`).

Released: nothing. A ledger is read on its holder's own machine.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import Event, event_of_leaves, from_json, leaves, sorted_leaves
from wardround.accounting.second import second_opinion
from wardround.accounting.statement import Statement
from wardround.accounting.terms import PrivacyUnit
from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import releases_after
from wardround.boundary.text import counted
from wardround.config import Study, read_study
from wardround.coordinator.certificate import all_were_present, witness_of
from wardround.coordinator.evaluation import noise_std
from wardround.coordinator.figures import figures_of
from wardround.errors import PrivacyError, RecordError
from wardround.ledger.book import Part
from wardround.ledger.file import LedgerFile
from wardround.models.catalogue import NAMES
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.wording import evaluation_statement, statement_of
from wardround.records.folder import RunRecord
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_json, read_lines
from wardround.records.signed import SignedRecord, check_signed
from wardround.records.signer import PAGE, sha256_of_file
from wardround.secure_aggregation.keys.identity import SigningKey, spoken_fingerprint
from wardround.simulation.accounts import FILE, IN_FOLDER
from wardround.simulation.own_key import check_contains
from wardround.simulation.verified_receipts import EXACT, check_receipts, refuse
from wardround.types import Persons

_LOOSE = 0.1
"""Share by which a printed epsilon may lie above the second upper bound: its orders are others."""

_SAID = ("caveats", "images_per_patient", "released_what", "released_to")
"""Fields of a statement that are words, or that follow from the data."""


@dataclass(frozen=True)
class Verification:
    """A run that holds.

    Attributes:
        signed: its record.
        checks: a line for each thing that was checked.
        unchecked: a line for each that could not be, and what it needs.
    """

    signed: SignedRecord
    checks: tuple[str, ...]
    unchecked: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Returns the result as one JSON object."""
        return {
            "verified": True,
            "finished": self.signed.is_finished,
            "signer": self.signed.signer,
            "fingerprint": spoken_fingerprint(self.signed.public_key),
            "study_digest": self.signed.study_digest,
            "rounds": self.signed.rounds,
            "checks": list(self.checks),
            "unchecked": list(self.unchecked),
        }


def verify_run(
    path: Path, pinned: Mapping[str, bytes], *, key: SigningKey | None = None, ledger: Path | None = None
) -> Verification:
    """Checks a run's record in every way that what is there allows; changes nothing.

    Args:
        path: the run's folder.
        pinned: public keys by name, from outside the run.
        key: the private key that signed it, which the head of the ledger takes; None on another machine.
        ledger: that the run was charged to; default: as its folder says.

    Raises:
        RecordError: something does not hold; the code names it.
        LedgerError: the ledger was edited.
        StudyError: the study file does not hold.
    """
    signed = check_signed(path, pinned)
    study = read_study(path / "study.toml")
    if study.digest != signed.study_digest:
        refuse(path, "study.toml", "study", "give the study digest of the record")
    checks = [
        f"signed by {signed.signer}, and every file as it was signed",
        f"study {study.digest[:12]}…, the one of the record",
        f"{counted(_rounds_of(path, signed), 'round')}, one line each",
    ]
    record = None
    if signed.is_finished:
        record = RunRecord.read(path)
        checks += _certified(path, study, record)
    if not signed.ledger:  # between hospitals, each of which keeps its own
        if signed.signer in (study.hospitals.names or ()):
            refuse(
                path,
                "record.json",
                "key",
                f"be signed with its coordinator's key, not {signed.signer}'s",
            )
        found, missing = ((), ()) if record is None else check_receipts(path, study, record, pinned)
    else:
        found, missing = _charged(path, study, record, signed, key, ledger)
    if (path / PAGE).exists() and not signed.names_page:
        missing = (*missing, f"{PAGE}: it is not signed; write it again with wardround report")
    return Verification(signed, (*checks, *found), missing)


def _rounds_of(path: Path, signed: SignedRecord) -> int:
    lines = read_lines(path / "rounds.jsonl")[: signed.rounds]
    if [line.get("round") for line in lines] != list(range(1, signed.rounds + 1)):
        refuse(path, "rounds.jsonl", "rounds", "have one line for each round, in order")
    if signed.is_finished and signed.checkpoints[-1:] != (f"round-{signed.rounds:06d}.safetensors",):
        refuse(path, "checkpoints", "checkpoint", "end with the last round")
    return signed.rounds


def _certified(path: Path, study: Study, record: RunRecord) -> Iterator[str]:
    """Yields what the certificate says and what that was held against."""
    certificate = JsonObject(record.certificate, "certificate.json")
    if certificate.text("study_digest") != study.digest:
        refuse(path, "certificate.json", "certificate", "name the study of the record")
    if certificate.integer("rounds") != len(record.rounds):
        refuse(path, "rounds.jsonl", "rounds", "have as many rounds as the certificate")
    model = sha256_of_file(path / "model.safetensors")
    card = JsonObject(read_json(path / "model.json"), "model.json").section("weights")
    if {certificate.text("model_sha256"), card.text("sha256")} != {model}:
        refuse(path, "model.safetensors", "model", "have the hash in the certificate and in model.json")
    yield f"model {model[:12]}…, the one of the certificate and of its card"
    shown = witness_of(record.rounds)
    stated = certificate.maybe_section("witness")
    kept = ("statistic", "coordinates")
    if (shown and [shown[name] for name in kept]) != (stated and [stated.values.get(name) for name in kept]):
        refuse(path, "rounds.jsonl", "rounds", "have the noise-only coordinates of the certificate")
    yield from _promised(path, study, record, certificate)
    yield from _evaluated(path, study, record, certificate)


def _evaluated(path: Path, study: Study, record: RunRecord, certificate: JsonObject) -> Iterator[str]:
    """Yields how the promise to test patients was recomputed from the study; a simulation makes none."""
    plan, seeded = plan_of(study), study.study.seed is not None
    expected = None if plan.evaluation is None else evaluation_statement(plan, simulated=False, seeded=seeded)
    if certificate.values.get("standing") != "hospitals":
        expected = None
    stated = certificate.maybe_section("evaluation")
    if (stated and _words_of(stated)) != (expected and _expected_words(study, expected)):
        refuse(path, "certificate.json", "certificate", "state the promise to test patients that the study makes")
    if plan.evaluation is not None and expected is not None:
        _check_figures(path, study, plan, JsonObject(record.results, "results.json"))
        yield f"the promise to test patients is the study's: {expected.short()}"


def _words_of(stated: JsonObject) -> tuple[object, ...]:
    """Returns what a certificate says of test patients, and whether it says so by its own statement."""
    try:
        statement = Statement.from_json(stated.section("statement").values)
    except PrivacyError:
        return ()
    said = statement.sentence(), statement.short()
    return stated.text("level"), statement.guarantee, (stated.text("sentence"), stated.text("short")), said


def _expected_words(study: Study, expected: Statement) -> tuple[object, ...]:
    said = expected.sentence(), expected.short()
    return study.evaluation.level, expected.guarantee, said, said


def _check_figures(path: Path, study: Study, plan: Plan, results: JsonObject) -> None:
    """Computes figures of test patients anew from the released histograms, with the noise of the plan."""
    row = results.section("evaluation")
    if row.text("level") != study.evaluation.level:
        refuse(path, "results.json", "results", "have the evaluation level of the study")
    figures, present = row.maybe_section("figures"), plan.hospitals - len(row.section("missing").values)
    if figures is None or plan.evaluation is None:
        return
    released = np.array(figures.values.get("histograms"), dtype=np.float64).ravel()
    masks = study.model.name in NAMES["segmentation"]
    found = figures_of(released, results.texts("classes"), noise_std(plan.evaluation, present), masks=masks)
    if found != figures.values:
        refuse(path, "results.json", "results", "have the figures that follow from the released histograms")


def _promised(path: Path, study: Study, record: RunRecord, certificate: JsonObject) -> Iterator[str]:
    """Yields how the statement was recomputed, from the study alone and from the recorded events."""
    try:
        statement = Statement.from_json(certificate.section("statement").values)
        said = certificate.maybe_section("event")
        event = None if said is None else from_json(said.values)
    except PrivacyError as error:
        raise RecordError(
            f"certificate.json must hold a statement and its events. {error}", code="record-certificate"
        ) from None
    plan = plan_of(study)
    if statement.unit is PrivacyUnit.PICTURE:
        plan = replace(plan, persons=Persons.UNNAMED)
    releases, counts = _releases(path, plan, statement, event)
    if releases < releases_after(study, len(record.rounds)):
        refuse(path, "certificate.json", "certificate", "count every release of the rounds")
    expected = statement_of(
        plan, releases=releases, counts=counts, simulated=statement.simulated, seeded=study.study.seed is not None
    )
    for name, value in asdict(replace(expected, epsilon=0.0 if expected.guarantee else math.inf)).items():
        if name not in ("epsilon", *_SAID) and value != asdict(statement)[name]:
            refuse(path, "certificate.json", "certificate", f"state the {name.replace('_', ' ')} of the study")
    if not statement.epsilon >= expected.epsilon * (1 - EXACT):
        refuse(path, "certificate.json", "certificate", f"print epsilon {expected.epsilon:.6g} or more")
    if (certificate.text("sentence"), certificate.text("short")) != (statement.sentence(), statement.short()):
        refuse(path, "certificate.json", "certificate", "have the sentences of its statement")
    present = all_were_present(study, plan, record.rounds)
    rows = {row.adversary: row.epsilon for row in insiders_of(plan, releases, counts, all_present=present)}
    stated = {row.text("adversary"): row.number("epsilon") for row in certificate.objects("insiders")}
    if stated.keys() != rows.keys() or any(stated[name] < rows[name] * (1 - EXACT) for name in rows):
        refuse(path, "certificate.json", "certificate", "print epsilon against every adversary, or more")
    spent = [line.number("epsilon") for line in _lines(record) if "epsilon" in line.values]
    if spent != sorted(spent) or any(value > statement.epsilon * (1 + EXACT) for value in spent):
        refuse(path, "rounds.jsonl", "rounds", "spend no more than the certificate, and never take back")
    yield f"epsilon {statement.epsilon:.6g} is that of {counted(statement.releases, 'release')} under the study's plan"
    if event is not None and statement.guarantee and 0 < statement.delta < 1:
        yield _by_another_way(path, statement, event)


def _by_another_way(path: Path, statement: Statement, event: Event) -> str:
    own = epsilon_of(event, statement.delta, statement.accountant)
    bounds = second_opinion(event, statement.delta)
    least, most = max(own, bounds.lower) * (1 - EXACT), bounds.upper * (1 + _LOOSE)
    if not least <= statement.epsilon <= most:
        refuse(path, "certificate.json", "certificate", f"print an epsilon of {bounds.lower:.6g} or more")
    return f"epsilon lies between {bounds.lower:.6g} and {bounds.upper:.6g} by the second accountant"


def _releases(path: Path, plan: Plan, statement: Statement, event: Event | None) -> tuple[int, int]:
    """Returns the releases and counts of a certificate: under the study's plan their event is the recorded one."""
    if event is None:
        return 0, 1
    recorded = leaves(event)
    if plan.count is None:
        pairs: Iterator[tuple[int, int]] = ((statement.releases, counts) for counts in range(1, 1000))
    else:
        pairs = ((statement.releases - counts, counts) for counts in range(1, statement.releases + 1))
    for releases, counts in pairs:
        if leaves(plan.event_after(releases, counts)) == recorded:
            return releases, counts
        if not plan.is_counted:
            break
    refuse(path, "certificate.json", "certificate", "record the events of the study's plan")


def _charged(
    path: Path,
    study: Study,
    record: RunRecord | None,
    signed: SignedRecord,
    key: SigningKey | None,
    given: Path | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns what the ledger was held against, and what could not be."""
    place = given or ledger_of(path)
    if place is None:
        return (), ("charges: the ledger is not here (--ledger)",)
    if not place.exists():
        return (), (f"charges: ledger {place} is not here (--ledger)",)
    with LedgerFile(place, copied=True) as ledger:
        ledger.verify()
        if record is not None and not parts_of(path, study, ledger):
            raise RecordError(
                f"`--ledger` must be the ledger that the run in {path} was charged to, and {place} has no part of it. "
                "Give the other one.",
                code="record-other-ledger",
            )
        said = [f"ledger {place} is whole"]
        missing: tuple[str, ...] = ()
        if key is not None and key.public == signed.public_key:
            check_contains(ledger, key, signed.ledger)
            said.append("it contains the line up to which the run was signed")
        else:
            missing = ("position of the ledger: it takes the private key that signed the run (--key)",)
        if record is not None:
            said.append(_covered(path, study, record, ledger))
    return tuple(said), missing


def ledger_of(path: Path) -> Path | None:
    """Returns the ledger that the folder of a run names; None where it names none."""
    if not (path / FILE).exists():
        return None
    noted = JsonObject(read_json(path / FILE), FILE)
    return path / IN_FOLDER if noted.values.get("ledger") is None else Path(noted.text("ledger"))


def parts_of(path: Path, study: Study, ledger: LedgerFile) -> list[Part]:
    """Returns the parts of a run's hospitals in its ledger; of every run of the study if the folder names no run."""
    run = read_json(path / FILE).get("run") if (path / FILE).exists() else None
    begun = [part for part in ledger.book().parts.values() if part.begun.study == study.digest]
    return [part for part in begun if run in (None, part.begun.run)]


def _covered(path: Path, study: Study, record: RunRecord, ledger: LedgerFile) -> str:
    """Refuses a certificate that has fewer events, or less epsilon, than the ledger charged a hospital for this run."""
    certificate = JsonObject(record.certificate, "certificate.json")
    spent = {name: row.number("epsilon_spent") for name, row in certificate.named_objects("ledgers").items()}
    covered = (
        dict(leaves(from_json(certificate.section("event").values))) if certificate.values.get("event") else {}
    )
    parts = parts_of(path, study, ledger)
    if {part.begun.hospital for part in parts} != spent.keys():
        raise RecordError(
            f"Ledger {ledger.path} must have the part of every hospital of the run in {path}, and has not; give the "
            "ledger that it was charged to.",
            code="record-ledger",
        )
    for part in parts if (path / FILE).exists() else ():
        epsilon = epsilon_of(event_of_leaves(sorted_leaves(part.counts)), part.begun.delta, part.begun.accountant)
        fewer = any(count > covered.get(leaf, 0) for leaf, count in part.counts.items())
        if fewer or spent[part.begun.hospital] < epsilon * (1 - EXACT):
            refuse(path, "certificate.json", "certificate", "cover what the ledger was charged")
    return f"the certificate covers every charge of {counted(len(spent), 'hospital')}"


def _lines(record: RunRecord) -> Iterator[JsonObject]:
    yield from (JsonObject(line, f"rounds.jsonl, line {number}") for number, line in enumerate(record.rounds, 1))
