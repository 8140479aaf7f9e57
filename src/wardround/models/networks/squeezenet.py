"""SqueezeNet 1.1, with the parameter names of the public model zoo.

Iandola et al. 2016, https://arxiv.org/abs/1602.07360; version 1.1 (2.4 times less computation, the same
accuracy) is https://github.com/forresti/SqueezeNet/tree/master/SqueezeNet_v1.1. No normalisation layer of
any kind, so one picture never sees another. With 5 classes and 3 channels it has 725,061 parameters.

Dropout before the last convolution is kept. Its mask makes a picture's gradient random, and the gradient
is still of that picture alone, so clipping bounds it as before. Under `torch.func.vmap` the masks need
`randomness="different"`.
"""

from collections import OrderedDict

import torch
from torch import nn

from wardround.models.network import Form


class Fire(nn.Module):
    """A squeeze to few channels by 1x1, then an expansion by 1x1 and 3x3 side by side (Iandola et al., section 3.2)."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, kernel_size=1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps inputs (picture, channels, height, width) to (picture, 2 * expand, height, width)."""
        squeezed = torch.relu(self.squeeze(inputs))
        return torch.relu(torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], dim=1))


def squeezenet(form: Form) -> nn.Sequential:
    """Returns `features` then `classifier`, each with the zoo's numbering, which counts layers without parameters."""
    features = nn.Sequential(
        nn.Conv2d(form.channels, 64, kernel_size=3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )
    classifier = nn.Sequential(
        nn.Dropout(0.5),
        nn.Conv2d(512, form.num_classes, kernel_size=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(OrderedDict(features=features, classifier=classifier))
