"""The results of a run: metrics, releases and their readers, and the table of patients' places."""

import hashlib
import hmac
import os

from wardround.agreed.operating_point import operating_points_of
from wardround.agreed.upload import upload_of
from wardround.config import Study
from wardround.coordinator.observer import Observer
from wardround.coordinator.rounds import Outcome
from wardround.images.entries import Target
from wardround.images.patients import Patient
from wardround.privacy.plans.kinds import NoisedPictures
from wardround.privacy.plans.plan import Plan
from wardround.published import published
from wardround.simulation.availability import availability_of
from wardround.simulation.called import called
from wardround.simulation.evaluation import (
    evaluate_models,
    evaluate_subgroups,
    location_dice,
    shortcut_figures,
    summary_of,
)
from wardround.simulation.materials import Hospitals, Materials
from wardround.simulation.references import POOLED, pooled, wanted
from wardround.simulation.released import Release
from wardround.training.patients import TrainingPatients, training_patients


def results_of(
    study: Study,
    plan: Plan,
    materials: Materials,
    hospitals: Hospitals,
    outcome: Outcome,
    released: tuple[Release, ...],
    observer: Observer,
) -> dict[str, object]:
    """Returns metrics of the final models, and releases with their readers; evaluates."""
    observer.stage("evaluating")
    ensemble = study.federation.strategy == "ensemble"
    metrics = evaluate_models(outcome.models, materials, ensemble=ensemble)
    availability = availability_of(study)
    upload = upload_of(plan, materials.workbench.network.num_parameters, hospitals)
    return {
        "metrics": summary_of(metrics),
        "validation": _validated(outcome, materials, ensemble),
        **_called(study, plan, materials, outcome),
        "models": {name: m.to_json() for name, m in metrics.items()},
        "subgroups": evaluate_subgroups(next(iter(outcome.models.values())), materials)
        if len(outcome.models) == 1
        else {},
        "compare": list(wanted(study, plan)),
        "target": materials.images.target.value,
        **shortcut_figures(materials),
        "location_dice": location_dice(materials),
        "classes": list(materials.images.class_names),
        "parameters": materials.workbench.network.num_parameters,
        "test": {
            "patients": len(materials.test),
            "images": len(materials.test.rows),
            "leaking": materials.split.leaking,
            "note": materials.split.note,
        },
        "hospitals": [
            {"name": n, "patients": len(p), "images": len(p.rows), "share_not_first_class": _share(p, materials)}
            for n, p in _as_dealt(study, plan, materials, hospitals).items()
        ],
        "availability": None if availability is None else availability.to_json(outcome.position.round),
        "upload": None if upload is None else upload.to_json(),
        "findings": materials.images.findings.summary(),
        "resemblance": published(study.privacy.plan, "simulation").resemblance_of(plan, materials)
        if isinstance(plan.training, NoisedPictures)
        else None,
        "released": [one.to_json() for one in released],
    }


def _as_dealt(study: Study, plan: Plan, materials: Materials, hospitals: Hospitals) -> Hospitals:
    """Returns the patients of each hospital whether or not they can afford the study, which depends on no account.

    Of noised pictures these are the patients who were released, as the release itself shows.
    """
    if isinstance(plan.training, NoisedPictures):
        return hospitals
    bound = study.privacy.images_per_patient
    places = {name: training_patients(patients, bound) for name, patients in materials.split.hospitals.items()}
    return places if hospitals.keys() == places.keys() else {POOLED: pooled(places)}


def _called(study: Study, plan: Plan, materials: Materials, outcome: Outcome) -> dict[str, object]:
    """Returns what operating points reach on the test pictures, and the calibration; neither of several models."""
    if materials.images.target is Target.MASKS or len(outcome.models) > 1:
        return {"operating_points": [], "calibration": None}
    [weights] = outcome.models.values()
    points = operating_points_of(study, plan, outcome.position.state, materials.images.class_names)
    rows, calibration = called(points, weights, materials)
    return {"operating_points": rows, "calibration": calibration}


def _validated(outcome: Outcome, materials: Materials, ensemble: bool) -> dict[str, object] | None:
    """Returns metrics of the final models on the validation patients; None where there are none."""
    if not len(materials.validation):
        return None
    metrics = evaluate_models(outcome.models, materials, ensemble=ensemble, validation=True)
    return {
        "patients": len(materials.validation),
        "images": len(materials.validation.rows),
        "metrics": summary_of(metrics),
    }


def patient_table(materials: Materials) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Returns each patient's place, by a hash under a key that is forgotten: rows can be counted, not traced."""
    key = os.urandom(32)
    places: list[tuple[str, tuple[Patient, ...]]] = [("test", materials.split.test)]
    places += [("validation", materials.split.validation), *materials.split.hospitals.items()]
    rows = [
        (hmac.new(key, said, hashlib.sha256).hexdigest()[:16], place, len(patient.images))
        for place, patients in places
        for patient in patients
        for said in [patient.id.encode("utf-8", "surrogatepass")]  # it may be a file's name that is no UTF-8
    ]
    return ("patient", "place", "images"), sorted(rows)


def _share(patients: TrainingPatients, materials: Materials) -> float | None:
    """Returns the share of pictures that are not of the first class; None where pictures have no class."""
    if materials.images.target is Target.MASKS or not len(patients):
        return None
    return float((patients.labels > 0).mean())
