"""MONAI's losses against one-patient backward passes; those that reduce over the batch are refused."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.per_patient.monai_networks import CLASSES, FLAT, TOLERANCE, agrees, built, drawn, monai, three_pictures
from tests.per_patient.oracle import (
    Loss,
    binary_cross_entropy,
    clip_and_sum,
    parameter_sizes,
    patient_gradients,
    pixel_cross_entropy,
    relative_error,
    soft_dice,
)
from torch import Tensor, nn

from wardround.per_patient import SlowPath, clipped_sum
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.per_patient.surgery import without_batch_norm


def each(loss: Loss) -> Loss:
    """What a loss leaves of each picture's classes and pixels, averaged."""
    return lambda outputs, labels: loss(outputs, labels).flatten(1).mean(1)


def one_by_one(loss: Loss) -> Loss:
    """A loss that only knows how to reduce, asked for one picture at a time."""
    return lambda outputs, labels: torch.stack(
        [loss(o[None], y[None]) for o, y in zip(outputs, labels, strict=True)]
    )


def class_indices() -> Tensor:
    return drawn(3, 1, *FLAT)


def class_masks() -> Tensor:
    return drawn(3, CLASSES, *FLAT, most=2).double()


ONE_HOT = {"softmax": True, "to_onehot_y": True}
FOCAL = {"use_softmax": True, "to_onehot_y": True}

# fmt: off
SEGMENTATION: dict[str, tuple[Callable[[Any], Loss], Callable[[], Tensor]]] = {
    "cross-entropy of pixels": (lambda losses: pixel_cross_entropy, lambda: drawn(3, *FLAT)),
    "BCE of pixels": (lambda losses: each(nn.BCEWithLogitsLoss(reduction="none")), class_masks),
    "soft Dice, by hand": (lambda losses: soft_dice, class_masks),
    "DiceLoss, softmax": (lambda losses: each(losses.DiceLoss(reduction="none", **ONE_HOT)), class_indices),
    "DiceLoss, softmax, no background": (
        lambda losses: each(losses.DiceLoss(reduction="none", include_background=False, **ONE_HOT)),
        class_indices,
    ),
    "DiceLoss, sigmoid": (lambda losses: each(losses.DiceLoss(reduction="none", sigmoid=True)), class_masks),
    "DiceLoss, squared": (
        lambda losses: each(losses.DiceLoss(reduction="none", sigmoid=True, squared_pred=True)), class_masks,
    ),
    "GeneralizedDiceLoss": (
        lambda losses: each(losses.GeneralizedDiceLoss(reduction="none", **ONE_HOT)), class_indices,
    ),
    "TverskyLoss": (lambda losses: each(losses.TverskyLoss(reduction="none", **ONE_HOT)), class_indices),
    "DiceCELoss, one picture at a time": (
        lambda losses: one_by_one(losses.DiceCELoss(**ONE_HOT)), class_indices,
    ),
    "DiceFocalLoss": (
        lambda losses: each(losses.DiceFocalLoss(reduction="none", sigmoid=True)), class_masks,
    ),
    "FocalLoss, softmax": (lambda losses: each(losses.FocalLoss(reduction="none", **FOCAL)), class_indices),
    "FocalLoss, sigmoid": (lambda losses: each(losses.FocalLoss(reduction="none")), class_masks),
}

CLASSIFICATION: dict[str, tuple[Callable[[Any], Loss], Callable[[], Tensor]]] = {
    "cross-entropy": (lambda losses: nn.CrossEntropyLoss(reduction="none"), lambda: drawn(3)),
    "BCE of several findings": (lambda losses: binary_cross_entropy, lambda: drawn(3, CLASSES, most=2).double()),
    "FocalLoss": (
        lambda losses: each(losses.FocalLoss(reduction="none", **FOCAL)), lambda: drawn(3, 1),
    ),
}
# fmt: on


@pytest.mark.parametrize("name", SEGMENTATION)
def test_a_loss_of_pixels_gives_the_clipped_sum_of_one_patient_backward_passes(name):
    loss, labels = SEGMENTATION[name]
    agrees(built("UNet 2-D"), loss(monai("losses")), three_pictures((1, *FLAT), labels()))


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_a_loss_of_pictures_gives_the_clipped_sum_of_one_patient_backward_passes(name):
    loss, labels = CLASSIFICATION[name]
    model, _ = without_batch_norm(built("ResNet 2-D of bottlenecks"))
    agrees(model, loss(monai("losses")), three_pictures((1, *FLAT), labels()))


# Losses that reduce over the batch: each gradient would silently be divided by the number of pictures.


REFUSAL = r"one value for each picture, got shape \(.*\) for \d+ pictures; reduce over pixels only"

# fmt: off
REDUCED: dict[str, tuple[Callable[[Any], Loss], Callable[[], Tensor]]] = {
    "cross-entropy": (lambda losses: nn.CrossEntropyLoss(), lambda: drawn(3, *FLAT)),
    "cross-entropy, summed": (lambda losses: nn.CrossEntropyLoss(reduction="sum"), lambda: drawn(3, *FLAT)),
    "BCE": (lambda losses: nn.BCEWithLogitsLoss(), class_masks),
    "DiceLoss": (lambda losses: losses.DiceLoss(**ONE_HOT), class_indices),
    "DiceCELoss": (lambda losses: losses.DiceCELoss(**ONE_HOT), class_indices),
    "FocalLoss": (lambda losses: losses.FocalLoss(**FOCAL), class_indices),
    "DiceLoss of the whole batch": (
        lambda losses: each(losses.DiceLoss(batch=True, reduction="none", **ONE_HOT)), class_indices,
    ),
    "DiceLoss without reduction over classes": (
        lambda losses: losses.DiceLoss(reduction="none", **ONE_HOT), class_indices,
    ),
}
# fmt: on


class Temperature(nn.Module):
    """Multiplies by the exponential of a trained number, for which the engine has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.exp(self.logarithm)


class Tempered(nn.Module):
    """The same in the forward pass of the whole network, so that no smaller module can stand in for it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.logarithm = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x) * torch.exp(self.logarithm)
        return logits


WRAPPED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "a module": (lambda network: nn.Sequential(network, Temperature()), "module '1', Temperature"),
    "the whole network": (Tempered, "the whole network"),
}


@pytest.mark.parametrize("part", WRAPPED)
def test_a_network_with_an_operation_without_a_rule_says_so_by_name_and_is_right(part):
    wrap, named = WRAPPED[part]
    model, batch = wrap(built("UNet 2-D")), three_pictures((1, *FLAT), drawn(3, *FLAT))
    with pytest.warns(SlowPath, match=named):
        ours = clipped_sum(model, pixel_cross_entropy, batch, clipping_norm=0.1).vector
    expected = clip_and_sum(patient_gradients(model, pixel_cross_entropy, batch), 0.1, shave=SHAVE)
    assert relative_error(ours, expected, parameter_sizes(model))[0] < TOLERANCE


@pytest.mark.parametrize("name", REDUCED)
def test_a_loss_that_reduces_over_the_batch_is_refused(name):
    loss, labels = REDUCED[name]
    batch = three_pictures((1, *FLAT), labels())
    with pytest.raises(ValueError, match=REFUSAL):
        clipped_sum(built("UNet 2-D"), loss(monai("losses")), batch, clipping_norm=1.0)


@pytest.mark.parametrize("part", ["a module", "the whole network"])
@pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")
def test_a_loss_that_reduces_over_the_batch_is_refused_on_the_slow_path(part):
    model, batch = WRAPPED[part][0](built("UNet 2-D")), three_pictures((1, *FLAT), class_indices())
    with pytest.raises(ValueError, match=REFUSAL):
        clipped_sum(model, monai("losses").DiceLoss(**ONE_HOT), batch, clipping_norm=1.0)


def test_a_loss_that_reduces_over_the_batch_is_refused_after_one_that_does_not():
    model, batch = built("UNet 2-D"), three_pictures((1, *FLAT), class_indices())
    losses = monai("losses")
    clipped_sum(model, each(losses.DiceLoss(reduction="none", **ONE_HOT)), batch, clipping_norm=1.0)
    with pytest.raises(ValueError, match=REFUSAL):
        clipped_sum(model, losses.DiceLoss(**ONE_HOT), batch, clipping_norm=1.0)


def test_the_mean_over_the_batch_given_once_for_each_picture_does_not_pass_for_a_loss_of_each_picture():
    model, batch = built("UNet 2-D"), three_pictures((1, *FLAT), drawn(3, *FLAT))

    def mean(outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels).expand(len(outputs))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPath)
            ours = clipped_sum(model, mean, batch, clipping_norm=1e6).vector
    except ValueError:
        return  # refused
    expected = patient_gradients(model, pixel_cross_entropy, batch).sum(0)
    assert relative_error(ours, expected, parameter_sizes(model))[0] < TOLERANCE
