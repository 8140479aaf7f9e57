"""Training on every so many voxels: the gradient of those voxels alone, and an evaluation that reads all."""

import numpy as np
import pytest
import torch
from tests.errors import raises_code
from tests.names import names
from torch.func import functional_call

from wardround.config import parse_study
from wardround.errors import StudyError
from wardround.models.catalogue import build
from wardround.training.encodings import Lattice, encodings, strided
from wardround.training.losses import dice_ce
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.workbench import Workbench

SPACE, STRIDE = (9, 8, 7), 2


def bench(tmp_path, *, stride):
    draw = np.random.default_rng(0)
    pixels = draw.integers(1, 256, (4, 1, *SPACE), dtype=np.uint8)
    masks = draw.integers(0, 3, (4, *SPACE), dtype=np.uint8)
    network = build(
        "boxed_voxel_features", size=SPACE, channels=1, num_classes=3, width=4,
        init_generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    lattice = None
    if stride > 1:
        lattice = Lattice(stride, encodings(network, pixels, tmp_path, lambda done, total: None, stride=stride))
    made = Workbench(network, pixels, dice_ce, 1 << 24, masks=masks, lattice=lattice)
    everyone = TrainingPatients(np.arange(4), np.zeros(4, dtype=np.int64), np.array([0, 2, 3, 4]), names(3))
    return made, Sample(everyone, np.arange(3)), pixels, masks


def oracle(made, pixels, masks):
    """Each patient's mean gradient over pictures, by numpy slices of the whole encoding and ordinary autograd."""
    inputs = made.network.encode(torch.from_numpy(pixels))[:, :, 1::2, 1::2, 1::2]
    targets = torch.from_numpy(masks[:, 1::2, 1::2, 1::2].astype(np.int64))
    parameters = dict(made.network.trained.named_parameters())
    found = []
    for rows in ([0, 1], [2], [3]):
        loss = dice_ce(functional_call(made.network.trained, parameters, (inputs[rows],)), targets[rows]).mean()
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(parameters.values()))]))
    return torch.stack(found)


def test_the_clipped_sum_is_that_of_the_voxels_of_the_lattice(tmp_path):
    made, sample, pixels, masks = bench(tmp_path, stride=STRIDE)
    expected = oracle(made, pixels, masks)
    norms = expected.norm(dim=1, keepdim=True)
    clip = float(norms.median())
    [ours] = made.gradient_sums(made.initial_weights, [sample], clip, 0)
    # The clip aims 2**-12 of itself below the norm.
    torch.testing.assert_close(
        ours.vector.double(), (expected * (clip / norms).clamp(max=1)).sum(0).double(), rtol=1e-3, atol=1e-4
    )
    each = torch.from_numpy(np.stack(list(made.patient_gradients(made.initial_weights, sample, 0))))
    torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-5)


def test_evaluation_reads_every_voxel(tmp_path):
    lattice, _, _, masks = bench(tmp_path, stride=STRIDE)
    whole, *_ = bench(tmp_path, stride=1)
    rows = np.arange(4)
    [(_, ours)], [(_, theirs)] = (
        list(each.predicted_masks(each.initial_weights, rows)) for each in (lattice, whole)
    )
    assert np.array_equal(ours, theirs)
    assert np.array_equal(lattice.true_masks(rows), masks)


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_a_stride_keeps_its_share_of_each_axis(stride):
    values = torch.arange(40 * 11.0).view(1, 1, 40, 11)
    kept = strided(values, stride)
    assert kept.shape[2:] == (len(range(stride // 2, 40, stride)), len(range(stride // 2, 11, stride)))
    assert kept[0, 0, 0, 0] == values[0, 0, stride // 2, stride // 2]


def study(**sections):
    tables = {
        "study": {"name": "voxels"},
        "data": {"layout": "decathlon", "path": "here", "volume_size": [16, 16, 16]},
        "privacy": {"plan": "dp-sgd", "epsilon": 8.0, "delta": 1e-5},
    }
    return parse_study(tables | {name: tables.get(name, {}) | table for name, table in sections.items()})


def test_a_study_of_masks_that_names_nothing_has_the_voxel_head_and_its_recipe():
    found = study()
    section = found.federation
    assert (found.model.name, found.training.stride, found.privacy.clipping_norm) == (
        "boxed_voxel_features",
        2,
        0.1,
    )
    assert (section.rounds, section.learning_rate, section.average_last, section.score_rounds) == (
        120,
        "auto",
        0.5,
        0,
    )
    assert study(training={"stride": 3}).training.stride == 3


def test_a_stride_is_refused_where_voxels_are_not_kept():
    for sections in (
        {"model": {"name": "small_unet"}, "training": {"stride": 2}},
        {"training": {"stride": 2, "augment": {"flip": ["x"]}}},
    ):
        with raises_code(StudyError, "study-stride"):
            study(**sections)
    assert study(training={"augment": {"flip": ["x"]}}).training.stride == 1
