import torch

from wardround.models.network import Form
from wardround.models.networks.squeezenet import squeezenet

FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)} | {
    9: (256, 48, 192),
    10: (384, 48, 192),
    11: (384, 64, 256),
    12: (512, 64, 256),
}
"""Index in `features`: channels in, squeezed, expanded; the published table, version 1.1."""


def zoo(num_classes):
    """Names and shapes as the public model zoo's file has them, in its order."""
    shapes = {"features.0.weight": (64, 3, 3, 3), "features.0.bias": (64,)}
    for index, (channels, squeezed, expanded) in FIRES.items():
        for part, shape in (
            ("squeeze", (squeezed, channels, 1, 1)),
            ("expand1x1", (expanded, squeezed, 1, 1)),
            ("expand3x3", (expanded, squeezed, 3, 3)),
        ):
            shapes[f"features.{index}.{part}.weight"] = shape
            shapes[f"features.{index}.{part}.bias"] = shape[:1]
    shapes["classifier.1.weight"] = (num_classes, 512, 1, 1)
    shapes["classifier.1.bias"] = (num_classes,)
    return shapes


def test_names_shapes_and_order_are_the_zoos():
    network = squeezenet(Form((224, 224), 3, 1000))
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert list(shapes.items()) == list(zoo(1000).items())


def test_it_has_the_published_number_of_parameters():
    def count(classes):
        return sum(parameter.numel() for parameter in squeezenet(Form((224, 224), 3, classes)).parameters())

    assert count(5) == 725_061
    assert count(1000) == 1_235_496


def test_dropout_stands_before_the_last_convolution():
    assert isinstance(squeezenet(Form((224, 224), 3, 5)).get_submodule("classifier.0"), torch.nn.Dropout)


def test_other_picture_sizes_pass():
    network = squeezenet(Form((224, 224), 3, 5))
    for size in (17, 63, 64, 224):
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 5)
