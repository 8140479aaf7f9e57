"""Copies of each picture in a step: averaged within the patient before the one clip, drawn by the patient's key."""

import numpy as np
import pytest
import torch
from tests.names import names
from torch.func import functional_call

from wardround.models.catalogue import build
from wardround.training.augment.augmentation import Augmentation, Axis
from wardround.training.losses import cross_entropy
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.workbench import Workbench

COPIES, SEED, COUNTS = 3, 11, (2, 1, 3)
AUGMENT = Augmentation(flip=(Axis.HORIZONTAL,), rotate=20.0, noise=0.1, multiplicity=COPIES)


@pytest.fixture(scope="module")
def bench():
    pixels = np.random.default_rng(0).integers(0, 256, (sum(COUNTS), 1, 16, 16), dtype=np.uint8)
    network = build(
        "small_cnn", size=(16, 16), channels=1, num_classes=2, init_generator=torch.Generator().manual_seed(0)
    )
    return Workbench(network, pixels, cross_entropy, 1 << 24, augmentation=AUGMENT)


@pytest.fixture(scope="module")
def weights(bench):
    return bench.initial_weights + np.random.default_rng(1).normal(0, 0.1, bench.initial_weights.size).astype("f4")


def patients():
    starts = np.cumsum([0, *COUNTS])
    labels = np.arange(starts[-1], dtype=np.int64) % 2
    return TrainingPatients(np.arange(starts[-1]), labels, starts, names(len(COUNTS)))


def oracle(bench, weights):
    """Each patient's gradient: one copy at a time, changed by its own key, and the mean of them all."""
    everyone, layout, found = patients(), {}, []
    start = 0
    for name, parameter in bench.network.trained.named_parameters():
        layout[name] = torch.from_numpy(weights[start : start + parameter.numel()]).view_as(parameter).clone()
        layout[name].requires_grad_(True)
        start += parameter.numel()
    for patient in range(len(COUNTS)):
        own, total = everyone.pictures_of(np.array([patient])), torch.zeros(())
        for row, key, label in zip(own.rows, own.keys, own.labels, strict=True):
            for copy in range(COPIES):
                picture, _ = AUGMENT(
                    torch.from_numpy(bench._pixels[[row]]),
                    None,
                    keys=np.array([key]),
                    seed=SEED,
                    view=np.array([copy]),
                )
                logits = functional_call(bench.network.trained, layout, (bench.network.encode(picture),))
                total = total + cross_entropy(logits, torch.tensor([label])).sum()
        parts = torch.autograd.grad(total / (len(own.rows) * COPIES), list(layout.values()))
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def summed(bench, weights, chosen, clip):
    [found] = bench.gradient_sums(weights, [Sample(patients(), np.array(chosen))], clip, SEED)
    return found.vector.double()


def test_copies_are_averaged_within_the_patient_before_the_clip(bench, weights):
    expected = oracle(bench, weights).double()
    norms = expected.norm(dim=1, keepdim=True)
    clip = float(norms.median())
    clipped = (expected * (clip / norms).clamp(max=1)).sum(0)
    # The clip aims 2**-12 of itself below the norm.
    torch.testing.assert_close(summed(bench, weights, [0, 1, 2], clip), clipped, rtol=1e-3, atol=1e-4)
    each = bench.patient_gradients(weights, Sample(patients(), np.arange(3)), SEED)
    torch.testing.assert_close(torch.from_numpy(np.stack(list(each))).double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_one_patient_moves_the_sum_by_at_most_the_clip_and_no_other_draw(bench, weights, left_out):
    clip = 0.05
    rest = [patient for patient in range(3) if patient != left_out]
    moved = summed(bench, weights, [0, 1, 2], clip) - summed(bench, weights, rest, clip)
    alone = summed(bench, weights, [left_out], clip)
    assert moved.norm() <= clip
    torch.testing.assert_close(moved, alone, rtol=1e-4, atol=1e-6)
