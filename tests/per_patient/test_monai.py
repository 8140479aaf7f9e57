"""MONAI's networks and losses as they come, after surgery, against one-patient backward passes in float64.

Three pictures: one patient with two, one without any, one with one; the clipping norm lies between the norms of
the two gradients, so that one is clipped and the other is not.
"""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.cases import family
from tests.per_patient.conformance import (
    Loss,
    binary_cross_entropy,
    clip_and_sum,
    cross_entropy,
    parameter_sizes,
    patient_gradients,
    pixel_cross_entropy,
    relative_error,
    soft_dice,
)
from torch import Tensor, nn

from wardround.errors import ModelError
from wardround.per_patient import PatientBatch, SlowPath, check_trainable, clipped_sum
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.per_patient.surgery import FrozenBatchNorm, Norm, without_batch_norm

TOLERANCE = 1e-10
CLASSES = 3
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PATIENTS = torch.tensor([0, 0, 2])

REPLACED = (Norm.GROUP, Norm.INSTANCE, Norm.FROZEN)
NOTHING = (Norm.GROUP,)  # no batch norm in it: surgery changes nothing


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def monai(part: str) -> Any:
    """A part of MONAI, imported when a test runs: collecting the suite need not wait for it."""
    return importlib.import_module(f"monai.{part}")


@dataclass(frozen=True)
class Network:
    """A network, the shape of a picture, that of its labels, and what takes the place of its batch norms."""

    build: Callable[[Any], nn.Module]
    picture: tuple[int, ...]
    labels: tuple[int, ...] = ()
    norms: tuple[Norm, ...] = NOTHING
    needs: str | None = None


class Logits(nn.Module):
    """MONAI's ViT gives its hidden states beside the logits; a network here gives logits."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.vit(x)[0]
        return logits


def unet(dims: int, **options: Any) -> Callable[[Any], nn.Module]:
    def build(nets: Any) -> nn.Module:
        model: nn.Module = nets.UNet(dims, 1, CLASSES, (8, 16, 40), (2, 2), **options)
        return model

    return build


def segresnet(dims: int, filters: int, **options: Any) -> Callable[[Any], nn.Module]:
    def build(nets: Any) -> nn.Module:
        model: nn.Module = nets.SegResNet(dims, filters, 1, CLASSES, blocks_down=(1, 1), blocks_up=(1,), **options)
        return model

    return build


def resnet(dims: int, block: str, layers: tuple[int, ...], **options: Any) -> Callable[[Any], nn.Module]:
    def build(nets: Any) -> nn.Module:
        model: nn.Module = nets.ResNet(
            block, layers, (4, 8, 16, 36), spatial_dims=dims, n_input_channels=1, num_classes=CLASSES, **options
        )
        return model

    return build


def densenet121(nets: Any) -> nn.Module:
    model: nn.Module = nets.DenseNet121(spatial_dims=2, in_channels=1, out_channels=CLASSES)
    return model


def vit(dims: int, **options: Any) -> Callable[[Any], nn.Module]:
    def build(nets: Any) -> nn.Module:
        return Logits(
            nets.ViT(
                1, (16,) * dims, (8,) * dims, hidden_size=16, mlp_dim=32, num_layers=2, num_heads=2,
                classification=True, num_classes=CLASSES, spatial_dims=dims, **options,
            )
        )  # fmt: skip

    return build


FLAT, SOLID = (32, 32), (16, 16, 16)

# Sizes keep every map that is normalised above one pixel: of one pixel, an instance norm leaves nothing. Widths
# go above 32 channels, below which a group norm with the largest divisor is an instance norm.
NETWORKS = {
    "DenseNet-121": Network(densenet121, (1, *FLAT), norms=(Norm.GROUP, Norm.FROZEN)),
    "DenseNet-121 64 px": Network(densenet121, (1, 64, 64), norms=(Norm.INSTANCE,)),
    "ResNet-18 2-D": Network(resnet(2, "basic", (2, 2, 2, 2)), (1, *FLAT), norms=REPLACED),
    "ResNet-18 2-D, shortcuts of type A": Network(
        resnet(2, "basic", (2, 2, 2, 2), shortcut_type="A"), (1, *FLAT), norms=REPLACED
    ),
    "ResNet-18 3-D": Network(
        resnet(3, "basic", (2, 2, 2, 2), no_max_pool=True), (1, *SOLID), norms=REPLACED
    ),
    "ResNet 2-D of bottlenecks": Network(resnet(2, "bottleneck", (1, 1, 1, 1)), (1, *FLAT), norms=REPLACED),
    "UNet 2-D": Network(unet(2), (1, *FLAT), FLAT),
    "UNet 2-D, residual": Network(unet(2, num_res_units=2), (1, *FLAT), FLAT),
    "UNet 3-D, residual": Network(unet(3, num_res_units=2), (1, *SOLID), SOLID),
    "UNet 2-D, batch norm": Network(unet(2, num_res_units=1, norm="batch"), (1, *FLAT), FLAT, REPLACED),
    "UNet 3-D, batch norm": Network(unet(3, num_res_units=1, norm="batch"), (1, *SOLID), SOLID, REPLACED),
    "UNet 2-D, instance norm with weights": Network(
        unet(2, norm=("instance", {"affine": True})), (1, *FLAT), FLAT
    ),
    "UNet 3-D, instance norm with weights": Network(
        unet(3, norm=("instance", {"affine": True})), (1, *SOLID), SOLID
    ),
    "SegResNet 2-D": Network(segresnet(2, 8), (1, *FLAT), FLAT),
    "SegResNet 3-D": Network(segresnet(3, 8), (1, *SOLID), SOLID),
    "SegResNet 2-D, batch norm": Network(segresnet(2, 20, norm="batch"), (1, *FLAT), FLAT, REPLACED),
    "SegResNet 3-D, batch norm, transposed": Network(
        segresnet(3, 20, norm="batch", upsample_mode="deconv"), (1, 8, 8, 8), (8, 8, 8), REPLACED
    ),
    "SegResNet 2-D, instance norm": Network(segresnet(2, 8, norm="instance"), (1, *FLAT), FLAT),
    "BasicUNet 2-D": Network(
        lambda nets: nets.BasicUNet(2, 1, CLASSES, features=(4, 4, 8, 8, 8, 4)), (1, *FLAT), FLAT
    ),
    "AttentionUnet 2-D": Network(
        lambda nets: nets.AttentionUnet(2, 1, CLASSES, (8, 16, 40), (2, 2)), (1, *FLAT), FLAT, REPLACED
    ),
    "DynUNet 2-D": Network(
        lambda nets: nets.DynUNet(2, 1, CLASSES, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 8)),
        (1, *FLAT), FLAT,
    ),
    "ViT 2-D": Network(vit(2), (1, 16, 16), needs="einops"),
    "ViT 3-D, patches by a perceptron": Network(
        vit(3, proj_type="perceptron", qkv_bias=True, post_activation=None), (1, *SOLID), needs="einops"
    ),
    "UNETR 2-D": Network(
        lambda nets: nets.UNETR(
            1, CLASSES, FLAT, feature_size=4, hidden_size=16, mlp_dim=32, num_heads=2, spatial_dims=2
        ),
        (1, *FLAT), FLAT, needs="einops",
    ),
}  # fmt: skip

WITH_BATCH_NORM = [name for name, network in NETWORKS.items() if network.norms is not NOTHING]


def built(name: str) -> nn.Module:
    """A network in training mode whose weights and statistics have nothing special: no scale is 1, no offset 0."""
    network = NETWORKS[name]
    if network.needs is not None:
        pytest.importorskip(network.needs, reason=f"MONAI's {name} needs {network.needs}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(name.encode()))
        model = network.build(monai("networks.nets")).double().train()
        norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.02 * torch.randn_like(p))
            for norm in norms:
                norm.momentum = None  # the statistics of the pictures that follow, and nothing else
            if norms:
                model(noise(4, *network.picture))
    return model


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def drawn(*shape: int, most: int = CLASSES) -> Tensor:
    return torch.randint(0, most, shape, generator=torch.Generator().manual_seed(2))


def three_pictures(picture: tuple[int, ...], labels: Tensor) -> PatientBatch:
    """Labels of noise for the first patient and of one kind for the last: their gradients differ in size."""
    pictures, labels = noise(3, *picture), labels.clone()
    pictures[2] *= 3
    if labels.ndim > 1:
        labels[2] = 1
    return PatientBatch(pictures, labels, PATIENTS, 3)


def agrees(model: nn.Module, loss: Loss, batch: PatientBatch) -> None:
    """The engine's clipped sum is the oracle's, with one of the two patients clipped, and no slow path taken."""
    gradients = patient_gradients(model, loss, batch)
    norms = gradients.norm(dim=1)
    clipping_norm = float((norms[0] * norms[2]).sqrt())
    assert norms[1] == 0
    assert norms[[0, 2]].min() < 0.99 * clipping_norm
    assert norms[[0, 2]].max() > 1.01 * clipping_norm
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", SlowPath)
        ours = clipped_sum(model, loss, batch, clipping_norm=clipping_norm)
    assert [str(warning.message) for warning in said] == []
    expected = clip_and_sum(gradients, clipping_norm, shave=SHAVE)
    error, worst = relative_error(ours.vector, expected, parameter_sizes(model))
    assert error < TOLERANCE, worst
    assert ours.sensitivity == clipping_norm


def largest_divisor(channels: int) -> int:
    return next(groups for groups in range(32, 0, -1) if channels % groups == 0)


# Networks.


@pytest.mark.parametrize(
    ("name", "by"),
    family(
        [(name, by) for name, network in NETWORKS.items() for by in network.norms],
        keep=[
            *(("ResNet 2-D of bottlenecks", by) for by in REPLACED),
            ("UNet 2-D, batch norm", Norm.GROUP), ("SegResNet 2-D", Norm.GROUP), ("ViT 2-D", Norm.GROUP),
        ],
    ),
)  # fmt: skip
def test_a_network_as_it_comes_gives_the_clipped_sum_of_one_patient_backward_passes(name, by):
    network = NETWORKS[name]
    model, changes = without_batch_norm(built(name), by)
    batch = three_pictures(network.picture, drawn(3, *network.labels))
    assert bool(changes.changes) == (network.norms is not NOTHING)
    check_trainable(model, batch.inputs)
    agrees(model, pixel_cross_entropy if network.labels else cross_entropy, batch)


@pytest.mark.parametrize("name", family(WITH_BATCH_NORM, keep=["ResNet 2-D of bottlenecks"]))
def test_surgery_replaces_every_batch_norm_of_a_network_and_nothing_else(name):
    model = built(name)
    channels = {where: m.num_features for where, m in model.named_modules() if isinstance(m, BATCH_NORMS)}
    others = [type(m) for where, m in model.named_modules() if where not in channels]
    for by in NETWORKS[name].norms:
        changed, changes = without_batch_norm(model, by)
        assert [change.name for change in changes.changes] == list(channels)
        assert [type(m) for where, m in changed.named_modules() if where not in channels] == others
        put_in = {where: changed.get_submodule(where) for where in channels}
        if by is Norm.GROUP:
            groups = {where: m.num_groups for where, m in put_in.items() if isinstance(m, nn.GroupNorm)}
            assert groups == {where: largest_divisor(number) for where, number in channels.items()}
            assert any(groups[where] < number for where, number in channels.items())
        else:
            kind = nn.modules.instancenorm._InstanceNorm if by is Norm.INSTANCE else FrozenBatchNorm
            assert all(isinstance(m, kind) for m in put_in.values())


@pytest.mark.parametrize("name", family(WITH_BATCH_NORM, keep=["ResNet 2-D of bottlenecks"]))
def test_a_network_with_its_batch_norms_in_training_is_refused_with_the_cure(name):
    with pytest.raises(ModelError, match=r"BatchNorm[23]d at '.*' in training mode.*GroupNorm"):
        check_trainable(built(name), noise(3, *NETWORKS[name].picture))


@pytest.mark.parametrize("dims", family([2, 3]))
def test_batch_norms_in_the_blocks_of_a_resnet_whose_norm_was_chosen_as_group_are_found_and_replaced(dims):
    # MONAI 1.6 gives `norm` to the stem alone.
    options = {"norm": ("group", {"num_groups": 2})}
    model = (
        resnet(dims, "basic", (1, 1, 1, 1), no_max_pool=True, **options)(monai("networks.nets")).double().train()
    )
    pictures = noise(2, 1, *(16,) * dims)
    with pytest.raises(ModelError, match="in training mode"):
        check_trainable(model, pictures)
    changed, changes = without_batch_norm(model)
    check_trainable(changed, pictures)
    assert len(changes.changes) == 11


# Losses.


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


# Pictures as MONAI's loaders hand them over.


@pytest.mark.parametrize("name", family(["UNet 2-D", "SegResNet 2-D", "DenseNet-121"]))
def test_pictures_that_are_meta_tensors_give_what_plain_tensors_give(name):
    network = NETWORKS[name]
    model, _ = without_batch_norm(built(name))
    loss = pixel_cross_entropy if network.labels else cross_entropy
    plain = three_pictures(network.picture, drawn(3, *network.labels))
    meta = PatientBatch(monai("data").MetaTensor(plain.inputs), plain.labels, plain.patient, plain.num_patients)
    loss(model(meta.inputs), meta.labels).sum().backward()  # ordinary training takes them
    model.zero_grad()
    ours = clipped_sum(model, loss, meta, clipping_norm=1.0).vector
    expected = clip_and_sum(patient_gradients(model, loss, plain), 1.0, shave=SHAVE)
    assert relative_error(ours, expected, parameter_sizes(model))[0] < TOLERANCE
