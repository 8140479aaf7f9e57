"""The audit of a model: membership inference on the patients of a study, and mislabelled pictures as canaries.

| attacked | members | figures |
|---|---|---|
| released models of a run | its training patients; test patients are others | rates of true positives |
| shadow models of a study | each patient by a fair coin | the same; one-run bounds from the first |
| one run of the study's federation | test patients with wrong labels, by fair coins | one-run bounds |

Coins are fair and each patient's own, so that the one-run bounds hold for the procedure and are held against the claim.
Figures are computed from real patients and protected by nothing: pages and JSON are the hospital's own copy.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import releases_after
from wardround.audit.bounds import Float64
from wardround.audit.mechanism import Attack, claim_of
from wardround.audit.membership import Attacked, attacked, scores_of
from wardround.audit.shadows import Inclusion, Training, models_of, shadow_confidence, some
from wardround.audit.trials import canaries, canaries_fdp
from wardround.config import Study
from wardround.config.federation import ALONE, PublishedStrategy
from wardround.coordinator.observer import Observer
from wardround.errors import RecordError
from wardround.images.entries import Target
from wardround.images.patients import Patient
from wardround.records.arrays import arrays_from_file
from wardround.simulation.materials import Materials, gather
from wardround.training.metrics.groups import MIN_PATIENTS
from wardround.training.patients import TrainingPatients, training_patients, united
from wardround.types import Vector

_ROUNDS = 8
"""Released rounds that are attacked together, at most."""
_CHECKPOINT = re.compile(r"round-(\d+)\.safetensors", re.ASCII)


@dataclass(frozen=True)
class Leak:
    """The outcome of membership inference on a model.

    Attributes:
        attacked: the models in words.
        shadows: models that the attacker trained.
        rounds: of the released models that were attacked together; the last is the final one.
        figures: of each attack, on all patients.
        groups: LiRA's figures by column and value of each subgroup that has enough patients on both sides.
        real: whether the pictures are of real patients.
    """

    attacked: str
    shadows: int
    rounds: tuple[int, ...]
    figures: tuple[Attacked, ...]
    groups: Mapping[str, Attacked]
    real: bool

    def to_json(self) -> dict[str, object]:
        """Returns the figures as one JSON object."""
        return {
            "attacked": self.attacked, "shadows": self.shadows, "rounds": list(self.rounds), "real": self.real,
            "figures": [asdict(one) for one in self.figures],
            "groups": {name: asdict(one) for name, one in self.groups.items()},
        }  # fmt: skip


def why_no_model(study: Study) -> str:
    """Returns why a study's model is not attacked; empty if it is."""
    if study.privacy.releases_pictures:
        return "noised pictures are released before any model"
    section = study.federation
    if study.fits_head or section.strategy in ALONE or isinstance(section, PublishedStrategy):
        return f'strategy = "{study.federation.strategy}" has no one model that is trained in rounds'
    return ""


def audit_model(
    study: Study, observer: Observer, *, shadows: int, alpha: float, seed: int, run: Path | None = None
) -> tuple[Leak | str, tuple[Attack, ...]]:
    """Returns what a model tells of its patients, or the reason why that was not tried; and the one-run attacks.

    Args:
        study: its pictures are read, dealt out and encoded as in a run.
        observer: is told of progress.
        shadows: models that the attacker trains, four at least.
        alpha: probability that one of the bounds of one attack is above the truth.
        seed: of coins, and of the shadow models' noise.
        run: the folder of a finished run, whose released models are attacked; None attacks the shadow models.
    """
    reason = why_no_model(study)
    if reason:
        return reason, ()
    plan = plan_of(study)
    if plan.masked is not None:  # the same shares of noise, formed in the open: masks are attacked elsewhere
        study = study.model_copy(update={"privacy": study.privacy.model_copy(update={"sum": "simulated"})})
        plan = plan_of(study)
    materials = gather(study, observer)
    if materials.images.target is Target.MASKS:
        return "membership is inferred from classes, and this study predicts masks", ()
    bound = study.privacy.images_per_patient
    aside = training_patients(materials.split.test, bound)
    inside = united(list(materials.hospitals.values()))
    pool = united([inside, aside])
    is_member = np.arange(len(pool)) < len(inside)
    generator = np.random.default_rng([seed, 1])
    models = {} if run is None else _released_models(run, study)
    rounds = tuple(sorted(models)) or (study.training_rounds,)
    training = Training(study, plan, materials, pool, rounds)
    share = 0.5 if run is None else float(is_member.mean())
    inclusion = generator.random((shadows, len(pool))) < share
    observer.stage(f"training {shadows} shadow models")
    phi = shadow_confidence(training, inclusion, seed, observer.progress)
    attacks = []
    if run is None:
        scores, truth, first = _of_shadows(phi, inclusion)
        attacks.append(_one_run("patients of the study in one run", first, inclusion[0], training, alpha))
    else:
        scores = scores_of(np.stack([training.confidence(models[at]) for at in rounds]), phi, inclusion)
        truth = is_member
    attacks.append(_wrong_labels(training, inside, aside, generator, shadows, alpha, seed, observer))
    leak = Leak(
        "the released model" if run is not None else "models of this study's training", shadows, rounds,
        tuple(attacked(name, values, truth) for name, values in scores.items()),
        dict(_groups(scores["LiRA"], truth, materials)), study.site.layout != "phantom",
    )  # fmt: skip
    return leak, tuple(attacks)


def _of_shadows(phi: Float64, inclusion: Inclusion) -> tuple[dict[str, Float64], Inclusion, Float64]:
    """Returns scores and truths, (shadow * patient,), each shadow attacked by the others; and LiRA's of the first."""
    found = [
        scores_of(phi[s], np.delete(phi, s, axis=0), np.delete(inclusion, s, axis=0)) for s in range(len(phi))
    ]
    joined = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return joined, inclusion.ravel(), found[0]["LiRA"]


def _wrong_labels(
    training: Training, inside: TrainingPatients, aside: TrainingPatients, generator: np.random.Generator,
    shadows: int, alpha: float, seed: int, observer: Observer,
) -> Attack:  # fmt: skip
    """Returns one-run bounds from test patients with wrong labels, each in one run of the study with a fair coin."""
    classes = len(training.materials.images.class_names)
    wrong = replace(aside, labels=(aside.labels + 1) % classes)
    pool = united([inside, wrong])
    is_canary = np.arange(len(pool)) >= len(inside)
    inclusion = ~is_canary | (generator.random((shadows, len(pool))) < 0.5)
    training = replace(training, pool=pool, rounds=training.rounds[-1:])
    observer.stage(f"training {shadows} shadow models with wrong labels")
    phi = shadow_confidence(training, inclusion, seed + 1, observer.progress)[:, :, is_canary]
    coins = generator.random(len(wrong)) < 0.5
    names = list(training.materials.hospitals)
    hospitals = {
        name: united([training.materials.hospitals[name], some(wrong, np.flatnonzero(coins)[k :: len(names)])])
        for k, name in enumerate(names)
    }
    observer.stage("one run with wrong labels")
    *_, model = models_of(training.study, training.plan, training.materials, hospitals, "audit/wrong labels")
    target = training.confidence(model)[None, is_canary]
    scores = scores_of(target, phi, inclusion[:, is_canary])["LiRA"]
    return _one_run("pictures with wrong labels in one run", scores, coins, training, alpha)


def _one_run(name: str, scores: Float64, coins: Inclusion, training: Training, alpha: float) -> Attack:
    plan, study, half = training.plan, training.study, alpha / 2
    bounds = (canaries(scores, coins, plan.delta, half), canaries_fdp(scores, coins, plan.delta, half))
    rounds = study.training_rounds
    return Attack(name, claim_of(plan, releases_after(study, rounds), f"the {rounds} rounds of gradients"), bounds)


def _released_models(run: Path, study: Study) -> dict[int, Vector]:
    """Returns models of kept rounds, evenly spread, the last one the final model, by round of training."""
    found = {
        int(match[1]): path
        for path in (run / "checkpoints").iterdir()
        if (match := _CHECKPOINT.fullmatch(path.name)) and int(match[1])
    }
    if not found:
        raise RecordError(
            f"`checkpoints` of {run} must have the final model, and is empty. Audit the study instead.",
            code="record-checkpoint",
        )
    final = max(found)
    kept = (
        [at for at in sorted(found) if at < study.training_rounds]
        if study.performance.keep == "every-round"
        else []
    )
    chosen = {kept[k * len(kept) // (_ROUNDS - 1)] for k in range(_ROUNDS - 1)} if kept else set()
    return {
        min(at, study.training_rounds): _model_in(arrays_from_file(found[at])) for at in sorted({*chosen, final})
    }


def _model_in(arrays: Mapping[str, Vector]) -> Vector:
    means = [value for name, value in arrays.items() if name.startswith("mean:")]
    return means[0] if means else arrays["state:weights"]


def _groups(scores: Float64, truth: Inclusion, materials: Materials) -> list[tuple[str, Attacked]]:
    """Returns LiRA's figures of each value of each column that has enough members and others."""
    patients = [one for part in (*materials.split.hospitals.values(), materials.split.test) for one in part]
    repeats = len(scores) // len(patients)
    found = []
    for column in sorted({name for patient in patients for name in _stated(patient)}):
        values = np.array([_stated(patient).get(column, "not stated") for patient in patients])
        for value in np.unique(values):
            of = np.tile(values == value, repeats)
            if min((truth & of).sum(), (~truth & of).sum()) >= MIN_PATIENTS and not of.all():
                found.append((f"{column}: {value}", attacked("LiRA", scores, truth, of)))
    return found


def _stated(patient: Patient) -> dict[str, str]:
    """Returns the site and the subgroups of a patient's first picture, where they are stated."""
    first = patient.images[0]
    stated = {"site": patient.site, **dict(first.groups)}
    return {name: value for name, value in stated.items() if value is not None}
