"""The audit of the whole procedure: one patient less, through the study's own reader, division, cache and rounds.

The neighbour is read anew. Phantoms are generated without the last patient; of a folder a copy is made (by hard links)
without the patient's pictures and without the lines of its tables that name one of them. Where that is not possible, as
with archives, the patient is taken out of the pictures that were read, and the outcome says so.

Two exact tests need no statistics: no other patient changes place, label or a bit of the network's input, and without
noise the first sum moves by one clipping norm at most. Both worlds are then repeated with noise, and an attacker who
knows all patients projects the model on the difference of the two models without noise, the best test there is where
noise is normal (Jagielski et al. 2020, https://arxiv.org/abs/2006.07709). Scores are kept in a folder, so that an
interrupted audit goes on, and one with more runs adds to them.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import releases_after
from wardround.audit.bounds import Float64
from wardround.audit.mechanism import Attack, claim_of, why_not
from wardround.audit.shadows import models_of
from wardround.audit.trials import two_worlds, two_worlds_gdp
from wardround.boundary.private import make_private_folder, open_private
from wardround.config import Study
from wardround.coordinator.observer import Observer, Silent
from wardround.errors import DataError, RecordError
from wardround.images.patients import Patient
from wardround.privacy.plans.calibrate import not_private
from wardround.privacy.plans.kinds import CorrelatedGradients, NoisedGradients
from wardround.privacy.plans.plan import Plan
from wardround.simulation.dealing import split_patients
from wardround.simulation.materials import Materials, gather
from wardround.training.patients import training_patients
from wardround.types import Vector

ROUNDS = 3
"""Rounds of a repetition that train, at most: each costs as much as a round of a run."""
_ROUNDING = 1e-4
"""A sum of float32 gradients may be longer than its clip by this part of it."""
_TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Neighbours:
    """Two data sets that differ in one patient, dealt out and ready for training.

    Attributes:
        whole: with the patient.
        less: without.
        through: the way by which the patient was left out, in words.
        moved: other patients whose place or label changed.
        changed: other patients of whose input a bit changed.
    """

    whole: Materials
    less: Materials
    through: str
    moved: int
    changed: int


@dataclass(frozen=True)
class Procedure:
    """The outcome for one patient.

    Attributes:
        through: the way by which the patient was left out, in words.
        others: other patients.
        moved: of these, those whose place or label changed.
        changed: of these, those of whose input a bit changed.
        clips: the distance of the two sums of round 1 without noise, in clipping norms; None where no sum is released.
        attack: the repetitions.
    """

    through: str
    others: int
    moved: int
    changed: int
    clips: float | None
    attack: Attack

    @property
    def contradictions(self) -> tuple[str, ...]:
        """A sentence for each exact test that fails."""
        found = []
        if self.moved:
            found.append(
                f"leaving one patient out gives {self.moved} of {self.others} others another place or label"
            )
        if self.changed:
            found.append(f"leaving one patient out changes the network's input of {self.changed} others")
        if self.clips is not None and self.clips > 1 + _ROUNDING:
            found.append(f"one patient moves the sum by {self.clips:.3f} clipping norms")
        return tuple(f"whole procedure: {one}" for one in found)

    def to_json(self) -> dict[str, object]:
        """Returns the exact tests as one JSON object."""
        return {
            "through": self.through, "others": self.others, "moved": self.moved, "changed": self.changed,
            "clips": self.clips,
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
        quiet = not_private(_everyone(plan), 1)
        known = {world: _models(study, quiet, part, "without noise") for world, part in _worlds(both)}
        direction = known[True][-1].astype(np.float64) - known[False][-1]
        length = float(np.linalg.norm(direction))
        direction = direction / length if length else direction
        observer.stage("whole procedure, two worlds")
        scores = _Scores(keep, {"study": study.digest, "plan": plan.epsilon_after(1), "rounds": rounds})
        for run in range(runs):
            for world, part in _worlds(both):
                if not scores.has(world, run):
                    end = _models(study, plan, part, f"{'with' if world else 'without'}/{run}")[-1]
                    scores.add(world, run, float(end.astype(np.float64) @ direction))
            observer.progress(run + 1, runs)
    bounds = tuple(
        bound(scores.of(False), scores.of(True), plan.delta, alpha / 2) for bound in (two_worlds, two_worlds_gdp)
    )
    claim = claim_of(plan, releases_after(study, rounds), f"the first {rounds} rounds")
    others = len(both.less.images.patients)
    attack = Attack("one patient less, whole procedure", claim, bounds)
    return Procedure(both.through, others, both.moved, both.changed, _clips(study, plan, known), attack)


def neighbours_of(study: Study, observer: Observer, folder: Path) -> Neighbours:
    """Returns a study's materials, and those of the same study without one training patient.

    Args:
        study: is read.
        observer: is told of progress.
        folder: an empty private folder, for a copy of the data without the patient.
    """
    whole = gather(study, observer)
    trained = [patient for part in whole.split.hospitals.values() for patient in part]
    if not trained:
        raise DataError("A hospital must have a training patient to be left out, got none. Give more patients.")
    if study.site.layout == "phantom":
        numbers = {patient.id: number for number, patient in enumerate(whole.images.patients)}
        last = max(numbers[patient.id] for patient in trained)
        whole = gather(_with_phantoms(study, last + 1), Silent())
        less, through = (
            gather(_with_phantoms(study, last), Silent()),
            "phantoms generated without the last patient",
        )
        return _compared(whole, less, through)
    patient = max(trained, key=lambda one: len(one.images))  # moves the most, where anything depends on counts
    root = study.site.path
    if root is not None and root.is_dir():
        copy_without(root, patient, folder / "data")
        site = study.site.model_copy(update={"path": folder / "data"})
        expected = {one.id for one in whole.images.patients} - {patient.id}
        with suppress(DataError):
            less = gather(study.model_copy(update={"site": site}), Silent())
            if {one.id for one in less.images.patients} == expected:
                return _compared(whole, less, "a folder without the patient, read anew")
    return _compared(
        whole, _taken_out(study, whole, patient), "the patient taken out of the pictures that were read"
    )


def copy_without(root: Path, patient: Patient, into: Path) -> None:
    """Makes a folder of hard links to all files but a patient's pictures.

    Tables lose the lines that name one of them.
    """
    gone = {image.file for image in patient.images}
    names = {name.encode() for name in gone} | {Path(name).name.encode() for name in gone}
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_dir() or str(relative) in gone:
            continue
        target = into / relative
        make_private_folder(target.parent)
        if path.suffix.lower() in _TABLES:
            lines = path.read_bytes().splitlines(keepends=True)
            target.write_bytes(b"".join(line for line in lines if not any(name in line for name in names)))
            continue
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copyfile(path, target)


def _with_phantoms(study: Study, patients: int) -> Study:
    phantom = study.site.phantom.model_copy(update={"patients": patients})
    return study.model_copy(update={"site": study.site.model_copy(update={"phantom": phantom})})


def _taken_out(study: Study, whole: Materials, patient: Patient) -> Materials:
    images = replace(whole.images, patients=tuple(one for one in whole.images.patients if one.id != patient.id))
    split, bound = split_patients(images, study.data, study.hospitals), study.privacy.images_per_patient
    names = list(whole.hospitals)  # as the study names them
    hospitals = {
        name: training_patients(part, bound) for name, part in zip(names, split.hospitals.values(), strict=True)
    }
    return replace(
        whole, images=images, split=split, hospitals=hospitals, test=training_patients(split.test, None),
        validation=training_patients(split.validation, None),
    )  # fmt: skip


def _compared(whole: Materials, less: Materials, through: str) -> Neighbours:
    before, after = _places(whole), _places(less)
    rows = {one.id: one.rows for one in whole.images.patients}
    others = less.images.patients
    moved = sum(before.get(one.id) != after.get(one.id) for one in others)
    changed = sum(not _is_equal(whole, rows[one.id], less, one.rows) for one in others)
    return Neighbours(whole, less, through, moved, changed)


def _places(materials: Materials) -> dict[str, tuple[object, tuple[int, ...]]]:
    """Returns the place and the labels of every patient who has a place."""
    split = materials.split
    parts = [*split.hospitals.items(), ("test", split.test), ("validation", split.validation)]
    return {one.id: (place, one.labels) for place, part in parts for one in part}


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


def _models(study: Study, plan: Plan, materials: Materials, label: str) -> list[Vector]:
    made = models_of(study, plan, materials, materials.hospitals, f"audit/procedure/{label}", averaged=False)
    return list(islice(made, study.training_rounds))


def _everyone(plan: Plan) -> Plan:
    """Returns a plan of which every patient takes part in every release."""
    return replace(
        plan,
        parts=tuple(
            replace(one, sampling_prob=1.0) if isinstance(one, NoisedGradients) else one for one in plan.parts
        ),
    )


def _clips(study: Study, plan: Plan, known: dict[bool, list[Vector]]) -> float | None:
    """Returns the distance of the two sums of round 1 without noise, in clipping norms."""
    part, section = plan.training, study.federation
    rate = getattr(section, "learning_rate", None)
    if section.strategy != "fedsgd" or not isinstance(part, NoisedGradients | CorrelatedGradients):
        return None
    if plan.public_size is None or not isinstance(rate, float) or part.clip.adaptive is not None:
        return None
    moved = float(np.linalg.norm(known[True][0].astype(np.float64) - known[False][0]))
    return moved * plan.public_size / (rate * part.clip.norm)


class _Scores:
    """Scores of repetitions, appended to a file of the owner alone, the first line of which names what they are of."""

    def __init__(self, folder: Path | None, about: dict[str, object]) -> None:
        self._known: dict[tuple[bool, int], float] = {}
        self._path = None if folder is None else folder / "procedure.jsonl"
        if folder is None or self._path is None:
            return
        make_private_folder(folder)
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        if lines and json.loads(lines[0]) != about:
            raise RecordError(
                f"`--keep` must be the folder of this study's audit, and {self._path} is of another. Give another "
                "folder.",
                code="record-audit",
            )
        for line in lines[1:]:
            try:
                world, run, score = json.loads(line)
            except ValueError:
                continue  # the line that an interruption cut off
            self._known[bool(world), int(run)] = float(score)
        if not lines:
            self._append(about)

    def has(self, world: bool, run: int) -> bool:
        """Returns whether a repetition is known."""
        return (world, run) in self._known

    def add(self, world: bool, run: int, score: float) -> None:
        """Takes in a repetition."""
        self._known[world, run] = score
        self._append([world, run, score])

    def of(self, world: bool) -> Float64:
        """Returns the scores of a world, (run,), in the order of the runs."""
        return np.array([score for (one, _), score in sorted(self._known.items()) if one == world])

    def _append(self, content: object) -> None:
        if self._path is not None:
            with os.fdopen(open_private(self._path, os.O_WRONLY | os.O_APPEND), "a") as file:
                file.write(json.dumps(content) + "\n")
