"""A run from its first stage to its report, and the way back into one that was interrupted."""

import hashlib
import hmac
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround import __version__
from wardround.accounting.events import to_json as event_to_json
from wardround.accounting.ledger import LedgerFile
from wardround.accounting.ledger_entry import number_to_json
from wardround.accounting.terms import PrivacyUnit
from wardround.config import Study, read_study
from wardround.errors import BudgetExhausted, RecordError
from wardround.federation.coordinator import JsonDict, Models, Outcome, Position, Schedule, run_rounds
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.promise import insiders_of, statement_of
from wardround.records import RunFolder, RunRecord, read_json
from wardround.report.page import write_report
from wardround.run.assemble import (
    Federation,
    Hospitals,
    Materials,
    epsilon_limit_of,
    federate,
    gather,
    open_ledger,
    plan_of,
)
from wardround.run.environment import describe_environment, use_threads
from wardround.run.evaluation import evaluate_models, summary_of
from wardround.run.observer import Observer
from wardround.run.references import POOLED, REFERENCES, pooled, run_reference
from wardround.training.patients import TrainingPatients

_QUICK_RESAMPLES = 2  # intervals during training are not shown


def run_study(study: Study, out: Path, observer: Observer, *, fresh: bool = False) -> RunRecord:
    """Runs a study from the beginning into an empty folder.

    Everything that can be refused is refused before the folder is touched.

    Raises:
        WardroundError: anything in the study, the pictures, the ledger or the folder that does not hold.
    """
    threads = use_threads(study.performance.threads)
    observer.stage("computing the privacy plan")
    plan = plan_of(study)
    materials = gather(study, observer)
    # Phantoms are nobody; the ledger of patients is kept, and asked before anything is replaced.
    forget_ledger = fresh and study.data.layout == "phantom" and study.privacy.ledger is None
    if not forget_ledger:
        _check_ledgers(study, plan, materials, out)
    folder = RunFolder.create(out, fresh=fresh, forget_ledger=forget_ledger)
    try:
        folder.write_json("environment.json", describe_environment(threads) | _identity(study, materials))
        folder.write_patients(*_patient_table(materials))
        folder.write_text("study.toml", study.to_toml())  # last: a folder with a study file can be resumed
        return _train(study, plan, materials, folder, observer)
    finally:
        folder.close()


def resume_run(path: Path, observer: Observer) -> RunRecord:
    """Goes on with an interrupted run; a finished one is only reported anew.

    Raises:
        WardroundError: no run there, or its pictures are not the ones it began with.
    """
    folder = RunFolder.open(path)
    try:
        study = read_study(path / "study.toml")
        environment = read_json(path / "environment.json")
        if (path / "certificate.json").exists():
            observer.stage("the run is finished; writing its report again")
            record = RunRecord.read(path)
            write_report(record)
            return record
        use_threads(int(str(environment["threads"])))  # another number of threads may round differently
        observer.stage("computing the privacy plan")
        plan = plan_of(study)
        materials = gather(study, observer)
        if environment["dataset"] != materials.images.digest:
            raise RecordError(
                f"The pictures must be those the run in {path} began with, and they have changed; "
                "restore them, or start a new run."
            )
        return _train(study, plan, materials, folder, observer)
    finally:
        folder.close()


def _train(
    study: Study, plan: PrivacyPlan, materials: Materials, folder: RunFolder, observer: Observer
) -> RunRecord:
    strategy = study.federation.strategy
    hospitals: Hospitals = {POOLED: pooled(materials.hospitals)} if strategy == "pooled" else materials.hospitals
    ledger_path = study.privacy.ledger or folder.path / "ledger.sqlite"
    with LedgerFile(ledger_path, version=__version__) as ledgers:
        federation = federate(
            study, plan, materials, hospitals, ledgers,
            strategy=strategy, label="main", epsilon_limit=epsilon_limit_of(study, plan),
        )  # fmt: skip
        outcome = _rounds(study, plan, materials, federation, folder, observer)
        model_sha256 = folder.write_model(outcome.models)
        results = _results(study, plan, materials, hospitals, outcome, observer)
        folder.write_json("results.json", results)
        folder.write_json("certificate.json", _certificate(study, plan, federation, outcome, model_sha256))
    observer.stage("writing the report")
    record = RunRecord.read(folder.path)
    write_report(record)
    return record


def _rounds(
    study: Study,
    plan: PrivacyPlan,
    materials: Materials,
    federation: Federation,
    folder: RunFolder,
    observer: Observer,
) -> Outcome:
    section = study.federation
    schedule = Schedule(section.rounds, section.evaluate_every, section.average_last)
    found = folder.latest_checkpoint()
    if found is None:
        observer.stage("counting patients" if plan.is_counted else "starting")
        state = federation.strategy.init(materials.workbench.initial_weights, federation.channel)
        position = Position(0, state)
        folder.write_checkpoint(0, position.to_arrays())
    else:
        position = Position.from_arrays(*found)
    observer.stage(f"training: {section.strategy}, {section.rounds} rounds, {len(federation.agents)} hospitals")
    shown = ""

    def look(round: int, models: Models | None) -> JsonDict:
        nonlocal shown
        entry: JsonDict = {}
        if models is not None:
            summary = summary_of(evaluate_models(models, materials, num_resamples=_QUICK_RESAMPLES))
            epsilon = plan.epsilon_after(round * section.local_steps)
            entry = {
                "epsilon": number_to_json(epsilon),
                "metrics": {k: v for k, v in summary.items() if not k.endswith("_interval")},
            }
            shown = f"ε {epsilon:.2f}" if math.isfinite(epsilon) else "ε ∞"
            if summary["auroc"] is not None:
                shown += f", AUROC {summary['auroc']:.3f}"
        observer.progress(round, schedule.num_rounds, shown)
        return entry

    return run_rounds(federation.strategy, federation.channel, schedule, position, folder, look)


def _results(
    study: Study,
    plan: PrivacyPlan,
    materials: Materials,
    hospitals: Hospitals,
    outcome: Outcome,
    observer: Observer,
) -> dict[str, object]:
    observer.stage("evaluating")
    metrics = evaluate_models(outcome.models, materials)
    references: dict[str, object] = {}
    for name in study.federation.compare:
        if not plan.is_private and (REFERENCES[name].private or name == "no-privacy"):
            continue  # the main run is without privacy itself
        observer.stage(f"reference run: {name}")
        references[name] = run_reference(name, study, plan, materials, observer)
    return {
        "metrics": summary_of(metrics),
        "models": {name: m.to_json() for name, m in metrics.items()},
        "references": references,
        "classes": list(materials.images.class_names),
        "parameters": materials.workbench.network.num_parameters,
        "test": {
            "patients": len(materials.test),
            "images": len(materials.test.rows),
            "leaking": materials.split.leaking,
            "note": materials.split.note,
        },
        "hospitals": [
            {"name": name, "patients": len(p), "images": len(p.rows), "share_not_first_class": _share(p)}
            for name, p in hospitals.items()
        ],
        "findings": materials.images.findings.summary(),
        "released": _released(study, plan),
    }


def _released(study: Study, plan: PrivacyPlan) -> list[dict[str, str]]:
    """What left, to whom, and what protects it."""
    guarded = "the statement" if plan.is_private else "nothing: the study asks for no privacy"
    rows = [
        {"what": "the model of every round and the final model", "to": "whoever gets it", "protected_by": guarded},
    ]
    if plan.is_counted:
        rows.append({"what": "the number of training patients", "to": "the coordinator", "protected_by": guarded})
    rows.append(
        {
            "what": "metrics on the test patients, round by round",
            "to": "readers of this record",
            "protected_by": "nothing: test patients stand outside the guarantee and were never trained on",
        }
    )
    rows.append(
        {
            "what": "the table of hospitals (patients, images, class shares)",
            "to": "readers of this record",
            "protected_by": "nothing: known because this machine simulates every hospital",
        }
    )
    if study.federation.compare:
        rows.append(
            {
                "what": "reference runs and their metrics",
                "to": "readers of this record",
                "protected_by": "nothing: references of a simulation, charged to no ledger",
            }
        )
    return rows


def _certificate(
    study: Study, plan: PrivacyPlan, federation: Federation, outcome: Outcome, model_sha256: str
) -> dict[str, object]:
    done = outcome.position.round * study.federation.local_steps
    statement = statement_of(plan, releases=done, simulated=True, seeded=study.study.seed is not None)
    return {
        "study": study.study.name,
        "study_digest": study.digest,
        "statement": statement.to_json(),
        "sentence": statement.sentence(),
        "short": statement.short(),
        "unit": PrivacyUnit(study.privacy.unit).value,
        "rounds": outcome.position.round,
        "stopped": outcome.stopped,
        "event": event_to_json(plan.event_after(done)) if done else None,
        "insiders": [row.to_json() for row in insiders_of(plan)],
        "ledgers": {
            name: {"head": agent.ledger.head(), "epsilon_spent": number_to_json(agent.ledger.spent())}
            for name, agent in federation.agents.items()
        },
        "model_sha256": model_sha256,
        "seeded": study.study.seed is not None,
    }


def _identity(study: Study, materials: Materials) -> dict[str, object]:
    return {"study_digest": study.digest, "dataset": materials.images.digest}


def _patient_table(materials: Materials) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Who was where, by a hash under a key that is forgotten at once: rows can be counted, not traced."""
    key = os.urandom(32)
    places = {"test": materials.split.test, **materials.split.hospitals}
    rows = [
        (hmac.new(key, patient.id.encode(), hashlib.sha256).hexdigest()[:16], place, len(patient.images))
        for place, patients in places.items()
        for patient in patients
    ]
    return ("patient", "place", "images"), sorted(rows)


def _share(patients: TrainingPatients) -> float | None:
    """Share of pictures that are not of the first class."""
    return float((patients.labels > 0).mean()) if len(patients) else None
