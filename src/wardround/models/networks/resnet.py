"""ResNet-18 of MONAI with group norms, for pictures and for volumes.

He et al. 2016, https://arxiv.org/abs/1512.03385, table 1. With 3 channels and 1,000 classes it has 11,689,512
parameters in two dimensions, as published: a group norm has the scale and offset of the batch norm it stands for.
In two dimensions the names are those of the public model zoo (`conv1`, `bn1`, `layer1.0.conv1`, `fc`), so a file
of its weights fits; the running statistics in it are reported as unused.
"""

from collections import OrderedDict

from torch import nn

from wardround.models.form import Form
from wardround.models.networks.extras import optional
from wardround.models.norms import group_normalised

SMALLEST_SIDE = 32
"""The five halvings leave one pixel of it."""

HEAD = "fc"


def resnet18(form: Form) -> nn.Sequential:
    """The children of MONAI's network in the order in which it runs them, with their names."""
    network = optional("monai.networks.nets.resnet").ResNet(
        "basic",
        [2, 2, 2, 2],
        [64, 128, 256, 512],
        spatial_dims=form.dimensions,
        n_input_channels=form.channels,
        conv1_t_stride=2,
        bias_downsample=False,
        num_classes=form.num_classes,
    )
    children = OrderedDict(group_normalised(network).named_children())
    head = children.pop(HEAD)
    return nn.Sequential(OrderedDict([*children.items(), ("flatten", nn.Flatten()), (HEAD, head)]))
