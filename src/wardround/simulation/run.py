"""A run from its first stage to its report, and the way back into one that was interrupted."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from wardround.accounting.numbers import number_to_json
from wardround.agreed.model_card import card_of
from wardround.agreed.plans import epsilon_limit_of, plan_of
from wardround.agreed.strategies import releases_after, timetable_of
from wardround.config import Study, read_study
from wardround.coordinator.certificate import certificate_of
from wardround.coordinator.coordinator import Coordinator
from wardround.coordinator.observer import Observer
from wardround.coordinator.rounds import JsonDict, Models, Outcome, Position, Schedule, run_rounds
from wardround.errors import BudgetExhausted, MissingExtra, RecordError
from wardround.models.card import ModelCard, WeightsCard
from wardround.privacy.plans.kinds import NoisedPictures
from wardround.privacy.plans.plan import Plan
from wardround.published import published
from wardround.records.environment import describe_environment, threads_of
from wardround.records.folder import RunFolder, RunRecord, read_json, read_lines
from wardround.records.signed import check_signed, verified
from wardround.records.signer import Signer
from wardround.report.write import write_report
from wardround.simulation.absences import check_availability
from wardround.simulation.accounts import Accounts, admitted, begun, resumed
from wardround.simulation.evaluation import evaluate_models, summary_of
from wardround.simulation.federate import federate
from wardround.simulation.masked import check_masks
from wardround.simulation.materials import Hospitals, Materials, gather
from wardround.simulation.own_key import check_contains, own_key, own_pin
from wardround.simulation.references import POOLED, average_last_of, check_references, pooled
from wardround.simulation.results import patient_table, results_of
from wardround.types import Vector

_QUICK_RESAMPLES = 2  # intervals during training are not shown
_NAMES = {"study_digest": "study file", "dataset": "data set", "weights_sha256": "weights file"}


def run_study(
    study: Study, out: Path, observer: Observer, *, fresh: bool = False, rehearsal: bool = False
) -> RunRecord:
    """Runs a study from the beginning into an empty folder.

    Everything that can be refused is refused before the folder is touched. A `rehearsal` is charged to a ledger that
    goes with the run, and says so.

    Raises:
        WardroundError: anything in the study, the pictures, the ledger or the folder that does not hold.
    """
    RunFolder.check_free(out, fresh=fresh)
    threads = _use_threads(study.performance.threads)
    observer.stage("computing the privacy plan")
    check_availability(study, timetable_of(study))
    plan = plan_of(study)
    check_references(study, plan)
    _check_cap(study, plan)
    materials = gather(study, observer)
    plan = replace(plan, persons=materials.images.persons)
    check_masks(plan, materials.workbench.network.num_parameters)
    key = own_key()
    with begun(study, plan, materials, out, fresh=fresh, rehearsal=rehearsal) as (folder, accounts):
        folder.write_json(
            "environment.json",
            describe_environment(threads) | _identity(study, materials),
        )
        materials = _admitted(study, materials, accounts, observer)
        folder.write_patients(*patient_table(materials))
        signer = Signer(key, study.digest, accounts.ledger.position()[1])
        folder.begin(signer, study.to_toml())  # last: a folder with a study file can be resumed
        return _train(study, plan, materials, folder, accounts, observer)


def resume_run(path: Path, observer: Observer) -> RunRecord:
    """Goes on with an interrupted run; a finished one is only reported anew.

    The record is verified first: it must be signed with this person's own key, and be as it was signed.

    Raises:
        WardroundError: no run there, its record does not hold, or its study, pictures or weights are not the ones it
            began with.
    """
    folder = RunFolder.open(path)
    try:
        if (path / "certificate.json").exists():
            record = verified(path, own_pin())
            observer.stage("the run is finished; writing its report again")
            _report(record, observer)
            return record
        signed = check_signed(path, own_pin())
        study = read_study(path / "study.toml")
        environment = read_json(path / "environment.json")
        if study.digest != signed.study_digest:
            raise _changed("study_digest", path)
        key = own_key()
        _use_threads(threads_of(environment))  # another number of threads may round differently
        observer.stage("computing the privacy plan")
        plan = plan_of(study)
        materials = gather(study, observer)
        plan = replace(plan, persons=materials.images.persons)
        for what, now in _identity(study, materials).items():
            if environment.get(what) != now:
                raise _changed(what, path)
        with resumed(study, plan, materials, path) as accounts:
            check_contains(accounts.ledger, key, signed.ledger)
            folder.signer = Signer(key, study.digest, accounts.ledger.position()[1])
            folder.signer.begin(path, {})
            materials = _admitted(study, materials, accounts, observer)
            return _train(study, plan, materials, folder, accounts, observer)
    finally:
        folder.close()


def _changed(what: str, path: Path) -> RecordError:
    return RecordError(
        f"The {_NAMES[what]} must be what the run in {path} began with, and has changed; restore it, or start a new "
        "run.",
        code="record-edited-study-toml" if what == "study_digest" else None,
    )


def _check_cap(study: Study, plan: Plan) -> None:
    """Refuses a run whose cap has no room for its first round."""
    cap, first = epsilon_limit_of(study, plan), plan.epsilon_after(releases_after(study, 1))
    if first > cap:
        raise BudgetExhausted(
            f"`[privacy] epsilon_limit` must have room for one round, which costs a {plan.unit} epsilon = {first:.4g} "
            f"at delta = {plan.delta:g}, got {cap:g}. Raise it, or ask for a smaller epsilon."
        )


def _use_threads(threads: int | None) -> int:
    """Sets the threads of a matrix product; returns how many there are now."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _identity(study: Study, materials: Materials) -> dict[str, str | None]:
    """Returns what must be the same on resume: a statement over two studies or data sets would be false."""
    weights = materials.workbench.network.weights
    return {
        "study_digest": study.digest,
        "dataset": materials.images.digest,
        "weights_sha256": None if weights is None else weights.sha256,
    }


def _admitted(study: Study, materials: Materials, accounts: Accounts, observer: Observer) -> Materials:
    """Returns the materials without patients who cannot afford the study; how many those are is said here alone."""
    materials, left_out = admitted(study, materials, accounts)
    if left_out:
        observer.stage(f"{left_out} patients are left out: they have spent too much of their limit")
    return materials


def _hospitals(study: Study, materials: Materials) -> Hospitals:
    if study.federation.strategy == "pooled":
        return {POOLED: pooled(materials.hospitals)}
    return materials.hospitals


@contextmanager
def _hospital_log(folder: RunFolder) -> Iterator[None]:
    """Keeps the simulated hospitals' own log; elsewhere they report a failure as a code and a stage."""
    log = logging.getLogger("wardround.hospital")
    handler = logging.FileHandler(folder.path / "hospitals.log", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _train(
    study: Study, plan: Plan, materials: Materials, folder: RunFolder, accounts: Accounts, observer: Observer
) -> RunRecord:
    hospitals = _hospitals(study, materials)
    with _hospital_log(folder):
        if isinstance(plan.training, NoisedPictures):
            observer.stage("noising pictures")
            release = published(study.privacy.plan, "simulation").released_materials
            materials = release(study, plan, materials, hospitals, accounts, folder)
            hospitals = _hospitals(study, materials)
        federation = federate(
            study, plan, materials, hospitals, accounts.of, accounts.ledger.transaction,
            label="main", memory=folder.path / "hospitals",
        )  # fmt: skip
        coordinator = federation.coordinator
        coordinator.greet()
        outcome = _rounds(study, coordinator, materials, folder, accounts, observer)
        coordinator.close()
        model_sha256 = folder.write_model(_named(outcome.models, materials))
        results = results_of(study, plan, materials, hospitals, outcome, observer)
        folder.write_json("results.json", results)
        folder.forget_notes()
        history = read_lines(folder.path / "rounds.jsonl")
        assert folder.signer is not None, "set when the run began or went on"
        certificate = certificate_of(coordinator, outcome, model_sha256, history, folder.signer.sealed)
        weights = WeightsCard(sha256=model_sha256, models=_names_in_file(outcome.models))
        folder.write_json("model.json", _card(study, materials, weights, str(certificate["short"])).to_json())
        accounts.end()
        accounts.note(folder, materials)
        folder.finish(certificate)
    record = RunRecord.read(folder.path)
    _report(record, observer)
    return record


def _card(study: Study, materials: Materials, weights: WeightsCard, statement: str) -> ModelCard:
    images = materials.images
    return card_of(
        study, materials.workbench.network, weights,
        target=images.target, classes=images.class_names, channels=images.pixels.shape[1], statement=statement,
    )  # fmt: skip


def _names_in_file(models: Models) -> tuple[str, ...]:
    """Returns the names that parameters of several models begin with in `model.safetensors`; none for one model."""
    return tuple(models) if len(models) > 1 else ()


def _named(models: Models, materials: Materials) -> dict[str, Vector]:
    """Returns the content of `model.safetensors`: parameters by name, to be read again as `[model] weights`.

    Of several models, each name stands after that of its hospital.
    """
    workbench = materials.workbench
    if not _names_in_file(models):
        return workbench.named_weights(next(iter(models.values())))
    return {
        f"{model}/{name}": value
        for model, weights in models.items()
        for name, value in workbench.named_weights(weights).items()
    }


def _headline(summary: JsonDict) -> str:
    """Returns the first number of a row, in words; nothing where the test patients cannot give it."""
    shown: Any = summary["shown"]
    value = summary[shown[0]["key"]]
    return "" if value is None else f", {shown[0]['title']} {value:.3f}"


def _report(record: RunRecord, observer: Observer) -> None:
    """Writes the page, unless its extra is not installed: the run is complete without it."""
    observer.stage("writing the report")
    try:
        write_report(record)
    except MissingExtra as error:
        observer.stage(str(error))


def _rounds(
    study: Study,
    coordinator: Coordinator,
    materials: Materials,
    folder: RunFolder,
    accounts: Accounts,
    observer: Observer,
) -> Outcome:
    section = study.federation
    schedule = Schedule(study.rounds, section.evaluate_every, average_last_of(study))
    folder.keeps_every_round = study.performance.keep == "every-round"
    found = folder.latest_checkpoint()
    if found is None:
        counting = f"counting {coordinator.plan.persons.one}s"
        observer.stage(counting if coordinator.counts_patients else "starting")
        state = coordinator.strategy.init(materials.workbench.initial_weights, coordinator.channel)
        position = Position(0, state)
        folder.write_checkpoint(0, position.to_arrays())
    else:
        position = Position.from_arrays(*found)
    observer.stage(
        f"training: {section.strategy}, {study.rounds} rounds, {len(coordinator.channel.hospitals)} hospitals"
    )
    shown = ""

    def look(round: int, models: Models | None) -> JsonDict:
        nonlocal shown
        accounts.note(folder)
        witness, tries = coordinator.witness(round), coordinator.tries(round)
        entry: JsonDict = {} if witness is None else {"witness": asdict(witness)}
        entry |= {} if tries is None else asdict(tries)
        if models is not None:
            metrics = evaluate_models(
                models, materials, ensemble=section.strategy == "ensemble",
                validation=len(materials.validation) > 0, num_resamples=_QUICK_RESAMPLES,
            )  # fmt: skip
            summary = summary_of(metrics)
            epsilon = coordinator.epsilon_after(round)
            entry |= {
                "epsilon": number_to_json(epsilon),
                "measured_on": "validation" if len(materials.validation) else "test",
                "metrics": {k: v for k, v in summary.items() if not k.endswith("_interval")},
            }
            shown = f"ε {epsilon:.2f}" if math.isfinite(epsilon) else "ε ∞"
            shown += _headline(summary)
        again = "" if tries is None else f"  attempt {tries.attempts}, without {', '.join(tries.missing)}"
        observer.progress(round, schedule.num_rounds, shown + again)
        return entry

    return run_rounds(coordinator.strategy, coordinator.channel, schedule, position, folder, look)
