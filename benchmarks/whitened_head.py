"""What whitening the rows of a private head of several classes gains, by where its directions come from.

    python -m benchmarks.whitened_head --out folder [--data path/to/chest_xray] [--sets fundus]

A share of mu squared buys a noised Gram matrix of the rows, A = sum over patients of the mean of their z z^T, z the row
on 128 directions, cut to norm one. Sensitivity: one patient, added or removed, moves A by at most 1 in Frobenius
norm. Off-diagonal entries count twice in that norm, so symmetric noise has variance s^2 on the diagonal and s^2 / 2
beside it, s = 1 / mu_A. Rows become z (A+ + s sqrt(256) I)^(-1/2), A+ without negative eigenvalues; the second term is
the largest eigenvalue that the noise has by itself. They are brought to norm one each, or, "folded", all are multiplied
by one number that gives them a mean squared norm of one: such a head is one matrix on the rows as they are. The rest of
mu squared trains the head (`benchmarks.backbone_heads`: NumPy, no part of the product), 5 % are kept for thresholds.

Directions are the leading ones of public generated pictures (`benchmarks.public_pictures`), or those of the set itself,
which no study may use: they show what the best public pictures could give. Beside them stand heads that spend nothing
on a matrix. Each line is a mean over splits by patient, a fifth set aside, each with its own noise, and the difference
from rows as they are on the same splits with its standard error. Five hospitals, one colluder, delta 1e-5. Rows are on
the 512 leading directions of all pictures first, which saves time: noise beside them reaches no score.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from benchmarks.backbone_heads import COLLUSION, STEP, Array, listed, mu_of, parts, trained
from benchmarks.expected_loss import auroc, problems
from benchmarks.public_moments import activations
from benchmarks.public_pictures import films, pictures
from wardround.images.patients import Patient
from wardround.models.backbones.names import Backbone
from wardround.models.backbones.rows import row_of

EACH = 60
"""Public pictures of every kind."""

DIRECTIONS, KEPT = 128, 512
SCORES, GRAM = 0.05, 0.30
"""Shares of mu squared."""

RIDGE = 0.003
"""Added to the mean Gram matrix of public rows."""


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
        drawn = [np.array(Image.fromarray(one).convert("L"))[:, :, None] for one in drawn]
        drawn += [one[:, :, None] for one in films(len(drawn))]
    values = activations(torch.from_numpy(np.moveaxis(one, 2, 0)[None].copy()) for one in drawn)
    backbone = Backbone("efficientnet-lite0-all" if length == 4033 else "efficientnet-lite0")
    return np.asarray(row_of(values, backbone, 3 if colour else 1).numpy())


def moved(rows: Array, matrix: Array | None, *, is_unit: bool) -> Array:
    """Returns the rows that a head is trained on: times a matrix, and each brought to norm one."""
    found = rows if matrix is None else rows @ matrix
    return unit(found) if is_unit else found


def heads(
    rows: Array, owners: Array, public: Array, own: Array, mu: float, generator: np.random.Generator
) -> Iterator[tuple[str, Array | None, bool, float, float]]:
    """Yields each head's name, matrix, whether rows are brought to norm one after it, share of mu squared and step."""
    left = 1 - SCORES
    yield "rows as they are", None, False, left, STEP
    yield "the same, half the step", None, False, left, STEP / 2
    yield "whitened by public pictures", root(public.T @ public / len(public), RIDGE), True, left, STEP
    for name, some in (("public directions", public), ("the set's own directions (not private)", own)):
        onto = leading(some.T @ some, DIRECTIONS)
        yield name, onto, True, left, STEP
        mu_gram = mu * np.sqrt(GRAM)
        gram, ridge = noised_gram(rows @ onto, owners, mu_gram, generator), np.sqrt(2 * DIRECTIONS) / mu_gram
        values = np.maximum(np.linalg.eigvalsh(gram), 0)
        scale = np.sqrt((owners.max() + 1) / (values / (values + ridge)).sum(), dtype=np.float32)
        white = onto @ root(gram, ridge)
        yield f"{name}, Gram matrix", white, True, left - GRAM, STEP
        yield f"{name}, Gram matrix, folded", white * scale, False, left - GRAM, STEP


def measured(
    rows: Array, patients: list[Patient], public: Array, epsilon: float, seed: int
) -> Iterator[tuple[str, list[float]]]:
    train, test = parts(argparse.Namespace(patients=patients), seed)  # type: ignore[arg-type]
    kept, labels, owners = listed(train, np.random.default_rng(seed))
    shown, truth, _ = listed(test, None)
    mu, generator = COLLUSION * mu_of(epsilon), np.random.default_rng([seed, 1])
    for name, matrix, is_unit, share, step in heads(rows[kept], owners, public, rows, mu, generator):
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
        if len(set(to.values())) < 3:
            continue
        public = public_rows(all_rows.shape[1], colour=name.startswith(("fundus", "ultrasound")))
        onto = leading(all_rows.T @ all_rows, KEPT)
        rows, public = all_rows @ onto, public @ onto
        for epsilon in options.epsilons:
            found: dict[str, list[list[float]]] = {}
            for seed in range(options.splits):
                for head, figures in measured(rows, patients, public, epsilon, seed):
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
