"""DenseNet-121 of MONAI with group norms, for pictures and for volumes.

Huang et al. 2017, https://arxiv.org/abs/1608.06993, table 1. With 3 channels and 1,000 classes it has 7,978,856
parameters in two dimensions, as published. Every norm sees a multiple of 32 channels, so there are 32 groups
throughout. Names are MONAI's (`features.denseblock1.denselayer1.layers.conv1`, `class_layers.out`).
"""

from collections import OrderedDict

from torch import nn

from wardround.models.form import Form
from wardround.models.networks.extras import optional
from wardround.models.norms import MOST_GROUPS

SMALLEST_SIDE = 32
"""The five halvings leave one pixel of it."""

HEAD = "class_layers.out"


def densenet121(form: Form) -> nn.Sequential:
    """MONAI's `features`, then its `class_layers`."""
    network = optional("monai.networks.nets.densenet").DenseNet121(
        spatial_dims=form.dimensions,
        in_channels=form.channels,
        out_channels=form.num_classes,
        norm=("group", {"num_groups": MOST_GROUPS}),
    )
    return nn.Sequential(OrderedDict(features=network.features, class_layers=network.class_layers))
