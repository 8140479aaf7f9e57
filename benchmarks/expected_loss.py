"""The loss of a private head to its noise, by mu n: the curve behind the feasibility that `wardround check` gives.

    python -m benchmarks.expected_loss --out folder [--data path/to/chest_xray]

trains heads by the recipe (`benchmarks.backbone_heads`: NumPy, no part of the product) on the encoder's rows less
their noised mean, for the sets of `benchmarks.generated_sets`, which are made in the folder, and for public sets where
they are given (the hippocampus as `benchmarks.other_sets` leaves it there). Each set has a problem of several classes
and one of two. Patients are all, or a quarter of them; epsilon is 8, 2 and 0.5; a fifth of the patients is for testing.
Of 105 equal rounds, as a study has them, 3 release the mean, 97 train the head and 5 are left for thresholds; mu n is
that of the 97. The loss is the macro AUROC of the same head without noise, on rows less their exact mean and at the
step of epsilon 8, on the same patients less that of the private one. One split, one draw of noise.
`benchmarks/results/expected_loss.json` has the rows, and `wardround.agreed.schedule` the curve.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.backbone_heads import (
    CENTRED_STEP,
    CENTRED_STEP_OF_TWO,
    COLLUSION,
    Array,
    listed,
    mu_of,
    parts,
    trained,
)
from benchmarks.other_sets import SETS
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.images.patients import Patient
from wardround.simulation.materials import gather
from wardround.training.centring import centred, cut_rows, estimated

RESULTS = Path(__file__).with_name("results") / "expected_loss.json"
EPSILONS = (8.0, 2.0, 0.5)
CENTRE, DESCENT = 3 / 105, 97 / 105
"""Shares of mu squared: of the mean, and of the head."""

SEVERAL: dict[str, tuple[str, str | None]] = {
    "ultrasound": ("folder", None), "hippocampus": ("folder", None), "mri": ("folder", None), "fundus": ("aptos", None),
    "chest X-rays": ("chest_xray", "subtype"),
}  # fmt: skip
"""Layout and task by set."""

POSITIVE = {"ultrasound": (1,), "hippocampus": (1,), "mri": (0, 1, 2), "fundus": (2, 3, 4), "chest X-rays": (1, 2)}
"""Classes of the second one of two classes: malignant, front, any tumour (classes are in alphabetical order), ..."""


def problems(options: argparse.Namespace) -> Iterator[tuple[str, np.ndarray, list[Patient], dict[int, int]]]:
    """Yields a name, the rows of all pictures, the patients, and from each class to the problem's."""
    for name in options.sets:
        layout, task = SEVERAL[name]
        path = options.data if name == "chest X-rays" else options.out / name
        if path is None or not (path.exists() or name in SETS):
            continue
        if not path.exists():
            SETS[name](path)
        given: dict[str, Any] = {"layout": layout, "path": str(path.resolve())}
        study = parse_study(
            {
                "study": {"name": "loss"}, "site": given, "data": {} if task is None else {"task": task},
                "privacy": {"plan": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "sum": "simulated"},
                "performance": {"cache": str(options.out / "cache")},
            }
        )  # fmt: skip
        materials = gather(study, Silent())
        assert materials.workbench.kept_inputs is not None, "rows are kept"
        rows, classes = materials.workbench.kept_inputs.numpy(), range(len(materials.images.class_names))
        patients = list(materials.images.patients)
        yield f"{name}, {len(classes)} classes", rows, patients, {label: label for label in classes}
        yield f"{name}, 2 classes", rows, patients, {label: int(label in POSITIVE[name]) for label in classes}


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    classes = np.unique(labels)
    chosen = classes[1:] if len(classes) == 2 else classes
    others = [np.delete(scores, one, axis=1).max(axis=1) for one in chosen]
    return float(
        np.mean([roc_auc_score(labels == c, scores[:, c] - o) for c, o in zip(chosen, others, strict=True)])
    )


def noised_mean(rows: Array, owners: Array, mu: float, generator: np.random.Generator) -> Array:
    """Returns the mean of the patients' mean rows, with the noise of one release, (feature,).

    A patient, added or removed, moves the sum by at most one: each row is cut to norm one.
    """
    cut = cut_rows(torch.from_numpy(rows)) / np.bincount(owners)[owners][:, None]
    total = cut.sum(axis=0) + generator.standard_normal(rows.shape[1]) / mu
    return estimated(total, owners.max() + 1, 1 / mu, rows.shape[1])


def measured(
    rows: np.ndarray, patients: list[Patient], to: dict[int, int], shares: list[float]
) -> Iterator[dict[str, float]]:
    ordered = argparse.Namespace(patients=patients)  # all that `parts` reads
    train, test = parts(ordered, 0)  # type: ignore[arg-type]
    shown, truth, _ = listed(test, None)
    truth = np.vectorize(to.__getitem__)(truth)
    for share in shares:
        kept, labels, owners = listed(train[: round(share * len(train))], np.random.default_rng(0))
        labels, n = np.vectorize(to.__getitem__)(labels), int(owners.max() + 1)

        def reached(mu: float | None, kept: Any = kept, labels: Any = labels, owners: Any = owners) -> float:
            generator = np.random.default_rng(1)
            of_mean = math.inf if mu is None else mu * math.sqrt(CENTRE / DESCENT)
            mean = noised_mean(rows[kept], owners, of_mean, generator)
            seen, tested = (centred(torch.from_numpy(rows[some]), mean).numpy() for some in (kept, shown))
            step = CENTRED_STEP_OF_TWO if labels.max() == 1 else CENTRED_STEP
            weights = trained(seen, labels, owners, mu, generator, step=step)
            return auroc(tested @ weights, truth)

        best = reached(None)
        for epsilon in EPSILONS:
            mu = COLLUSION * mu_of(epsilon) * math.sqrt(DESCENT)
            yield {"patients": n, "epsilon": epsilon, "mu_n": mu * n, "without": best, "private": reached(mu)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the chest X-rays")
    parser.add_argument("--sets", nargs="+", default=[*SEVERAL], choices=[*SEVERAL], help="others keep their rows")
    parser.add_argument("--shares", nargs="+", type=float, default=[1.0, 0.25], help="of the training patients")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [
        row for row in json.loads(RESULTS.read_text()) if row["problem"].partition(",")[0] not in options.sets
    ]
    for name, rows, patients, to in problems(options):
        for row in measured(rows, patients, to, options.shares):
            found.append({"problem": name, "classes": len(set(to.values())), **row})
            print(time.strftime("%X"), found[-1], flush=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
