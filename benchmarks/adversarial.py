"""Adversarial examples at inference, against models trained with and without privacy.

    python -m benchmarks.adversarial --data path/to/chest_xray [--seeds 3] [--write]

Chest X-rays at 64 x 64, five hospitals, `small_cnn` from scratch, each run as `wardround run` makes it. The attacker
knows the model and changes each pixel of a held-out picture by at most e of 255 levels: FGSM (Goodfellow et al. 2015,
https://arxiv.org/abs/1412.6572) in one step, PGD (Madry et al. 2018, https://arxiv.org/abs/1706.06083) in ten steps of
e / 4 from a random start. Changed pictures are rounded to whole levels. Figures are the share of held-out pictures that
are called rightly. The seed deals out patients and draws noise.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.poisoned import spread, tabulate, x_rays
from wardround.config import Study
from wardround.coordinator.observer import Silent
from wardround.models.card import read_card
from wardround.models.load import load
from wardround.simulation.materials import gather
from wardround.simulation.run import run_study

LEVELS = (1, 2, 4, 8)
STEPS = 10
PICTURES = 200
PRIVACY: dict[str, dict[str, Any]] = {
    "no privacy": {"plan": "none"},
    "epsilon 8": {"plan": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "clipping_norm": 1.0, "sum": "simulated"},
    "epsilon 2": {"plan": "dp-sgd", "epsilon": 2.0, "delta": 1e-5, "clipping_norm": 1.0, "sum": "simulated"},
}


def study_of(data: Path, privacy: dict[str, Any], seed: int) -> Study:
    rate = 0.05 if privacy["plan"] == "none" else 0.5  # gradients that are not clipped are longer
    return x_rays(
        data, "adversarial", seed,
        model={"name": "small_cnn"},
        privacy={"num_patients": 2200, "images_per_patient": 1, "sampling_prob": 0.1, **privacy},
        federation={"strategy": "fedsgd", "rounds": 40, "learning_rate": rate, "momentum": 0.9},
    )  # fmt: skip


def perturbed(model: nn.Module, pictures: Tensor, labels: Tensor, level: float, steps: int, seed: int) -> Tensor:
    """Returns pictures, (picture, channel, height, width), each pixel at most `level` from its own; FGSM: one step."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.zeros_like(pictures)
    if steps > 1:
        start = (2 * torch.rand(pictures.shape, generator=generator) - 1) * level
    moved = (pictures + start).clamp(0, 255)
    for _ in range(steps):
        moved.requires_grad_()
        [gradient] = torch.autograd.grad(F.cross_entropy(model(moved), labels, reduction="sum"), moved)
        step = level if steps == 1 else level / 4
        moved = pictures + (moved.detach() + step * gradient.sign() - pictures).clamp(-level, level)
        moved = moved.clamp(0, 255)
    return moved.round()


def accuracy(model: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(pictures).argmax(dim=1) == labels).to(torch.float64).mean())


def runs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the figures of each model."""
    for seed in range(options.seeds):
        for name, privacy in PRIVACY.items():
            study = study_of(options.data, privacy, seed)
            with TemporaryDirectory() as folder, mock.patch("wardround.coordinator.recording.write_report"):
                run = run_study(study, Path(folder) / "run", Silent(), rehearsal=True).path
                model = load(read_card(run / "model.json"), run / "model.safetensors").whole().eval()
            materials = gather(study, Silent())
            test, stride = materials.test, max(1, len(materials.test.rows) // PICTURES)
            labels = torch.from_numpy(test.labels[::stride])
            pictures = torch.from_numpy(materials.images.pixels[test.rows[::stride]]).to(torch.float32)
            row: dict[str, Any] = {"privacy": name, "seed": seed, "clean": accuracy(model, pictures, labels)}
            for (attack, steps), level in itertools.product((("FGSM", 1), ("PGD", STEPS)), LEVELS):
                moved = perturbed(model, pictures, labels, level, steps, seed)
                row[f"{attack} {level}"] = round(accuracy(model, moved, labels), 5)
            print(json.dumps(row), flush=True)
            yield row


def table(found: list[dict[str, Any]]) -> str:
    columns = ["clean", *(f"{attack} {level}" for attack in ("FGSM", "PGD") for level in LEVELS)]
    lines = [
        f"Splits of the patients: {len({row['seed'] for row in found})}.",
        "",
        f"| privacy | {' | '.join(columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for privacy in PRIVACY:
        own = [row for row in found if row["privacy"] == privacy]
        cells = []
        for column in columns:
            cells.append(spread([row[column] for row in own]))
        lines.append(f"| {privacy} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    tabulate("adversarial", runs, table, seeds=3, more={})
