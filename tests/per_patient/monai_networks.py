"""MONAI's networks as they come, and what the engine's sum of three pictures is compared with.

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
from tests.per_patient.oracle import Loss, clip_and_sum, parameter_sizes, patient_gradients, relative_error
from torch import Tensor, nn

from wardround.per_patient import PatientBatch, SlowPath, clipped_sum
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.per_patient.surgery import Norm

TOLERANCE = 1e-10
CLASSES = 3
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PATIENTS = torch.tensor([0, 0, 2])

REPLACED = (Norm.GROUP, Norm.INSTANCE, Norm.FROZEN)
NOTHING = (Norm.GROUP,)  # no batch norm in it: surgery changes nothing


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
