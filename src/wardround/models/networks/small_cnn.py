"""A small convolutional network for private training from scratch on a processor without accelerator.

Three strided convolutions with group normalisation, about 20,000 parameters for 64-pixel radiographs.
Private training wants few parameters, because noise is added to each; a large early stride, because
every patient's gradient is computed on its own; and no layer that lets pictures of a batch meet. No
operation works in place, so `torch.func` transforms pass through. The last layer starts at zero.
"""

import math
from collections import OrderedDict

from torch import nn

from wardround.models.network import Form

GROUPS = 8


def small_cnn(form: Form) -> nn.Sequential:
    """Returns `features`, flattened, then one linear `classifier`; inputs are (picture, channel, height, width)."""
    pixels = math.prod(_halved(_halved(side // 4, 4), 3) for side in form.size)
    features = nn.Sequential(
        nn.Conv2d(form.channels, 16, kernel_size=8, stride=4, padding=2),
        nn.GroupNorm(GROUPS, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1),
        nn.GroupNorm(GROUPS, 32),
        nn.ReLU(),
        nn.Conv2d(32, 32, kernel_size=3, stride=2, padding=1),
        nn.GroupNorm(GROUPS, 32),
        nn.ReLU(),
    )
    classifier = nn.Sequential(nn.Linear(32 * pixels, form.num_classes))
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))


def _halved(side: int, kernel: int) -> int:
    """Returns the width after a convolution of stride 2 and padding 1."""
    return (side + 2 - kernel) // 2 + 1
