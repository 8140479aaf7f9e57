"""VGG-11 and VGG-16, with the parameter names of the public model zoo.

Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556, table 1, columns A and D. With 3 channels and 1,000
classes they have 132,863,336 and 138,357,544 parameters, most of them in the first fully connected layer, which an
average pool to 7x7 lets pictures of every size from 32 pixels reach.

`vgg11_gn` is the network of the paediatric pneumonia study of deepee (Kaissis et al. 2021): a normalisation after
every convolution (there a batch norm, here a group norm) and one linear layer, `classifier.0`, from the 25,088
features to the classes. It has a thirteenth of the parameters, so it suits private training better.

Dropout is kept in the other two: see `wardround.models.networks.squeezenet` for what it means to private training.
"""

from collections import OrderedDict

from torch import nn

from wardround.models.network import Form
from wardround.models.norms import group_norm

NUM_FEATURES = 512 * 7 * 7

# Channels of the convolutions between two poolings.
VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def convolutions(channels: int, plan: tuple[tuple[int, ...], ...], *, normalised: bool) -> list[nn.Module]:
    """Returns the convolutional layers in the zoo's order, a pooling that halves each side after each level."""
    layers: list[nn.Module] = []
    for level in plan:
        for width in level:
            layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            if normalised:
                layers.append(group_norm(width))
            layers.append(nn.ReLU())
            channels = width
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return layers


def vgg(form: Form, plan: tuple[tuple[int, ...], ...]) -> nn.Sequential:
    """Returns `features`, the pool to 7x7, then `classifier`, numbered as in the zoo."""
    classifier = nn.Sequential(
        nn.Linear(NUM_FEATURES, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, form.num_classes),
    )
    return _assembled(convolutions(form.channels, plan, normalised=False), classifier)


def vgg11_gn(form: Form) -> nn.Sequential:
    """Returns VGG-11 with group norms (the zoo's numbering of its VGG-11 with batch norms) and one linear layer."""
    classifier = nn.Sequential(nn.Linear(NUM_FEATURES, form.num_classes))
    return _assembled(convolutions(form.channels, VGG11, normalised=True), classifier)


def _assembled(features: list[nn.Module], classifier: nn.Sequential) -> nn.Sequential:
    before = OrderedDict(features=nn.Sequential(*features), avgpool=nn.AdaptiveAvgPool2d(7), flatten=nn.Flatten())
    return nn.Sequential(OrderedDict([*before.items(), ("classifier", classifier)]))
