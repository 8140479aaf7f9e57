"""The audit of a study before it is run, and of a finished run: attacks on its mechanism, and its accounting again."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from wardround.accounting.events import from_json
from wardround.accounting.statement import Statement
from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import releases_after
from wardround.audit.accounts import accounts_of
from wardround.audit.findings import CONFIDENCE, Audit, Recount
from wardround.audit.mechanism import Attack, audit_canaries, audit_two_worlds, why_not
from wardround.audit.model import Leak, audit_model
from wardround.audit.procedure import Procedure, audit_procedure
from wardround.config import Study, read_study
from wardround.coordinator.observer import Observer
from wardround.errors import LedgerError, RecordError
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.wording import statement_of
from wardround.randomness import Randomness
from wardround.records.folder import RunRecord
from wardround.records.json_object import JsonObject
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.simulation.verification import verify_run

Result = TypeVar("Result")

CANARIES = 1024
RUNS = 500
"""Runs of each of the two worlds."""
_FAULTS: Final = frozenset(
    {
        "record-study", "record-rounds", "record-checkpoint", "record-certificate", "record-model", "record-results",
        "record-receipt", "record-ledger", "ledger-edited", "ledger-removed", "ledger-older", "ledger-line",
    }
)  # fmt: skip
"""Codes of what contradicts itself; every other one is of input that cannot be read, or is not as it was signed."""
_UNVERIFIED = "what else the record says: verification ended where it does not hold"


@dataclass(frozen=True)
class Deeper:
    """The parts of an audit that read pictures.

    Attributes:
        shadows: models for membership inference; 0 for none.
        procedure: whether the whole procedure is repeated with one patient less.
        keep: folder of the repetitions' scores; None keeps none.
    """

    shadows: int = 0
    procedure: bool = False
    keep: Path | None = None


_SHALLOW = Deeper()


def audit_study(
    study: Study,
    observer: Observer,
    *,
    runs: int = RUNS,
    canaries: int = CANARIES,
    seed: int | None = None,
    deeper: Deeper = _SHALLOW,
    run: Path | None = None,
) -> Audit:
    """Returns the audit of a study's mechanism and accounting; reads no picture unless `deeper` says so.

    Args:
        study: it is audited as it is, with or without a seed of its own.
        observer: is told of progress.
        runs: of each of the two worlds.
        canaries: virtual patients of the one run, a square number.
        seed: of the coins and of the noise, fixed beforehand; None draws both from the operating system, or from the
            study's own seed.
        deeper: the parts that read pictures.
        run: folder of a finished run, whose models are attacked.
    """
    if seed is not None:
        study = study.model_copy(update={"study": study.study.model_copy(update={"seed": seed})})
    seed, plan = study.study.seed, plan_of(study)
    statement = statement_of(plan, simulated=True, seeded=seed is not None)
    reason, attacks = why_not(study, plan), list[Attack]()
    model_attacks = 0 if not deeper.shadows else 2 if run is None else 1
    on_mechanism = 0 if reason else 2 + (plan.count is not None)
    alpha = (1 - CONFIDENCE) / (on_mechanism + deeper.procedure + model_attacks or 1)
    if not reason:
        observer.stage("virtual patients in one run")
        coins = Randomness(seed, f"{study.stream_name}/audit").stream("coins")
        attacks.append(audit_canaries(study, canaries, coins, alpha, observer.progress))
        for count in (False, True)[: on_mechanism - 1]:
            if attacks[0].stopped:
                break  # a contradiction already, and the hospitals would end these runs as well
            observer.stage("the count of patients, two worlds" if count else "one patient, two worlds")
            attacks.append(audit_two_worlds(study, runs, alpha, observer.progress, count=count))
    recounts = list[Recount]()
    leak: Leak | str | None = None
    procedure: Procedure | str | None = None
    charged_to = attacks[:1]
    if deeper.procedure:
        procedure = audit_procedure(study, observer, runs=runs, alpha=alpha, keep=deeper.keep)
        attacks += [] if isinstance(procedure, str) else [procedure.attack]
    if deeper.shadows:
        noise = secrets.randbits(32) if seed is None else seed
        leak, more = audit_model(study, observer, shadows=deeper.shadows, alpha=alpha, seed=noise, run=run)
        attacks += more
    if plan.is_private:
        releases = releases_after(study, study.rounds)
        kept = (plan.delta, plan.accountant)
        recounts.append(
            Recount.of("events of the plan", plan.epsilon_after(releases), plan.event_after(releases), *kept)
        )
        recounts += [
            Recount.of("events charged to a simulated hospital", attack.claim.epsilon, attack.charged, *kept)
            for attack in charged_to
        ]
    insiders = insiders_of(plan, all_present=not study.leaves_one_out)
    return Audit(
        study.study.name, study.digest, statement, insiders, tuple(attacks), reason, tuple(recounts),
        seed is not None, leak, procedure,
    )  # fmt: skip


def audit_run(
    path: Path,
    pinned: Mapping[str, bytes],
    observer: Observer,
    *,
    key: SigningKey | None = None,
    ledger: Path | None = None,
    runs: int = RUNS,
    seed: int | None = None,
    deeper: Deeper = _SHALLOW,
) -> Audit:
    """Returns the audit of a finished run: that of its study, its record, its certificate, and each of its accounts.

    Args:
        path: the run's folder.
        pinned: keys that its record may be signed with.
        observer: is told of progress.
        key: the private key that signed it, which the head of the ledger takes; None on another machine.
        ledger: that the run was charged to; default: as its folder says.
        runs: of each of the two worlds.
        seed: as in `audit_study`.
        deeper: as in `audit_study`; membership is inferred from the run's released models.

    Raises:
        RecordError: there is no finished run, or it is not as it was signed. Where it is as it was signed and does not
            hold, that is a contradiction.
    """
    held, faults = _tried(lambda: verify_run(path, pinned, key=key, ledger=ledger), None)
    record = RunRecord.read(path)
    study = read_study(path / "study.toml")
    certificate = JsonObject(record.certificate, "certificate.json")
    statement = Statement.from_json(certificate.section("statement").values)
    none: tuple[list[Recount], list[str]] = ([], [])
    (walked, lacking), broken = _tried(lambda: accounts_of(path, study, record, ledger), none)
    found = audit_study(study, observer, runs=runs, seed=seed, deeper=deeper, run=path)
    recounts = list(found.recounts)
    if statement.guarantee and (charged := certificate.maybe_section("event")) is not None:
        done = plan_of(study).event_after(releases_after(study, len(record.rounds)))
        recounts += [
            Recount.of(f"events {which}", statement.epsilon, event, statement.delta, statement.accountant)
            for which, event in (
                ("recorded in the certificate", from_json(charged.values)),
                ("of the rounds that ended", done),
            )
        ]
    return replace(
        found, statement=statement, recounts=(*recounts, *walked), holds=() if held is None else held.checks,
        unchecked=(_UNVERIFIED,) if held is None else held.unchecked,
        faults=tuple(dict.fromkeys([*faults, *broken, *lacking])),
    )  # fmt: skip


def _tried(check: Callable[[], Result], otherwise: Result) -> tuple[Result, list[str]]:
    """Returns what a check found, and the sentence in which it refused what was signed and does not hold."""
    try:
        return check(), []
    except (LedgerError, RecordError) as error:
        if error.code not in _FAULTS:
            raise
        return otherwise, [f"record: {error}"]
