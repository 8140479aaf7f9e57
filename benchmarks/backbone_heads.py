"""AUROC of a private linear head on the chest X-rays, by the backbone's layers and the public constants of its rows.

    python -m benchmarks.backbone_heads --data path/to/chest_xray

prints a table: mean and standard deviation over splits of patients (a fifth set aside) and seeds of noise. The head is
trained by one rule, so that nothing is tuned: all patients in each of 100 rounds, at most 8 pictures a patient, clip
0.25, momentum 0.9, mean of the last 50 iterates, rate 8 mu n / 910 (12 mu n / 910 for more than two classes); noise for
one colluder of five hospitals. It is NumPy alone and no part of the product: it compares rows. Without privacy it is
the same head, without noise.
`chest-xray` constants are these pictures' own: for this set they are a measure, and no study on it may use them.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from benchmarks.public_moments import activations
from wardround.images.load import load_images
from wardround.images.patients import ImageSet, Patient
from wardround.images.rows.recipe import PictureRecipe
from wardround.models.backbones.names import BACKBONES, Backbone, MomentsName
from wardround.models.backbones.rows import row_of

EPSILONS = (None, 8.0, 2.0, 1.0, 0.5)
DELTA = 1e-5
ROUNDS, CLIP, MOMENTUM, CAP = 100, 0.25, 0.9, 8
STEP_OF_TWO, STEP = 8.0, 12.0
"""Rates times 910 / (mu n): of two classes, and of more."""

CENTRED_STEP_OF_TWO, CENTRED_STEP = 5.0, 8.0
"""The same, of heads on rows less their mean."""

COLLUSION = math.sqrt(4 / 5)
"""Of five hospitals' shares of noise, one is known to a colluder."""

Array = np.ndarray


def mu_of(epsilon: float) -> float:
    """Gaussian privacy parameter (Dong, Roth and Su 2022, corollary 2.13)."""

    def excess(mu: float) -> float:
        tail = norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
        return float(tail) - DELTA

    return float(brentq(excess, 1e-3, 20))


def parts(images: ImageSet, seed: int) -> tuple[list[Patient], list[Patient]]:
    order = np.random.default_rng(seed).permutation(len(images.patients))
    tested = set(order[: len(order) // 5].tolist())
    ordered = [images.patients[i] for i in order]
    return ordered[len(tested) :], ordered[: len(tested)]


def listed(patients: list[Patient], generator: np.random.Generator | None) -> tuple[Array, Array, Array]:
    """Rows, labels and the patient's number of pictures, at most `CAP` drawn a patient with a generator."""
    found = []
    for number, patient in enumerate(patients):
        images = list(patient.images)
        if generator is not None and len(images) > CAP:
            images = [images[i] for i in generator.choice(len(images), CAP, replace=False)]
        found += [(image.row, image.label, number) for image in images]
    rows, labels, owners = np.array(found).T
    return rows, labels, owners


def trained(
    rows: Array,
    labels: Array,
    owners: Array,
    mu: float | None,
    generator: np.random.Generator,
    *,
    step: float | None = None,
) -> Array:
    """Weights of a softmax head, (feature, class), by descent on clipped patients' gradients; by the rule's step."""
    n, classes = owners.max() + 1, labels.max() + 1
    counts = np.bincount(owners)
    ends = np.r_[0, np.cumsum(counts)]
    several = [
        (p, rows[ends[p] : ends[p + 1]] @ rows[ends[p] : ends[p + 1]].T) for p in np.flatnonzero(counts > 1)
    ]
    truth = np.eye(classes, dtype=np.float32)[labels]
    step = step or (STEP_OF_TWO if classes == 2 else STEP)
    sizes = (rows**2).sum(axis=1)
    rate = step * (mu or mu_of(8)) * n / sum((1 - MOMENTUM**t) / (1 - MOMENTUM) for t in range(1, ROUNDS + 1))
    noise = 0.0 if mu is None else math.sqrt(ROUNDS) / mu * CLIP
    weights, velocity, total = (np.zeros((rows.shape[1], classes), dtype=np.float32) for _ in range(3))
    for round in range(ROUNDS):
        scores = rows @ weights
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        errors = (odds / odds.sum(axis=1, keepdims=True) - truth) / counts[owners][:, None]
        squared = np.bincount(owners, (errors**2).sum(axis=1) * sizes)  # of one row
        for patient, gram in several:
            own = errors[ends[patient] : ends[patient + 1]]
            squared[patient] = ((own @ own.T) * gram).sum()
        shrunk = errors * np.minimum(1, CLIP / np.sqrt(np.maximum(squared, 1e-20)))[owners][:, None]
        gradient = rows.T @ shrunk.astype(np.float32) + noise * generator.standard_normal(weights.shape)
        velocity = MOMENTUM * velocity + gradient.astype(np.float32) / n
        weights = weights - np.float32(rate) * velocity
        total += weights * (round >= ROUNDS // 2)
    return total / (ROUNDS - ROUNDS // 2)


def measured(rows: Array, images: ImageSet, seeds: range) -> Iterator[str]:
    for epsilon in EPSILONS:
        found = []
        for seed in seeds:
            train, test = parts(images, seed)
            kept, labels, owners = listed(train, np.random.default_rng(seed))
            mu = None if epsilon is None else COLLUSION * mu_of(epsilon)
            weights = trained(rows[kept], labels, owners, mu, np.random.default_rng([seed, 1]))
            shown, truth, _ = listed(test, None)
            found.append(roc_auc_score(truth, (rows[shown] @ weights) @ np.array([-1, 1])))
        yield f"{np.mean(found):.4f} ± {np.std(found, ddof=1):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/wardround").expanduser())
    parser.add_argument("--splits", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load_images("chest_xray", options.data, cache_dir=options.cache, recipes=[PictureRecipe(224, 1)])
    some = (torch.from_numpy(np.array(images.pixels[i : i + 1])) for i in range(len(images.pixels)))
    raw = activations(track(some, "encoding", total=len(images.pixels)))
    print(
        "| encoder | constants |",
        " | ".join("without privacy" if e is None else f"ε = {e:g}" for e in EPSILONS),
        "|",
    )
    print("|---" * (2 + len(EPSILONS)) + "|")
    sets: tuple[MomentsName, ...] = ("generated", "chest-xray")
    for name in BACKBONES:
        for moments in sets:
            rows = row_of(raw, Backbone(name, moments), channels=1).numpy()
            print(
                f"| {name} | {moments} |",
                " | ".join(measured(rows, images, range(options.splits))),
                "|",
                flush=True,
            )


if __name__ == "__main__":
    main()
