"""Every network of the catalogue in private training: the engine against one-patient backward passes in
float64."""

import copy
import warnings

import pytest
import torch
from tests.cases import family
from tests.per_patient.oracle import (
    clip_and_sum,
    cross_entropy,
    parameter_sizes,
    patient_gradients,
    pixel_cross_entropy,
    relative_error,
)
from torch import nn

from wardround.models.catalogue import NETWORKS, build
from wardround.per_patient import PatientBatch, SlowPath, check_trainable, clipped_sum
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE

CLASSES = 3
TOLERANCE = 1e-10

HUGE = {"alexnet", "vgg11", "vgg11_gn", "vgg16", "resnet18", "unet_vgg11"}
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in HUGE else name for name in NETWORKS]
SMALL_SIZE = {2: (32, 32), 3: (16, 16, 16)}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def made(name, dimensions, **options):
    size = SMALL_SIZE[dimensions] if NETWORKS[name].smallest <= min(SMALL_SIZE[dimensions]) else (64,) * dimensions
    net = build(name, size=size, channels=1, num_classes=CLASSES, init_generator=generator(0), **options)
    trained = copy.deepcopy(net.trained).double().train()
    for module in trained.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator(1)))
    pictures = torch.randint(0, 256, (3, 1, *size), dtype=torch.uint8, generator=generator(2))
    labels = torch.randint(0, CLASSES, (3, *size) if net.segments else (3,), generator=generator(3))
    with torch.no_grad():
        inputs = net.encode(pictures).double()
    loss = pixel_cross_entropy if net.segments else cross_entropy
    # One patient with two pictures, one without any, one with one.
    return trained, loss, PatientBatch(inputs, labels, torch.tensor([0, 0, 2]), 3)


def agrees(trained, loss, batch):
    check_trainable(trained, batch.inputs)
    gradients = patient_gradients(trained, loss, batch)
    norms = gradients.norm(dim=1)
    clipping_norm = float((norms[0] * norms[2]).sqrt())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", SlowPath)
        ours = clipped_sum(trained, loss, batch, clipping_norm=clipping_norm)
    assert [str(warning.message) for warning in said] == []
    expected = clip_and_sum(gradients, clipping_norm, shave=SHAVE)
    error, worst = relative_error(ours.vector, expected, parameter_sizes(trained))
    assert error < TOLERANCE, worst
    assert norms[[0, 2]].min() > 0


@pytest.mark.parametrize(
    "name", family([n for n in EVERY if n != "unet3d"], keep=["linear", "small_cnn", "squeezenet", "small_unet"])
)
def test_a_network_gives_the_clipped_sum_of_one_patient_backward_passes(name):
    agrees(*made(name, 2))


@pytest.mark.parametrize(
    "name",
    family(
        [
            "linear",
            "unet",
            "unet3d",
            "small_unet",
            "segresnet",
            "voxel_features",
            *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet18", "densenet121")),
        ],
        keep=["linear", "small_unet"],
    ),
)
def test_a_network_of_volumes_gives_the_clipped_sum_of_one_patient_backward_passes(name):
    agrees(*made(name, 3, **({"width": 4} if NETWORKS[name].width else {})))


@pytest.mark.parametrize(
    "train", family(["norms", "head", "last-block", "biases", "lora"], keep=["norms", "biases", "lora"])
)
@pytest.mark.parametrize("name", family(["resnet18", "unet", "squeezenet"], keep=["unet"]))
def test_a_network_that_is_trained_in_part_gives_the_clipped_sum_of_its_part(name, train):
    agrees(*made(name, 2, train=train))


@pytest.mark.parametrize("train", family(["all", "norms", "biases"]))
@pytest.mark.parametrize(("name", "dimensions"), family([("small_cnn", 2), ("small_unet", 3), ("resnet18", 2)]))
def test_standardised_weights_give_the_clipped_sum_of_one_patient_passes(name, dimensions, train):
    agrees(*made(name, dimensions, train=train, standardise_weights=True))
