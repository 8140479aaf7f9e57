"""The audit of a study before it is run, and of a finished run: attacks on its mechanism, and its accounting again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wardround.accounting.events import from_json
from wardround.accounting.second import second_opinion
from wardround.accounting.statement import Statement
from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import releases_after
from wardround.audit.findings import CONFIDENCE, Audit, Recount
from wardround.audit.mechanism import Attack, audit_canaries, audit_two_worlds, why_not
from wardround.config import Study, read_study
from wardround.coordinator.observer import Observer
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.wording import statement_of
from wardround.randomness import Randomness
from wardround.records.json_object import JsonObject
from wardround.records.signed import verified

CANARIES = 1024
RUNS = 500
"""Runs of each of the two worlds."""


def audit_study(
    study: Study, observer: Observer, *, runs: int = RUNS, canaries: int = CANARIES, seed: int | None = None
) -> Audit:
    """Returns the audit of a study's mechanism and accounting; reads no picture.

    Args:
        study: it is audited as it is, with or without a seed of its own.
        observer: is told of progress.
        runs: of each of the two worlds.
        canaries: virtual patients of the one run, a square number.
        seed: of the coins and of the noise, fixed beforehand; None draws both from the operating system, or from the
            study's own seed.
    """
    if seed is not None:
        study = study.model_copy(update={"study": study.study.model_copy(update={"seed": seed})})
    seed, plan = study.study.seed, plan_of(study)
    statement = statement_of(plan, simulated=True, seeded=seed is not None)
    reason, attacks = why_not(study, plan), list[Attack]()
    if not reason:
        alpha = (1 - CONFIDENCE) / 2
        observer.stage("virtual patients in one run")
        coins = Randomness(seed, f"{study.stream_name}/audit").stream("coins")
        attacks.append(audit_canaries(study, canaries, coins, alpha, observer.progress))
        observer.stage("one patient, two worlds")
        attacks.append(audit_two_worlds(study, runs, alpha, observer.progress))
    recounts = []
    if plan.is_private:
        releases = releases_after(study, study.rounds)
        planned = second_opinion(plan.event_after(releases), plan.delta)
        recounts.append(Recount("events of the plan", plan.epsilon_after(releases), planned.lower, planned.upper))
        for attack in attacks[:1]:
            charged = second_opinion(attack.charged, plan.delta)
            recounts.append(
                Recount(
                    "events charged to a simulated hospital", attack.claim.epsilon, charged.lower, charged.upper
                )
            )
    return Audit(
        study.study.name, study.digest, statement, insiders_of(plan), tuple(attacks), reason, tuple(recounts),
        seed is not None,
    )  # fmt: skip


def audit_run(
    path: Path,
    pinned: Mapping[str, bytes],
    observer: Observer,
    *,
    runs: int = RUNS,
    canaries: int = CANARIES,
    seed: int | None = None,
) -> Audit:
    """Returns the audit of a finished run: that of its study, and its certificate against the recorded events.

    Args:
        path: the run's folder.
        pinned: keys that its record may be signed with.
        observer: is told of progress.
        runs: of each of the two worlds.
        canaries: virtual patients of the one run, a square number.
        seed: as in `audit_study`.

    Raises:
        RecordError: there is no finished run, or its record does not hold.
    """
    record = verified(path, pinned)
    study = read_study(path / "study.toml")
    certificate = JsonObject(record.certificate, "certificate.json")
    statement = Statement.from_json(certificate.section("statement").values)
    found = audit_study(study, observer, runs=runs, canaries=canaries, seed=seed)
    recounts = list(found.recounts)
    if statement.guarantee and certificate.values.get("event") is not None:
        recorded = second_opinion(from_json(certificate.section("event").values), statement.delta)
        recounts.append(
            Recount("events recorded in the certificate", statement.epsilon, recorded.lower, recorded.upper)
        )
        done = releases_after(study, certificate.integer("rounds"))
        planned = second_opinion(plan_of(study).event_after(done), statement.delta)
        recounts.append(
            Recount("events of the rounds that ended", statement.epsilon, planned.lower, planned.upper)
        )
    return replace(found, statement=statement, recounts=tuple(recounts))
