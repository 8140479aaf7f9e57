"""SegResNet of MONAI, for pictures and for volumes.

Myronenko 2018, https://arxiv.org/abs/1810.11654, without the variational branch: residual blocks with group norms
of 8 groups, strided convolutions down, linear interpolation up. Names are MONAI's under `segresnet.`, the last
convolution is `classifier`.
"""

import math
from collections import OrderedDict

from torch import nn

from wardround.models.form import Form
from wardround.models.networks.extras import optional

DIVISOR = 8

HEAD = "classifier"

_GROUPS = 8


def segresnet(form: Form) -> nn.Sequential:
    """`segresnet` up to its last convolution, then that as `classifier`."""
    network = optional("monai.networks.nets.segresnet").SegResNet(
        spatial_dims=form.dimensions,
        init_filters=form.width,
        in_channels=form.channels,
        out_channels=form.num_classes,
        norm=("group", {"num_groups": math.gcd(_GROUPS, form.width)}),
    )
    head = network.conv_final[2].conv
    network.conv_final[2] = nn.Identity()
    return nn.Sequential(OrderedDict(segresnet=network, classifier=head))
