"""An audit of the division of patients: does leaving one patient out change more than that patient's gradient?

    python -m benchmarks.audit_split [--runs 300] [--patients 2774] [--out PATH]

An attacker knows all patients and the study, with the seed of its division, and sees the model after one round. Was one
patient in the data? Both worlds are run many times, through the real division, ledgers, hospitals and noise, at a
claim of epsilon 1.00 for one patient. The attacker projects the released sum on the difference of the two sums without
noise, which is the best test there is. A lower bound on epsilon above the claim refutes it.

Two bounds at 95 %, those of `wardround audit` (`wardround.audit.trials`): by Clopper and Pearson, for every mechanism,
and by Gaussian differential privacy, as the noise is normal. The second sees more at large epsilon.

The same audit is made of the division of before, a copy of which is kept here: permutations of the list of patients,
which move other patients into or out of training when one is left out. Not quiet: no time is measured.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.engine_report import machine
from benchmarks.page import put_between
from wardround.agreed.network import build_network
from wardround.agreed.plans import plan_of
from wardround.audit.shadows import models_of
from wardround.audit.trials import two_worlds, two_worlds_gdp
from wardround.config import Study, parse_study
from wardround.config.data import DataSection, HospitalsSection
from wardround.hospital.pictures import read_images, workbench_of
from wardround.images.patients import ImageSet, Patient
from wardround.privacy.plans.calibrate import not_private
from wardround.privacy.plans.plan import Plan
from wardround.simulation.dealing import Split, split_patients
from wardround.simulation.materials import Materials
from wardround.training.patients import training_patients
from wardround.types import HospitalName

RESULT = Path(__file__).parent / "results" / "audit_split.json"
PAGE = Path(__file__).parents[1] / "docs" / "simulation.md"
OPENS, CLOSES = "<!-- written by benchmarks.audit_split -->", "<!-- end -->"
CLAIM, DELTA, CLIP = 1.0, 1e-5, 1.0
CONFIDENCE = 0.95
_CANDIDATES = 12

Float64 = npt.NDArray[np.float64]
Deal = Callable[[ImageSet, DataSection, HospitalsSection], Split]


def main() -> None:
    """Audits both divisions, prints and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="of each world")
    parser.add_argument("--patients", type=int, default=2774)
    parser.add_argument("--hospitals", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with TemporaryDirectory() as cache:
        study = study_of(options.patients, options.hospitals, cache)
        audits = {name: audit(study, deal, options.runs) for name, deal in DIVISIONS.items()}
    found = {
        "machine": machine(1) | {"quiet": False},
        "claim": {"epsilon": CLAIM, "delta": DELTA, "clipping_norm": CLIP},
        "confidence": CONFIDENCE, "patients": options.patients, "hospitals": options.hospitals, "runs": options.runs,
        "divisions": {name: asdict(one) for name, one in audits.items()},
    }  # fmt: skip
    print(json.dumps(found, indent=2))
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    if options.out == RESULT:
        put_between(PAGE, OPENS, CLOSES, markdown(found))


def markdown(found: dict[str, Any]) -> str:
    """The table of the page."""
    names = {"by-own-id": "by own id", "by-permutation": "by permutation, as before"}
    lines = [
        "| division | other patients moved | the sum moves by | epsilon, at least (Clopper-Pearson) "
        "| epsilon, at least (Gaussian) |",
        "|---|---|---|---|---|",
    ]
    for name, one in found["divisions"].items():
        lines.append(
            f"| {names[name]} | {one['moved']} | {one['sensitivity']:.2f} clips | {one['epsilon']:.2f} "
            f"| {one['epsilon_gaussian']:.2f} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Audit:
    """What an attacker saw of one division.

    Attributes:
        moved: other patients whose place changed when the patient was left out.
        sensitivity: norm of the difference of the sums without noise, in clipping norms.
        epsilon: lower bound by Clopper and Pearson.
        epsilon_gaussian: lower bound by Gaussian differential privacy.
    """

    moved: int
    sensitivity: float
    epsilon: float
    epsilon_gaussian: float


def study_of(patients: int, hospitals: int, cache: str, seed: int | None = None) -> Study:
    """A linear network on phantoms, one round with everybody, noise for the claim; the size of the set is public."""
    return parse_study(
        {
            "study": {"name": "audit-split"} | ({} if seed is None else {"seed": seed}),
            "data": {
                "layout": "phantom", "image_size": 16,
                "phantom": {"patients": patients, "max_images": 2, "image_size": 32},
            },
            "hospitals": {"count": hospitals},
            "model": {"name": "linear"},
            "privacy": {
                "plan": "dp-sgd", "epsilon": CLAIM, "delta": DELTA, "clipping_norm": CLIP, "sampling_prob": 1.0,
                "num_patients": round(0.8 * patients),
            },
            "federation": {"rounds": 1, "learning_rate": 1.0, "momentum": 0.0},
            "performance": {"threads": 1, "cache": cache},
        }
    )  # fmt: skip


def audit(study: Study, deal: Deal, runs: int) -> Audit:
    """Audits a division on the patient who moves the sum most, of a few."""
    plan, everyone = plan_of(study), read_images(study)
    whole = materials_of(study, everyone, deal)
    quiet = not_private(plan, 1)
    known = released(study, quiet, whole)
    trained = [one.id for part in whole.split.hospitals.values() for one in part][:_CANDIDATES]
    worlds = {name: materials_of(study, without(everyone, name), deal, whole) for name in trained}
    moves = {name: known - released(study, quiet, world) for name, world in worlds.items()}
    worst = max(moves, key=lambda name: float(np.linalg.norm(moves[name])))
    other, length = worlds[worst], float(np.linalg.norm(moves[worst]))
    direction = moves[worst] / length
    out, within = [
        np.array([released(_repeat(study, number), plan, world) @ direction for number in range(runs)])
        for world in (other, whole)
    ]
    before, after = _places(whole.split), _places(other.split)
    return Audit(
        moved=sum(after[name] != place for name, place in before.items() if name in after),
        sensitivity=length / CLIP,
        epsilon=two_worlds(out, within, DELTA, 1 - CONFIDENCE).epsilon,
        epsilon_gaussian=two_worlds_gdp(out, within, DELTA, 1 - CONFIDENCE).epsilon,
    )


def materials_of(study: Study, images: ImageSet, deal: Deal, known: Materials | None = None) -> Materials:
    """What `wardround.simulation.materials.gather` makes of a data set; `known` has the network, for it takes long."""
    split, bound = deal(images, study.data, study.hospitals), study.privacy.images_per_patient
    if known is None:
        network = build_network(study, target=images.target, num_classes=2, shape=images.pixels.shape[1:])
        bench = workbench_of(study, images, network)
    else:
        bench = known.workbench
    hospitals = {name: training_patients(patients, bound) for name, patients in split.hospitals.items()}
    nobody = training_patients([], None)
    return Materials(images, split, hospitals, training_patients(split.test, None), nobody, bench)


def without(images: ImageSet, patient: str) -> ImageSet:
    """The neighbour: everybody but one."""
    return replace(images, patients=tuple(one for one in images.patients if one.id != patient))


def released(study: Study, plan: Plan, materials: Materials) -> Float64:
    """The sum that everybody sees after a round, from the change of the model, (parameter,)."""
    start = materials.workbench.initial_weights
    end = next(models_of(study, plan, materials, materials.hospitals, "main", averaged=False))
    assert plan.public_size is not None
    return (start.astype(np.float64) - end) * plan.public_size


def by_permutation(image_set: ImageSet, data: DataSection, hospitals: HospitalsSection) -> Split:
    """The division of before, as it was: labels permuted apart, the first of each set aside, the others in turn."""

    def by_label(patients: list[Patient], stream: int) -> list[list[Patient]]:
        seeds = np.random.SeedSequence(hospitals.split_seed, spawn_key=(stream,))
        generator = np.random.Generator(np.random.PCG64(seeds))
        groups: dict[int, list[Patient]] = defaultdict(list)
        for patient in patients:
            groups[patient.label].append(patient)
        return [[groups[label][i] for i in generator.permutation(len(groups[label]))] for label in sorted(groups)]

    test: list[Patient] = []
    for group in by_label(list(image_set.patients), 1):
        test += group[: round(data.test_fraction * len(group))]
    aside = {patient.id for patient in test}
    rest = [patient for patient in image_set.patients if patient.id not in aside]
    in_turn = [patient for group in by_label(rest, 2) for patient in group]
    dealt = {
        HospitalName(f"hospital-{first + 1}"): tuple(in_turn[first :: hospitals.count])
        for first in range(hospitals.count)
    }
    return Split(tuple(test), dealt, leaking=False, note="")


DIVISIONS: dict[str, Deal] = {"by-own-id": split_patients, "by-permutation": by_permutation}


def _repeat(study: Study, number: int) -> Study:
    """The study again: with its own seed, or with none at all."""
    if study.study.seed is None:
        return study
    section = study.study.model_copy(update={"seed": study.study.seed + number})
    return study.model_copy(update={"study": section})


def _places(split: Split) -> dict[str, Any]:
    """Whether each patient is trained on."""
    trained = {one.id for part in split.hospitals.values() for one in part}
    return {one.id: one.id in trained for part in (split.test, *split.hospitals.values()) for one in part}


if __name__ == "__main__":
    main()
