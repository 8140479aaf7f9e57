"""AlexNet with LeakyReLU and its original grouped convolutions.

Krizhevsky, Sutskever and Hinton 2012, https://papers.nips.cc/paper/4824, section 3.5: the second, fourth
and fifth convolutions see only the half of the channels that lay on the same of two GPUs. With 3 channels
and 1,000 classes it has 60,965,224 parameters. The widths differ from the public zoo's one-column network;
the numbering of the layers (`features.N`, `classifier.N`) is the same.

Two departures: LeakyReLU stands for ReLU, as in the federated chest X-ray study that used this network
(its slope is not published; torch's 0.01 is taken), and local response normalisation is left out. An
average pool to 6x6 before the fully connected layers lets pictures from 63 pixels through.

Dropout is kept: see `wardround.models.networks.squeezenet` for what it means to private training.
"""

from collections import OrderedDict

from torch import nn

from wardround.models.network import Form

SLOPE = 0.01

WIDTH = 96
"""Channels of the first convolution as published."""


def alexnet(form: Form) -> nn.Sequential:
    """Returns `features`, the pool to 6x6, then `classifier`, numbered as in the zoo.

    All layers shrink or grow with the width of the first convolution, to even numbers.
    """

    def wide(published: int) -> int:
        return 2 * max(1, round(published * form.width / WIDTH / 2))

    features = nn.Sequential(
        nn.Conv2d(form.channels, wide(96), kernel_size=11, stride=4, padding=2),
        nn.LeakyReLU(SLOPE),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(wide(96), wide(256), kernel_size=5, padding=2, groups=2),
        nn.LeakyReLU(SLOPE),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(wide(256), wide(384), kernel_size=3, padding=1),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(wide(384), wide(384), kernel_size=3, padding=1, groups=2),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(wide(384), wide(256), kernel_size=3, padding=1, groups=2),
        nn.LeakyReLU(SLOPE),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )
    classifier = nn.Sequential(
        nn.Dropout(0.5),
        nn.Linear(wide(256) * 6 * 6, wide(4096)),
        nn.LeakyReLU(SLOPE),
        nn.Dropout(0.5),
        nn.Linear(wide(4096), wide(4096)),
        nn.LeakyReLU(SLOPE),
        nn.Linear(wide(4096), form.num_classes),
    )
    pool = nn.AdaptiveAvgPool2d(6)
    return nn.Sequential(OrderedDict(features=features, pool=pool, flatten=nn.Flatten(), classifier=classifier))
