"""Networks of MONAI, for pictures and for volumes, with group norms or layer norms and with MONAI's names."""

import importlib
import math
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from wardround.boundary.extras import needed
from wardround.models.network import MOST_GROUPS, Form
from wardround.per_patient.surgery import without_batch_norm

VIT_PATCH = 16
VIT_DEVIATION = 0.02
"""Standard deviation of the starting values: linear layers, class token, positions (DeiT)."""

_VIT_TOKEN = 192


def optional(module: str) -> Any:
    """Imports a module of MONAI, or of what MONAI's networks need, when a network that uses it is built.

    Raises:
        MissingExtra: it is not installed.
    """
    with needed("networks", "This network", "there are networks that need nothing more"):
        return importlib.import_module(module)


def resnet18(form: Form) -> nn.Sequential:
    """Returns ResNet-18: the children of MONAI's network in the order in which it runs them.

    He et al. 2016, https://arxiv.org/abs/1512.03385, table 1. With 3 channels and 1,000 classes it has 11,689,512
    parameters in two dimensions, as published: a group norm has the scale and offset of the batch norm it replaces.
    In two dimensions the names are those of the public model zoo (`conv1`, `bn1`, `layer1.0.conv1`, `fc`), so a file
    of its weights fits; the running statistics in the file are left alone.
    """
    network = optional("monai.networks.nets.resnet").ResNet(
        "basic", [2, 2, 2, 2], [64, 128, 256, 512],
        spatial_dims=form.dimensions, n_input_channels=form.channels, num_classes=form.num_classes,
        conv1_t_stride=2, bias_downsample=False,
    )  # fmt: skip
    # The constructor's `norm` reaches the stem alone (MONAI 1.4 to 1.6).
    children = OrderedDict(without_batch_norm(network)[0].named_children())
    head = children.pop("fc")
    return nn.Sequential(OrderedDict([*children.items(), ("flatten", nn.Flatten()), ("fc", head)]))


def densenet121(form: Form) -> nn.Sequential:
    """Returns DenseNet-121: MONAI's `features`, then its `class_layers`.

    Huang et al. 2017, https://arxiv.org/abs/1608.06993, table 1. With 3 channels and 1,000 classes it has 7,978,856
    parameters in two dimensions, as published. Every norm sees a multiple of 32 channels, and has 32 groups.
    """
    network = optional("monai.networks.nets.densenet").DenseNet121(
        spatial_dims=form.dimensions, in_channels=form.channels, out_channels=form.num_classes,
        norm=("group", {"num_groups": MOST_GROUPS}),
    )  # fmt: skip
    return nn.Sequential(OrderedDict(features=network.features, class_layers=network.class_layers))


def segresnet(form: Form) -> nn.Sequential:
    """Returns SegResNet: `segresnet` up to MONAI's last convolution, then that convolution as `classifier`.

    Myronenko 2018, https://arxiv.org/abs/1810.11654, without the variational branch: residual blocks with group norms
    of 8 groups, strided convolutions down, linear interpolation up.
    """
    network = optional("monai.networks.nets.segresnet").SegResNet(
        spatial_dims=form.dimensions, init_filters=form.width, in_channels=form.channels,
        out_channels=form.num_classes, norm=("group", {"num_groups": math.gcd(8, form.width)}),
    )  # fmt: skip
    head = network.conv_final[2].conv
    network.conv_final[2] = nn.Identity()
    return nn.Sequential(OrderedDict(segresnet=network, classifier=head))


class First(nn.Module):
    """The class token of what MONAI's ViT returns: a pair of the token and the hidden states of all blocks."""

    def forward(self, outputs: tuple[torch.Tensor, list[torch.Tensor]]) -> torch.Tensor:
        """Returns the token, (picture, feature)."""
        return outputs[0]


def vit_tiny(form: Form) -> nn.Sequential:
    """Returns ViT-tiny: `vit` up to the normalised class token, then one linear `classifier`.

    Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, at the size of DeiT-tiny (Touvron et al. 2021,
    https://arxiv.org/abs/2012.12877, table 1): 12 blocks, 3 heads, 192 numbers a token. For 224 pixels, 3 channels and
    1,000 classes the published network has 5,717,416 parameters. This one has 192 fewer, because MONAI adds no
    position to the class token, which is one trained row beside another.

    MONAI makes a norm for cross-attention and never runs it. The norm is taken out, since every parameter is noised.
    Layer norms see one token, so one picture never sees another.
    """
    optional("einops")
    network = optional("monai.networks.nets.vit").ViT(
        in_channels=form.channels, img_size=form.size, patch_size=(VIT_PATCH, VIT_PATCH), hidden_size=_VIT_TOKEN,
        mlp_dim=4 * _VIT_TOKEN, num_layers=12, num_heads=3, classification=True, num_classes=form.num_classes,
        post_activation=None, qkv_bias=True, spatial_dims=2,
    )  # fmt: skip
    for block in network.blocks:
        block.norm_cross_attn = block.cross_attn = nn.Identity()
    network.classification_head = nn.Identity()
    head = nn.Linear(_VIT_TOKEN, form.num_classes)
    return nn.Sequential(OrderedDict(vit=network, token=First(), classifier=head))
