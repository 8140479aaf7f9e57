"""The gain of a private head from its rows' mean or Gram matrix, released before training.

    python -m benchmarks.centred_head --out folder [--data path/to/chest_xray] [--sets fundus]

The mean: a share of mu squared buys the noised sum of the patients' mean rows (`wardround.training.centring`), and the
head is trained on rows less it, at a smaller step.

The Gram matrix: 30 % of mu squared buy A = sum over patients of the mean of their z z^T, z the row on 128 directions,
cut to norm one. Sensitivity: one patient, added or removed, moves A by at most 1 in Frobenius norm. Entries off the
diagonal count twice in it, so symmetric noise has variance s^2 on the diagonal and s^2 / 2 beside it, s = 1 / mu_A.
Rows become z (A+ + s sqrt(256) I)^(-1/2), A+ without negative eigenvalues, brought to norm one. Directions are the
leading ones of public generated pictures (`benchmarks.public_pictures`), or those of the set itself, which no study
may use: they show what the best public pictures could give.

Heads are those of `benchmarks.backbone_heads`: NumPy, no part of the product. Each line is a mean over splits by
patient, a fifth set aside, each with its own noise, and the difference from rows as they are on the same splits with
its standard error. Five hospitals, one colluder, delta 1e-5; 5 % of mu squared are left for thresholds. Rows are on the
512 leading directions of all pictures first, which saves time: noise beside them reaches no score.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from benchmarks.backbone_heads import (
    CENTRED_STEP,
    CENTRED_STEP_OF_TWO,
    COLLUSION,
    STEP,
    STEP_OF_TWO,
    Array,
    listed,
    mu_of,
    parts,
    trained,
)
from benchmarks.expected_loss import auroc, problems
from benchmarks.public_moments import activations
from benchmarks.public_pictures import films, pictures
from wardround.images.patients import Patient
from wardround.models.backbones.names import Backbone
from wardround.models.backbones.rows import row_of
from wardround.training.centring import CONSTANT, LEAST_REST

EACH = 60
"""Public pictures of every kind."""

DIRECTIONS, KEPT = 128, 512
SCORES, GRAM, MEANS = 0.05, 0.30, (0.01, 0.03, 0.10)
"""Shares of mu squared."""


def leading(gram: Array, most: int) -> Array:
    """Returns the leading directions of a matrix, (feature, direction)."""
    return np.ascontiguousarray(np.linalg.eigh(gram)[1][:, ::-1][:, :most])


def root(gram: Array, ridge: float) -> Array:
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    return np.asarray((vectors / np.sqrt(np.maximum(values, 0) + ridge)) @ vectors.T, dtype=np.float32)


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def noised_gram(rows: Array, owners: Array, mu: float, generator: np.random.Generator) -> Array:
    """Returns the sum over patients of the mean of z z^T, z cut to norm one, with symmetric noise of 1 / mu."""
    cut = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)
    exact = (cut / np.bincount(owners)[owners][:, None]).T @ cut
    drawn = generator.standard_normal(exact.shape)
    beside = np.triu(drawn, 1) / np.sqrt(2)
    return np.asarray(exact + (beside + beside.T + np.diag(np.diag(drawn))) / mu)


def public_rows(length: int, *, colour: bool) -> Array:
    """Returns the rows of public pictures that are as long as a set's."""
    drawn = [picture for _, picture in pictures(EACH)]
    if not colour:
        grey = [np.array(Image.fromarray(one).convert("L")) for one in [*drawn, *films(len(drawn))]]
        drawn = [one[:, :, None] for one in grey]
    values = activations(torch.from_numpy(np.moveaxis(one, 2, 0)[None].copy()) for one in drawn)
    backbone = Backbone("efficientnet-lite0-all" if length == 4033 else "efficientnet-lite0")
    return np.asarray(row_of(values, backbone, 3 if colour else 1).numpy())


def moved(rows: Array, matrix: Array | None, *, is_unit: bool) -> Array:
    """Returns the rows that a head is trained on: times a matrix, and each brought to norm one."""
    found = rows if matrix is None else rows @ matrix
    return unit(found) if is_unit else found


def less_the_mean(
    rows: Array, owners: Array, constant: Array, features: int, mu: float, generator: np.random.Generator
) -> Array:
    """Returns the matrix that takes rows to rows less their noised mean, with the constant behind them.

    Args:
        constant: what a row is multiplied by to give one, (feature,).
        features: of a row before it was turned: all of them have noise.
    """
    n = owners.max() + 1
    mean = (rows / np.bincount(owners)[owners][:, None]).sum(axis=0) / n
    mean = mean + generator.standard_normal(mean.shape) / (mu * n)
    noise = 1 / (mu * n) ** 2
    square = mean @ mean + noise * (features - len(mean))
    mean = mean * max(0.0, 1 - features * noise / square)
    mean = mean - mean @ constant * CONSTANT**2 * constant  # the constant stays
    varying = 1 - CONSTANT**2
    scale = np.sqrt(varying / max(LEAST_REST, varying - mean @ mean))
    along = np.eye(len(mean)) - CONSTANT**2 * np.outer(constant, constant)
    found = scale * (along - np.outer(constant, mean)) + CONSTANT**2 * np.outer(constant, constant)
    return np.asarray(found, dtype=np.float32)


def heads(
    rows: Array,
    owners: Array,
    public: Array,
    own: Array,
    constant: Array,
    features: int,
    mu: float,
    seed: int,
    *,
    two: bool,
) -> Iterator[tuple[str, Array | None, bool, float, float]]:
    """Yields each head's name, matrix, whether rows are brought to norm one after it, share of mu squared and step."""
    generator, left = np.random.default_rng([seed, 1]), 1 - SCORES
    plain, centred = (STEP_OF_TWO, CENTRED_STEP_OF_TWO) if two else (STEP, CENTRED_STEP)
    yield "rows as they are", None, False, left, plain
    yield "the same, the step of rows less the mean", None, False, left, centred
    for share in MEANS:
        matrix = less_the_mean(rows, owners, constant, features, mu * np.sqrt(share), generator)
        yield f"less the mean, {share:.0%}", matrix, False, left - share, centred
    for name, some in (("Gram matrix, public directions", public), ("Gram matrix, the set's own", own)):
        onto, mu_gram = leading(some.T @ some, DIRECTIONS), mu * np.sqrt(GRAM)
        gram = noised_gram(rows @ onto, owners, mu_gram, generator)
        yield name, onto @ root(gram, np.sqrt(2 * DIRECTIONS) / mu_gram), True, left - GRAM, plain


def measured(
    rows: Array,
    patients: list[Patient],
    to: dict[int, int],
    public: Array,
    constant: Array,
    features: int,
    epsilon: float,
    seed: int,
) -> Iterator[tuple[str, list[float]]]:
    train, test = parts(argparse.Namespace(patients=patients), seed)  # type: ignore[arg-type]
    kept, labels, owners = listed(train, np.random.default_rng(seed))
    shown, truth, _ = listed(test, None)
    labels, truth = (np.vectorize(to.__getitem__)(some) for some in (labels, truth))
    mu, generator = COLLUSION * mu_of(epsilon), np.random.default_rng([seed, 2])
    for name, matrix, is_unit, share, step in heads(
        rows[kept], owners, public, rows, constant, features, mu, seed, two=len(set(to.values())) == 2
    ):
        seen = moved(rows[kept], matrix, is_unit=is_unit)
        weights = trained(seen, labels, owners, mu * np.sqrt(share), generator, step=step)
        scores = moved(rows[shown], matrix, is_unit=is_unit) @ weights
        called = scores.argmax(axis=1)
        kappa = float(cohen_kappa_score(truth, called, weights="quadratic"))
        yield name, [auroc(scores, truth), float((called == truth).mean()), kappa]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the generated sets and of the cache")
    parser.add_argument("--data", type=Path, help="folder of the chest X-rays")
    parser.add_argument("--sets", nargs="+", default=["fundus", "mri", "chest X-rays"])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[8, 2])
    parser.add_argument("--splits", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, all_rows, patients, to in problems(options):
        public = public_rows(all_rows.shape[1], colour=name.startswith(("fundus", "ultrasound")))
        onto = leading(all_rows.T @ all_rows, KEPT)
        rows, public, constant = all_rows @ onto, public @ onto, onto[-1] / CONSTANT
        for epsilon in options.epsilons:
            found: dict[str, list[list[float]]] = {}
            for seed in range(options.splits):
                for head, figures in measured(
                    rows, patients, to, public, constant, all_rows.shape[1], epsilon, seed
                ):
                    found.setdefault(head, []).append(figures)
            base = np.array(found["rows as they are"])
            print(f"\n| {name}, ε = {epsilon:g} | AUROC | accuracy | kappa |\n|---|---|---|---|", flush=True)
            for head, values in found.items():
                table = np.array(values)
                more = table - base
                error = more.std(axis=0, ddof=1) / np.sqrt(len(more))
                cells = [
                    f"{m:.3f}" if head == "rows as they are" else f"{m:.3f} ({d:+.3f} ± {e:.3f})"
                    for m, d, e in zip(table.mean(axis=0), more.mean(axis=0), error, strict=True)
                ]
                print(f"| {head} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
