"""A run from its first stage to its report, and the way back into one that was interrupted."""

import copy
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import torch

from wardround.agreed.plans import check_limit, plan_of
from wardround.agreed.strategies import timetable_of
from wardround.boundary.machine import raise_fault
from wardround.boundary.private import open_private
from wardround.boundary.text import counted, shown
from wardround.config import Study, read_study
from wardround.config.federation import Averaging, Scaffolding
from wardround.config.privacy import Untrained
from wardround.coordinator.observer import Observer
from wardround.coordinator.recording import Measure, report_on, run_recorded, write_card, write_model
from wardround.coordinator.rounds import JsonDict, Models
from wardround.errors import RecordError, StudyError
from wardround.hospital.pictures import device_of, kept_on_processor
from wardround.privacy.plans.kinds import NoisedPictures
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of, share_of_patients
from wardround.published import published
from wardround.records.environment import describe_environment, device_in, threads_of
from wardround.records.folder import RunFolder, RunRecord
from wardround.records.reading import read_json
from wardround.records.signed import check_signed, verified
from wardround.records.signer import Signer, sealed
from wardround.report.numbers import headline_of
from wardround.simulation.accounts import Accounts, admitted, begun, resumed
from wardround.simulation.availability import check_availability
from wardround.simulation.called import OWN_PAGE, show_mistakes
from wardround.simulation.evaluation import evaluate_models, summary_of
from wardround.simulation.federate import answers_as_one, federate
from wardround.simulation.forecast.seconds import made_up_bench
from wardround.simulation.masked import check_masks
from wardround.simulation.materials import Hospitals, Materials, gather
from wardround.simulation.own_key import check_contains, own_key, own_pin
from wardround.simulation.references import POOLED, check_references, pooled, run_references
from wardround.simulation.released import releases_of, unprotected_in
from wardround.simulation.results import patient_table, results_of
from wardround.training.threads import faster, using_threads

_MOST_PICTURES = 64
"""Largest step whose time decides on the threads: still larger kernels gain no less from all cores, and take longer."""

_QUICK_RESAMPLES = 2  # intervals during training are not shown
_NAMES = {"study_digest": "study file", "weights_sha256": "weights file"}


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
    if isinstance(study.privacy, Untrained):
        raise StudyError(
            'A simulation trains a model, and `[privacy] plan = "evaluation"` trains none. Run the study between '
            "hospitals with: wardround coordinate.",
            code="study-evaluation-only",
        )
    observer.stage("computing the privacy plan")
    check_availability(study, timetable_of(study))
    plan = plan_of(study)
    check_references(study, plan)
    check_limit(study, plan)
    device_of(study)
    with using_threads(study.performance.threads):
        materials = gather(study, observer)
    plan = replace(plan, persons=materials.images.persons)
    check_masks(plan, materials.workbench.network.num_parameters, materials.split.hospitals)
    threads = _threads_for(study, plan, materials)
    key = own_key()
    with (
        using_threads(threads),
        begun(study, plan, materials, out, fresh=fresh, rehearsal=rehearsal) as (folder, accounts),
    ):
        folder.write_json(
            "environment.json",
            describe_environment(threads)
            | {"device": materials.workbench.device.type}
            | _identity(study, materials),
        )
        materials = _admitted(study, materials, accounts, observer)
        folder.write_patients(*patient_table(materials))
        signer = Signer(key, study.digest, sealed(accounts.ledger.position()[1], key))
        folder.begin(signer, study.to_toml())  # last: a folder with a study file can be resumed
        return _train(study, plan, materials, folder, accounts, observer)


def resume_run(path: Path, observer: Observer) -> RunRecord:
    """Goes on with an interrupted run, or with the reference runs of a finished one; else it is only reported anew.

    The record is verified first: it must be signed with this person's own key, and be as it was signed.

    Raises:
        WardroundError: no run there, its record does not hold, or its study, pictures or weights are not the ones it
            began with.
    """
    folder = RunFolder.open(path)
    try:
        if (path / "certificate.json").exists():
            record = verified(path, own_pin())
            if not record.outstanding:
                observer.stage("the run is finished; writing its report again")
                report_on(record, observer, own_key())
                return record
        signed = check_signed(path, own_pin())
        study = read_study(path / "study.toml")
        environment = read_json(path / "environment.json")
        if study.digest != signed.study_digest:
            raise _changed("study_digest", path)
        key = own_key()
        study = _repeated(study, device_in(environment))
        observer.stage("computing the privacy plan")
        plan = plan_of(study)
        with using_threads(study.performance.threads):
            materials = gather(study, observer)
        plan = replace(plan, persons=materials.images.persons)
        for what, now in _identity(study, materials).items():
            if environment.get(what) != now:
                raise _changed(what, path)
        # Another number of threads may round differently.
        with using_threads(threads_of(environment)), resumed(study, plan, materials, path) as accounts:
            check_contains(accounts.ledger, key, signed.ledger)
            if signed.is_finished:
                materials = _admitted(study, materials, accounts, observer)
                with _hospital_log(folder):
                    materials, _ = _trained_on(study, plan, materials, folder, accounts, observer)
                    return _compared(study, plan, materials, RunRecord.read(path), observer)
            folder.signer = Signer(key, study.digest, signed.ledger)
            folder.signer.begin(path, {})
            found = folder.latest_checkpoint()
            accounts.check_continues(0 if found is None else found[0], study.rounds)
            materials = _admitted(study, materials, accounts, observer)
            return _train(study, plan, materials, folder, accounts, observer)
    finally:
        folder.close()


def _repeated(study: Study, device: str) -> Study:
    """Returns the study on the device that its run began on: another one gives other bits.

    Raises:
        RecordError: it is not there (code `record-device`).
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RecordError(
            "A run must go on on the device that it began on, a GPU, and torch sees none here; go on where there is "
            "one, or start a new run.",
            code="record-device",
        )
    performance = study.performance.model_copy(update={"device": device})
    return study.model_copy(update={"performance": performance})


def _changed(what: str, path: Path) -> RecordError:
    return RecordError(
        f"The {_NAMES[what]} must be what the run in {path} began with, and has changed; restore it, or start a new "
        "run.",
        code="record-edited-study-toml" if what == "study_digest" else None,
    )


def _threads_for(study: Study, plan: Plan, materials: Materials) -> int:
    """Returns the threads of a new run, which its record keeps and a resumed run repeats.

    Those of `[performance] threads` where it names them. Else one for a seeded run, whose bits must not depend on how
    busy a machine is, for masked sums, which take one in any case, for a linear head, and where every core has a
    hospital of its own that takes local steps, in a process of its own; else one or all, by timed steps on random
    pictures, as many as a step has by the public number of patients. No patient is looked at.
    """
    if study.performance.threads is not None:
        return study.performance.threads
    cores, network, images = torch.get_num_threads(), materials.workbench.network, materials.images
    if cores == 1 or kept_on_processor(study, network) is not None:
        return 1
    clip = clip_of(plan.training).norm
    side_by_side = timetable_of(study).at_once if isinstance(study.federation, Averaging | Scaffolding) else 1
    if side_by_side >= cores and materials.workbench.processes is not None:
        return 1
    # On a copy: the guards of the network have seen no batch before its first real one.
    own = replace(network, trained=copy.deepcopy(network.trained))
    sums = 1 if answers_as_one(study, plan) else len(materials.hospitals)
    patients = (
        share_of_patients(plan.training) * (plan.public_size or math.inf) / sums
    )  # the true number is private
    expected = round(max(1, min(_MOST_PICTURES, patients)))
    bench, everyone = made_up_bench(study, own, images.target, images.pixels.shape[1:], expected)
    return faster(lambda: bench.gradient_sums(bench.initial_weights, [everyone], clip, 0), cores)


def _identity(study: Study, materials: Materials) -> dict[str, str | None]:
    """Returns what must be the same on resume, beside the pictures: a statement over two studies would be false."""
    return {"study_digest": study.digest, "weights_sha256": materials.workbench.network.weights_sha256}


def _admitted(study: Study, materials: Materials, accounts: Accounts, observer: Observer) -> Materials:
    """Returns the materials without patients who cannot afford the study; how many those are is said here alone."""
    materials, left_out = admitted(study, materials, accounts)
    if left_out:
        observer.stage(
            f"{counted(left_out, 'patient is', 'patients are')} left out, for too much of the limit is spent"
        )
    return materials


def _hospitals(study: Study, materials: Materials) -> Hospitals:
    if study.federation.strategy == "pooled":
        return {POOLED: pooled(materials.hospitals)}
    return materials.hospitals


class _PrivateLog(logging.FileHandler):
    """A log for its owner alone; a link in its place is not followed."""

    def _open(self) -> TextIOWrapper:
        handle = open_private(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND)
        return TextIOWrapper(os.fdopen(handle, "wb"), encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # a name of the standard library
        """Ends the run as any other file of it that cannot be written."""
        error = sys.exception()
        if error is not None:
            raise_fault(error, self.baseFilename)
        super().handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record, no line of which steers a terminal."""
        return "\n".join(map(shown, super().format(record).split("\n")))


@contextmanager
def _hospital_log(folder: RunFolder) -> Iterator[None]:
    """Keeps the simulated hospitals' own log; elsewhere they report a failure as a code and a stage."""
    log = logging.getLogger("wardround.hospital")
    handler = _PrivateLog(folder.path / "hospitals.log", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.propagate = True
        log.removeHandler(handler)
        handler.close()


def _train(
    study: Study, plan: Plan, materials: Materials, folder: RunFolder, accounts: Accounts, observer: Observer
) -> RunRecord:
    with _hospital_log(folder):
        materials, hospitals = _trained_on(study, plan, materials, folder, accounts, observer)
        federation = federate(
            study, plan, materials, hospitals, accounts.of, accounts.ledger.transaction,
            label="main", memory=folder.path / "hospitals",
        )  # fmt: skip
        coordinator = federation.coordinator
        coordinator.greet()
        network, images = materials.workbench.network, materials.images
        measure = _measure(study, materials, folder, accounts)
        outcome = run_recorded(
            coordinator,
            materials.workbench.initial_weights,
            folder,
            observer,
            measure,
            classes=len(images.class_names),
        )
        coordinator.close()
        model_sha256 = write_model(outcome, network, folder)
        released = releases_of(
            study, plan, materials.images.target,
            leaking=materials.split.leaking, validation=len(materials.validation) > 0, is_lasting=accounts.is_lasting,
        )  # fmt: skip
        results = results_of(study, plan, materials, hospitals, outcome, released, observer)
        folder.write_json("results.json", results)
        if len(outcome.models) == 1:
            [weights] = outcome.models.values()
            show_mistakes(weights, materials, folder.path / OWN_PAGE)
        folder.forget_notes()
        certificate = write_card(
            coordinator, outcome, network, folder, model_sha256=model_sha256, target=images.target,
            classes=images.class_names, channels=images.pixels.shape[1], stamp=accounts.standing.stamp,
        )  # fmt: skip
        certificate |= {"standing": accounts.standing.value, "unprotected": unprotected_in(released)}
        accounts.end()
        accounts.note(folder, materials)
        folder.finish(certificate)
        record = RunRecord.read(folder.path)
        report_on(record, observer, own_key())
        return _compared(study, plan, materials, record, observer) if record.outstanding else record


def _trained_on(
    study: Study, plan: Plan, materials: Materials, folder: RunFolder, accounts: Accounts, observer: Observer
) -> tuple[Materials, Hospitals]:
    """Returns what training sees, and the patients of each hospital that is asked: noised pictures are made once."""
    hospitals = _hospitals(study, materials)
    if not isinstance(plan.training, NoisedPictures):
        return materials, hospitals
    observer.stage("noising pictures")
    release = published(study.privacy.plan, "simulation").released_materials
    materials = release(study, plan, materials, hospitals, accounts, folder)
    return materials, _hospitals(study, materials)


def _compared(study: Study, plan: Plan, materials: Materials, record: RunRecord, observer: Observer) -> RunRecord:
    """Runs the references of a finished run, whose figures are said first, and writes its report again."""
    found = headline_of(record)
    observer.stage(f"the run is finished: {found}; {counted(len(record.outstanding), 'reference run')} to go")
    record = run_references(study, plan, materials, record, observer, own_key())
    report_on(record, observer, own_key())
    return record


def _headline(summary: JsonDict) -> str:
    """Returns the first number of a row, in words; nothing where the test patients cannot give it."""
    shown: Any = summary["shown"]
    value = summary[shown[0]["key"]]
    return "" if value is None else f", {shown[0]['title']} {value:.3f}"


def _measure(study: Study, materials: Materials, folder: RunFolder, accounts: Accounts) -> Measure:
    """Returns what notes the ledger after each round, and evaluates the models on the patients set aside."""

    def measure(round: int, models: Models | None) -> tuple[JsonDict, str]:
        accounts.note(folder)
        if models is None:
            return {}, ""
        validation = len(materials.validation) > 0
        metrics = evaluate_models(
            models, materials, ensemble=study.federation.strategy == "ensemble", validation=validation,
            num_resamples=_QUICK_RESAMPLES,
        )  # fmt: skip
        summary = summary_of(metrics)
        entry: JsonDict = {
            "measured_on": "validation" if validation else "test",
            "metrics": {k: v for k, v in summary.items() if not k.endswith("_interval")},
        }
        return entry, _headline(summary)

    return measure
