import torch
from torch.func import functional_call, grad, vmap

from wardround.models.network import Form
from wardround.models.networks.alexnet import WIDTH, alexnet

PUBLISHED = {
    "features.0": (96, 3, 11, 11),
    "features.3": (256, 48, 5, 5),
    "features.6": (384, 256, 3, 3),
    "features.8": (384, 192, 3, 3),
    "features.10": (256, 192, 3, 3),
    "classifier.1": (4096, 256 * 6 * 6),
    "classifier.4": (4096, 4096),
    "classifier.6": (1000, 4096),
}
"""Kernel shapes of the original, section 3.5 of the paper; a bias stands beside each."""


def on_meta(classes):
    with torch.device("meta"):
        return alexnet(Form((224, 224), 3, classes, WIDTH))


def test_names_shapes_and_order_are_those_published():
    expected = {}
    for name, shape in PUBLISHED.items():
        expected[f"{name}.weight"], expected[f"{name}.bias"] = shape, shape[:1]
    shapes = {name: tuple(value.shape) for name, value in on_meta(1000).state_dict().items()}
    assert list(shapes.items()) == list(expected.items())


def test_it_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in on_meta(1000).parameters()) == 60_965_224
    assert sum(parameter.numel() for parameter in on_meta(2).parameters()) == 60_965_224 - 998 * 4097


def test_the_nonlinearity_is_leaky_everywhere():
    kinds = [type(module).__name__ for module in on_meta(2).modules()]
    assert kinds.count("LeakyReLU") == 7
    assert "ReLU" not in kinds


def test_pictures_from_63_to_227_pixels_reach_the_fully_connected_layers():
    network = on_meta(2)
    for size in (63, 64, 128, 224, 227):
        assert network(torch.zeros(1, 3, size, size, device="meta")).shape == (1, 2)


def test_per_picture_gradients_have_the_parameters_shapes():
    network = on_meta(2)
    parameters = dict(network.named_parameters())

    def loss(values, picture):
        return functional_call(network, values, (picture[None],)).sum()

    pictures = torch.zeros(3, 3, 64, 64, device="meta")
    gradients = vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, pictures)
    assert {name: value.shape for name, value in gradients.items()} == {
        name: (3, *value.shape) for name, value in parameters.items()
    }


def test_a_narrow_one_has_the_same_layers_in_the_same_proportions():
    with torch.device("meta"):
        narrow = alexnet(Form((224, 224), 1, 2, 12))
    shapes = {name.removesuffix(".weight"): tuple(value.shape) for name, value in narrow.state_dict().items()}
    assert shapes["features.0"] == (12, 1, 11, 11)
    assert shapes["features.3"] == (32, 6, 5, 5)
    assert shapes["features.8"] == (48, 24, 3, 3)
    assert shapes["classifier.1"] == (512, 32 * 6 * 6)
    assert [type(module) for module in narrow.modules()] == [type(module) for module in on_meta(2).modules()]
