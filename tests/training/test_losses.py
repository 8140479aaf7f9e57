import importlib
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from wardround.errors import ModelError
from wardround.images.entries import Target
from wardround.training.losses import LOSSES, LOSSES_FOR, cross_entropy, dice, dice_ce, focal, ordinal

SHAPES = {"pictures": (), "flat masks": (4, 5), "solid masks": (3, 4, 5)}
FITTING = [
    (name, shape)
    for target, names in LOSSES_FOR.items()
    for name in names
    for shape in (["flat masks", "solid masks"] if target == "masks" else ["pictures"])
]
DIMENSIONS = pytest.mark.parametrize("space", [(6, 7), (4, 5, 6)], ids=["2-D", "3-D"])
CLASSES = pytest.mark.parametrize("classes", [2, 4])


def monai() -> Any:
    return importlib.import_module("monai.losses")


def drawn(count: int, classes: int, space: tuple[int, ...] = (), dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, *space, generator=generator, dtype=torch.float64).to(dtype)
    return logits, torch.randint(0, classes, (count, *space), generator=generator)


def of_each(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


# What each loss is.


def test_cross_entropy_is_minus_the_log_probability_of_the_right_class():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    labels = torch.tensor([2, 1])
    expected = -torch.log(torch.softmax(logits, dim=1))[torch.arange(2), labels]
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


@DIMENSIONS
def test_cross_entropy_of_a_mask_is_the_mean_over_its_own_pixels(space):
    logits, labels = drawn(3, 4, space)
    pixels = cross_entropy(logits.movedim(1, -1).reshape(-1, 4), labels.reshape(-1))
    torch.testing.assert_close(cross_entropy(logits, labels), of_each(pixels.view(3, *space)))


@CLASSES
@pytest.mark.parametrize("space", SHAPES.values(), ids=SHAPES.keys())
def test_focal_is_monais(space, classes):
    for gamma in (0.0, 0.5, 2.0, 5.0):
        logits, labels = drawn(3, classes, space, torch.float32)
        oracle = monai().FocalLoss(use_softmax=True, to_onehot_y=True, gamma=gamma, reduction="none")
        expected = of_each(oracle(logits, labels[:, None]).sum(1, keepdim=True))
        torch.testing.assert_close(focal(logits, labels, gamma), expected)


def test_focal_of_two_classes_is_the_binary_one_of_the_difference_of_the_logits():
    logits, labels = drawn(5, 2, (6, 7), torch.float32)
    oracle = monai().FocalLoss(reduction="none")
    expected = of_each(oracle(logits[:, 1:] - logits[:, :1], labels[:, None]))
    torch.testing.assert_close(focal(logits, labels), expected)


def test_focal_without_focus_is_cross_entropy():
    logits, labels = drawn(5, 3)
    torch.testing.assert_close(focal(logits, labels, 0.0), cross_entropy(logits, labels))


@pytest.mark.parametrize("grades", [2, 5])
def test_ordinal_is_the_squared_distance_of_the_cumulative_probabilities(grades):
    logits, labels = drawn(20, grades)
    for values, label, loss in zip(logits, labels.tolist(), ordinal(logits, labels), strict=True):
        p = torch.softmax(values, dim=0)
        expected = sum((p[: k + 1].sum() - float(label <= k)) ** 2 for k in range(grades))
        torch.testing.assert_close(loss, torch.as_tensor(expected))


def test_ordinal_of_sure_grades_is_how_far_they_are_off():
    sure = 100 * torch.eye(5)
    for label in range(5):
        expected = (torch.arange(5.0) - label).abs()
        torch.testing.assert_close(ordinal(sure, torch.full((5,), label)), expected)


def test_ordinal_of_two_grades_is_the_brier_score():
    logits, labels = drawn(9, 2)
    p = torch.softmax(logits, dim=1)[:, 1]
    torch.testing.assert_close(ordinal(logits, labels), (p - labels) ** 2)


def test_honest_probabilities_have_the_smallest_expected_ordinal_loss():
    honest = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15], dtype=torch.float64)
    logits = honest.log().requires_grad_()
    expected = (honest * ordinal(logits.expand(5, 5), torch.arange(5))).sum()
    [gradient] = torch.autograd.grad(expected, logits)
    assert gradient.abs().max() < 1e-12
    for seed in range(20):
        noise = torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert (honest * ordinal((logits + noise).expand(5, 5), torch.arange(5))).sum() > expected


@CLASSES
@DIMENSIONS
def test_soft_dice_is_monais_without_the_background(space, classes):
    for smoothing in (1e-5, 1.0, 10.0):
        logits, labels = drawn(3, classes, space)
        labels[1] = 0  # a picture that shows nothing
        oracle = monai().DiceLoss(
            softmax=True, to_onehot_y=True, include_background=False, reduction="none",
            smooth_nr=smoothing, smooth_dr=smoothing,
        )  # fmt: skip
        expected = of_each(oracle(logits, labels[:, None]))
        torch.testing.assert_close(dice(logits, labels, smoothing), expected, check_dtype=False)


def test_soft_dice_of_two_classes_is_the_binary_one_of_the_difference_of_the_logits():
    logits, labels = drawn(3, 2, (6, 7))
    oracle = monai().DiceLoss(sigmoid=True, reduction="none", smooth_nr=1.0, smooth_dr=1.0)
    expected = of_each(oracle(logits[:, 1:] - logits[:, :1], labels[:, None]))
    torch.testing.assert_close(dice(logits, labels), expected)


def test_soft_dice_of_a_perfect_mask_is_zero_shown_or_not():
    labels = torch.zeros(2, 4, 5, dtype=torch.int64)
    labels[1, :2] = 1
    logits = 200 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    torch.testing.assert_close(dice(logits, labels), torch.zeros(2, dtype=torch.float64))


@CLASSES
@DIMENSIONS
def test_dice_ce_is_monais_one_picture_at_a_time(space, classes):
    logits, labels = drawn(3, classes, space)
    oracle = monai().DiceCELoss(
        softmax=True, to_onehot_y=True, include_background=False, smooth_nr=1.0, smooth_dr=1.0
    )
    torch.testing.assert_close(
        dice_ce(logits, labels),
        # MONAI leaves the background out of the Dice, and of the cross-entropy never.
        torch.stack([oracle(o[None], y[None, None]) for o, y in zip(logits, labels, strict=True)]),
    )


# What all losses keep to.


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_every_loss_is_one_number_a_picture(name, shape):
    for count in (0, 1, 5):
        loss, (logits, labels) = LOSSES[name], drawn(count, 3, SHAPES[shape])
        together = loss(logits, labels)
        assert together.shape == (count,)
        for i in range(count):
            torch.testing.assert_close(together[i], loss(logits[i : i + 1], labels[i : i + 1])[0])


def test_a_pictures_gradient_does_not_shrink_with_the_batch():
    def gradient_of_first(count, name, shape):
        logits = torch.ones(count, 3, *SHAPES[shape], requires_grad=True)
        LOSSES[name](logits, torch.zeros(count, *SHAPES[shape], dtype=torch.int64)).sum().backward()
        assert logits.grad is not None
        return logits.grad[0]

    for name, shape in FITTING:
        torch.testing.assert_close(gradient_of_first(1, name, shape), gradient_of_first(64, name, shape))


def test_half_precision_of_the_logits_is_not_that_of_the_loss():
    for name, shape in FITTING:
        logits, labels = drawn(4, 3, SHAPES[shape])
        coarse = logits.to(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = LOSSES[name](coarse, labels)
        assert losses.dtype is torch.float32
        torch.testing.assert_close(losses, LOSSES[name](coarse.float(), labels))


def test_labels_may_be_bytes_as_masks_are_kept():
    for name, shape in FITTING:
        logits, labels = drawn(4, 3, SHAPES[shape])
        assert torch.equal(LOSSES[name](logits, labels.to(torch.uint8)), LOSSES[name](logits, labels))


@pytest.mark.parametrize("loss", [*LOSSES.values(), partial(focal, gamma=0.1)], ids=[*LOSSES, "focal, sharp"])
def test_sure_networks_right_or_wrong_have_finite_losses_and_gradients(loss):
    for scale in (0.0, 30.0, 1e4):
        _, labels = drawn(4, 3, (6, 7))
        for shift in range(3):
            right = torch.nn.functional.one_hot((labels + shift) % 3, 3).movedim(-1, 1)
            logits = (scale * right).float().requires_grad_()
            losses = loss(logits, labels)
            [gradient] = torch.autograd.grad(losses.sum(), logits)
            assert torch.isfinite(losses).all()
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_network_with_a_single_logit_is_refused_with_the_cure(loss):
    with pytest.raises(ModelError, match="two classes"):
        loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64))


def test_every_target_has_losses_and_every_loss_a_target():
    assert set(LOSSES_FOR) == {target.value for target in Target}
    assert {name for names in LOSSES_FOR.values() for name in names} == set(LOSSES)
