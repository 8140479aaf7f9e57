"""The audit of the whole procedure: one patient less, through the study's own reader, division, cache and rounds.

The neighbour is read anew. Phantoms are generated without the last patient; of a folder a copy is made (by hard links)
without the patient's pictures and without the lines of its tables that name one of them. Where that is not possible, as
with archives, the patient is taken out of the pictures that were read, and the outcome says so.

Two exact tests need no statistics. No other patient changes place, label or a bit of the network's input. With one seed
in both worlds, the first released sum moves by one clipping norm at most: samples, noise and masks are those of the
study, and the same, so that noise which follows the data would move it as well. Both worlds are then repeated, and an
attacker who knows all patients projects the released sums on that difference, the best test there is where noise is
normal (Jagielski et al. 2020, https://arxiv.org/abs/2006.07709). Of local steps the model is projected. Scores are kept
in a folder, so that an interrupted audit goes on, and one with more runs adds to them.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import releases_after
from wardround.audit.bounds import Float64
from wardround.audit.mechanism import Attack, claim_of, noise_std, releases_of, why_not
from wardround.audit.noise import LEVEL, ParameterNoise, check_parameters
from wardround.audit.shadows import models_of
from wardround.audit.trials import Scores, two_worlds, two_worlds_gdp
from wardround.config import Study
from wardround.coordinator.observer import Observer, Silent
from wardround.errors import DataError
from wardround.hospital.pictures import read_images
from wardround.images.folder_copy import copy_without
from wardround.images.patients import ImageSet, Patient
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.calibrate import not_private
from wardround.privacy.plans.kinds import NoisedGradients
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of
from wardround.simulation.availability import availability_of
from wardround.simulation.dealing import Split, split_patients
from wardround.simulation.materials import Materials, gather
from wardround.training.patients import training_patients
from wardround.types import PatientId

ROUNDS = 3
"""Rounds of a repetition that train, at most: each costs as much as a round of a run."""
_RUNS = 6
"""Runs of which the noise of each parameter is compared."""
EACH = 12
"""Patients of every place and label in the repetitions over a folder with more of them."""
_ROUNDING = 1e-4
"""A sum of float32 gradients may be longer than its clip by this part of it."""
_REPEATS = 3


@dataclass(frozen=True)
class Neighbours:
    """Two data sets that differ in one patient, dealt out and ready for training.

    Attributes:
        whole: with the patient.
        less: without.
        through: the way by which the patient was left out, in words.
        others: other patients who were compared.
        moved: of these, those whose place or label changed, who vanished, or who appeared.
        changed: of these, those of whose pictures or input a bit changed.
    """

    whole: Materials
    less: Materials
    through: str
    others: int
    moved: frozenset[PatientId]
    changed: frozenset[PatientId]


@dataclass(frozen=True)
class Procedure:
    """The outcome for one patient.

    Attributes:
        through: the way by which the patient was left out, in words.
        others: other patients.
        moved: of these, those whose place or label changed, who vanished, or who appeared.
        changed: of these, those of whose input a bit changed.
        clips: the distance of the two sums of round 1 under one seed, in clipping norms; None where no sum is released.
        noise: of each parameter of the network in the first sum of several runs; likewise empty.
        attack: the repetitions.
    """

    through: str
    others: int
    moved: int
    changed: int
    clips: float | None
    noise: tuple[ParameterNoise, ...]
    attack: Attack

    @property
    def contradictions(self) -> tuple[str, ...]:
        """A sentence for each exact test that fails."""
        found = []
        if self.moved:
            found.append(
                f"leaving one patient out gives {self.moved} of {self.others} others another place or label, or none"
            )
        if self.changed:
            found.append(f"leaving one patient out changes the network's input of {self.changed} others")
        if self.clips is not None and self.clips > 1 + _ROUNDING:
            found.append(f"one patient moves the sum by {self.clips:.3f} clipping norms")
        found += [
            f"{one.parameter} has {one.present:.1%} of the variance of the plan's noise in {one.numbers} numbers, and "
            f"{one.least:.1%} in one of them"
            for one in self.noise
            if one.p_present < LEVEL
        ]
        return tuple(f"whole procedure: {one}" for one in found)

    def to_json(self) -> dict[str, object]:
        """Returns the exact tests as one JSON object."""
        return {
            "through": self.through, "others": self.others, "moved": self.moved, "changed": self.changed,
            "clips": self.clips, "noise": [asdict(one) for one in self.noise],
        }  # fmt: skip


def audit_procedure(
    study: Study, observer: Observer, *, runs: int, alpha: float, keep: Path | None = None
) -> Procedure | str:
    """Returns what leaving one patient out changes; or the reason why it was not tried.

    Args:
        study: is read, dealt out and trained for `ROUNDS` rounds.
        observer: is told of progress.
        runs: of each of the two worlds.
        alpha: probability that one of the bounds is above the truth.
        keep: private folder in which scores are kept; None keeps none.

    Raises:
        RecordError: the folder has scores of another study (code `record-audit`).
    """
    plan = plan_of(study)
    reason = why_not(study, plan)
    if reason:
        return reason
    rounds = min(study.centre_rounds + ROUNDS, study.training_rounds)
    study = study.model_copy(update={"federation": study.federation.model_copy(update={"rounds": rounds})})
    with TemporaryDirectory(prefix="wardround-audit-") as folder:
        both = neighbours_of(study, observer, Path(folder))
        alike = study.model_copy(update={"study": study.study.model_copy(update={"seed": 0})})
        is_sum, everyone = study.federation.strategy == "fedsgd" and not study.centre_rounds, _everyone(plan)
        known = 1 if is_sum else rounds
        first = {world: _seen(alike, everyone, part, known, "alike") for world, part in _worlds(both)}
        direction = first[True] - first[False]
        length = float(np.linalg.norm(direction))
        direction = direction / length if length else direction
        std = noise_std(study, plan) if is_sum and availability_of(study) is None else None
        noise = () if std is None else _parameter_noise(study, plan, both.whole, std)
        observer.stage("whole procedure, two worlds")
        about = {
            "study": study.digest, "plan": plan.epsilon_after(1), "rounds": rounds,
            "of": "releases" if is_sum else "model",
            "direction": sha256(direction.tobytes()).hexdigest()[:16],
        }  # fmt: skip
        scores = Scores(keep, about)
        for run in range(runs):
            for world, part in _worlds(both):
                if not scores.has(world, run):
                    seen = _seen(study, plan, part, rounds, f"{'with' if world else 'without'}/{run}")
                    scores.add(world, run, float(seen @ direction))
            observer.progress(run + 1, runs)
    bounds = tuple(
        bound(scores.of(False), scores.of(True), plan.delta, alpha / 2) for bound in (two_worlds, two_worlds_gdp)
    )
    claim = claim_of(plan, releases_after(study, rounds), f"the first {rounds} rounds")
    attack = Attack("one patient less, whole procedure", claim, bounds)
    clip = clip_of(plan.training)
    clips = length / clip.norm if is_sum and plan.is_private and clip.adaptive is None else None
    return Procedure(both.through, both.others, len(both.moved), len(both.changed), clips, noise, attack)


def _parameter_noise(study: Study, plan: Plan, materials: Materials, std: float) -> tuple[ParameterNoise, ...]:
    """Returns the noise of each parameter in the first sum of `_RUNS` runs; of answers, in those of each hospital."""
    runs = np.stack([_seen(study, plan, materials, 1, f"parameters/{run}") for run in range(_RUNS)])
    network = materials.workbench.network.trained
    sizes = {name: one.numel() for name, one in network.named_parameters() if one.requires_grad}
    answers = range(runs.shape[1] // sum(sizes.values()))
    several = {f"{name}, answer {k + 1}" if k else name: size for k in answers for name, size in sizes.items()}
    return check_parameters(runs, several, std)


def neighbours_of(study: Study, observer: Observer, folder: Path) -> Neighbours:
    """Returns a study's materials, and those of the same study without one training patient.

    Of a folder with many patients the materials are those of `EACH` patients of every place and label. The places and
    pictures of all other patients are compared as well.

    Args:
        study: is read.
        observer: is told of progress.
        folder: an empty private folder, for copies of the data without the patient.
    """
    if study.site.layout == "phantom":
        whole = gather(study, observer)
        numbers = {patient.id: number for number, patient in enumerate(whole.images.patients)}
        last = max(numbers[patient.id] for patient in _trained(whole.split))
        whole = gather(_with_phantoms(study, last + 1), Silent())
        less, gone = gather(_with_phantoms(study, last), Silent()), whole.images.patients[last]
        return _compared(whole, less, gone, "phantoms generated without the last patient")
    root = study.site.path
    if root is not None and root.is_dir():
        observer.stage("reading pictures")
        images = read_images(study, lambda done, total: observer.progress(done, total))
        with suppress(DataError):
            return _read_anew(study, root, images, folder)
    whole = gather(study, observer)
    gone = _most_pictures(whole.split)
    return _compared(
        whole, _taken_out(study, whole, gone), gone, "the patient taken out of the pictures that were read"
    )


def _trained(split: Split) -> list[Patient]:
    trained = [patient for part in split.hospitals.values() for patient in part]
    if not trained:
        raise DataError("A hospital must have a training patient to be left out, got none. Give more patients.")
    return trained


def _most_pictures(split: Split) -> Patient:
    """Returns the patient who moves the most, where anything depends on counts."""
    return max(_trained(split), key=lambda one: len(one.images))


def _read_anew(study: Study, root: Path, images: ImageSet, folder: Path) -> Neighbours:
    """Returns the neighbours of a folder, each read from a copy of it.

    Raises:
        DataError: a copy cannot be made or read, or still has patients that are left out.
    """
    split = _split(study, images)
    gone = _most_pictures(split)
    some = _some(split, gone)
    others = [one for one in images.patients if one.id not in some]
    left_study, left = _without(study, root, images, [gone], folder / "all")
    if not others:
        whole, less = gather(study, Silent()), gather(left_study, Silent())
        return _compared(whole, less, gone, "a folder without the patient, read anew")
    part, partly = _without(study, root, images, others, folder / "whole")
    part_less, _ = _without(study, root, images, [*others, gone], folder / "less")
    whole, less = gather(part, Silent()), gather(part_less, Silent())
    found = _compared(
        whole, less, gone,
        f"a folder without the patient, read anew; {len(some)} of {len(images.patients)} patients train",
    )  # fmt: skip
    moved = found.moved | (_ids(partly) ^ some) | _moved(images, split, left, _split(study, left), gone)
    rows = {one.id: one.rows for one in images.patients}
    changed = found.changed | {
        one.id for one in left.patients if one.id in rows and not _is_same(images, rows[one.id], left, one.rows)
    }
    return replace(found, moved=moved, changed=changed, others=len(images.patients) - 1)


def _is_same(one: ImageSet, old: tuple[int, ...], other: ImageSet, new: tuple[int, ...]) -> bool:
    """Returns whether a patient's pictures are the same to the last bit; they are read one at a time."""
    return len(old) == len(new) and all(
        np.array_equal(one.pixels[a], other.pixels[b]) for a, b in zip(old, new, strict=True)
    )


def _some(split: Split, gone: Patient) -> set[PatientId]:
    """Returns `EACH` patients of every place and first label, and the one who will be gone; all of a small set."""
    groups: dict[tuple[object, ...], list[PatientId]] = {}
    for place, part in _parts(split):
        for one in part:
            groups.setdefault((place, one.labels[:1]), []).append(one.id)
    return {gone.id, *(one for group in groups.values() for one in group[:EACH])}


def _without(
    study: Study, root: Path, images: ImageSet, patients: Sequence[Patient], into: Path
) -> tuple[Study, ImageSet]:
    """Returns the study on a copy of its folder without some of its patients, and what is read of it.

    Repeats of a picture are no pictures of a patient until that picture is gone: what appears then goes as well. The
    copy has every file and line of the others, so that another patient who is not read of it is lost by the reader.

    Raises:
        DataError: the copy cannot be made or read.
    """
    gone, names = list(patients), {one.id for one in patients}
    kept = _files(one for one in images.patients if one.id not in names)
    for attempt in range(_REPEATS):
        path = into / str(attempt)
        copy_without(root, _files(gone), kept, path)
        copied = study.model_copy(update={"site": study.site.model_copy(update={"path": path})})
        found = read_images(copied, lambda done, total: None)
        left = [one for one in found.patients if one.id in names]
        if not left:
            return copied, found
        gone += left
    raise DataError("A copy must not have the patients that are left out of its folder, and has some.")


def _files(patients: Iterable[Patient]) -> set[str]:
    return {image.file for patient in patients for image in patient.images}


def _with_phantoms(study: Study, patients: int) -> Study:
    phantom = study.site.phantom.model_copy(update={"patients": patients})
    return study.model_copy(update={"site": study.site.model_copy(update={"phantom": phantom})})


def _taken_out(study: Study, whole: Materials, patient: Patient) -> Materials:
    images = replace(whole.images, patients=tuple(one for one in whole.images.patients if one.id != patient.id))
    split, bound = _split(study, images), study.privacy.images_per_patient
    names = list(whole.hospitals)  # as the study names them
    hospitals = {
        name: training_patients(part, bound) for name, part in zip(names, split.hospitals.values(), strict=True)
    }
    return replace(
        whole, images=images, split=split, hospitals=hospitals, test=training_patients(split.test, None),
        validation=training_patients(split.validation, None),
    )  # fmt: skip


def _compared(whole: Materials, less: Materials, gone: Patient, through: str) -> Neighbours:
    rows = {one.id: one.rows for one in whole.images.patients}
    moved = _moved(whole.images, whole.split, less.images, less.split, gone)
    both = [one for one in less.images.patients if one.id in rows]
    changed = frozenset(one.id for one in both if not _is_equal(whole, rows[one.id], less, one.rows))
    return Neighbours(whole, less, through, len(rows) - 1, moved, changed)


def _moved(images: ImageSet, split: Split, left: ImageSet, after: Split, gone: Patient) -> frozenset[PatientId]:
    """Returns the patients, other than the one who is gone, whose place or label changed, who vanished or appeared."""
    old, new = _places(split), _places(after)
    one, other = _ids(images), _ids(left)
    return frozenset(id for id in (one | other) - {gone.id} if old.get(id) != new.get(id) or id in one ^ other)


def _ids(images: ImageSet) -> set[PatientId]:
    return {one.id for one in images.patients}


def _split(study: Study, images: ImageSet) -> Split:
    return split_patients(images, study.data, study.hospitals)


def _parts(split: Split) -> list[tuple[str, tuple[Patient, ...]]]:
    return [*split.hospitals.items(), ("test", split.test), ("validation", split.validation)]


def _places(split: Split) -> dict[PatientId, tuple[object, tuple[int, ...]]]:
    """Returns the place and the labels of every patient who has a place."""
    return {one.id: (place, one.labels) for place, part in _parts(split) for one in part}


def _is_equal(whole: Materials, old: tuple[int, ...], less: Materials, new: tuple[int, ...]) -> bool:
    """Returns whether a patient's pictures are the same inputs of the network, to the last bit."""
    if len(old) != len(new):
        return False
    one, other = (
        made.workbench.inputs_of(np.array(rows, dtype=np.int64)) for made, rows in ((whole, old), (less, new))
    )
    return one.shape == other.shape and bool((one == other).all())


def _worlds(both: Neighbours) -> Iterator[tuple[bool, Materials]]:
    yield False, both.less
    yield True, both.whole


def _seen(study: Study, plan: Plan, materials: Materials, rounds: int, label: str) -> Float64:
    """Returns the sums of some rounds, added up; of local steps, and with centre rounds, the model after them."""
    name = f"audit/procedure/{label}"
    if study.federation.strategy != "fedsgd" or study.centre_rounds:
        made = models_of(study, plan, materials, materials.hospitals, name, averaged=False)
        return next(islice(made, rounds - 1, None)).astype(np.float64)
    with LedgerFile(Path(":memory:")) as ledgers:
        found = releases_of(study, plan, materials, rounds, name, ledgers)
        size = materials.workbench.initial_weights.size
        return np.asarray(sum(seen.whole(materials.hospitals, size) for seen in found))


def _everyone(plan: Plan) -> Plan:
    """Returns a plan of which every patient takes part in every release; without noise where rounds share theirs."""
    if not isinstance(plan.training, NoisedGradients):
        return not_private(plan, 1)
    part = plan.training
    return replace(
        plan, parts=tuple(replace(one, sampling_prob=1.0) if one is part else one for one in plan.parts)
    )
