"""Parameter counts, names and shapes against the published ones, on torch's `meta` device."""

import importlib

import pytest
import torch
from torch import nn

from wardround.models.catalogue import NETWORKS
from wardround.models.network import Form


def on_meta(name, classes, channels=3, size=(224, 224), width=None):
    builder = NETWORKS[name]
    with torch.device("meta"):
        return builder.body(Form(size, channels, classes, width or builder.width or 0))


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


COUNTS = [
    ("squeezenet", 5, 725_061),
    ("squeezenet", 1000, 1_235_496),
    ("alexnet", 1000, 60_965_224),
    ("vgg11", 1000, 132_863_336),
    ("vgg16", 1000, 138_357_544),
    ("resnet18", 1000, 11_689_512),
    ("resnet18", 2, 11_177_538),
    ("resnet18", 5, 11_179_077),
    ("densenet121", 1000, 7_978_856),
    # The published 5,717,416 have a position for the class token, which is itself trained.
    ("vit_tiny", 1000, 5_717_416 - 192),
    # VGG-11 with norms has 132,868,840: its 9,225,984 convolutional ones, and one linear layer.
    ("vgg11_gn", 1, 132_868_840 - 123_642_856 + 25_089),
    ("unet_vgg11", 1, 18_259_537),
]


@pytest.mark.parametrize(("name", "classes", "published"), COUNTS)
def test_a_network_has_the_published_number_of_parameters(name, classes, published):
    assert count(on_meta(name, classes)) == published


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_has_a_batch_norm_or_running_statistics(name):
    size = (64, 64) if 2 in NETWORKS[name].dimensions else (16, 16, 16)
    network = on_meta(name, 2, size=size)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    assert not list(network.buffers())


VGGS = {
    "vgg11": ((0, 3, 6, 8, 11, 13, 16, 18), (64, 128, 256, 256, 512, 512, 512, 512)),
    "vgg11_gn": ((0, 4, 8, 11, 15, 18, 22, 25), (64, 128, 256, 256, 512, 512, 512, 512)),
    "vgg16": (
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    ),
}
"""Where the convolutions stand in the public zoo's `features`, and their channels."""


@pytest.mark.parametrize("name", VGGS)
def test_the_convolutions_of_a_vgg_stand_where_the_zoo_has_them(name):
    at, widths = VGGS[name]
    expected = {
        f"features.{index}.weight": (width, before, 3, 3)
        for index, width, before in zip(at, widths, (3, *widths), strict=False)
    }
    state = on_meta(name, 7).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items() if value.ndim == 4} == expected
    linear = {key: tuple(value.shape) for key, value in state.items() if value.ndim == 2}
    if name == "vgg11_gn":
        assert linear == {"classifier.0.weight": (7, 25_088)}
    else:
        assert linear == {
            "classifier.0.weight": (4096, 25_088),
            "classifier.3.weight": (4096, 4096),
            "classifier.6.weight": (7, 4096),
        }


def test_the_encoder_of_the_u_net_is_that_of_the_vgg():
    ours, theirs = on_meta("unet_vgg11", 2).state_dict(), on_meta("vgg11_gn", 2).state_dict()
    encoder = {key: value.shape for key, value in ours.items() if key.startswith("features.")}
    assert encoder == {key: value.shape for key, value in theirs.items() if key.startswith("features.")}


def test_resnet_has_the_zoos_names_and_shapes():
    expected = {"conv1": (64, 3, 7, 7), "bn1": (64,)}
    before = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            at = f"layer{layer}.{block}"
            expected |= {f"{at}.conv1": (width, before, 3, 3), f"{at}.bn1": (width,)}
            expected |= {f"{at}.conv2": (width, width, 3, 3), f"{at}.bn2": (width,)}
            if width != before:
                expected |= {f"{at}.downsample.0": (width, before, 1, 1), f"{at}.downsample.1": (width,)}
            before = width
    expected["fc"] = (2, 512)
    state = on_meta("resnet18", 2).state_dict()
    weights = {key: tuple(value.shape) for key, value in state.items() if key.endswith(".weight")}
    assert weights == {f"{key}.weight": shape for key, shape in expected.items()}


def test_resnet_halves_a_picture_five_times():
    features = on_meta("resnet18", 2)[:-3]
    assert features(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 512, 7, 7)


def test_every_norm_of_the_resnet_has_32_groups():
    norms = [module for module in on_meta("resnet18", 2).modules() if isinstance(module, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {32}
    assert len(norms) == 20


def theirs(network, **options):
    nets = importlib.import_module("monai.networks.nets")
    with torch.device("meta"):
        return getattr(nets, network)(**options)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_names_and_shapes_of_the_densenet_are_monais(dimensions):
    monais = theirs("DenseNet121", spatial_dims=dimensions, in_channels=4, out_channels=3)
    expected = {key: value.shape for key, value in monais.named_parameters()}
    ours = on_meta("densenet121", 3, channels=4, size=(32,) * dimensions)
    assert {key: value.shape for key, value in ours.named_parameters()} == expected


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_segresnet_is_monais_cut_before_its_last_convolution(dimensions):
    monais = theirs("SegResNet", spatial_dims=dimensions, init_filters=8, in_channels=4, out_channels=3)
    ours = on_meta("segresnet", 3, channels=4, size=(16,) * dimensions)
    expected = {
        f"segresnet.{key}".replace("segresnet.conv_final.2.conv.", "classifier."): value.shape
        for key, value in monais.named_parameters()
    }
    assert {key: value.shape for key, value in ours.named_parameters()} == expected


@pytest.mark.parametrize("name", ["unet", "small_unet", "unet3d"])
def test_a_u_net_has_the_layers_of_monais_dynunet(name):
    builder = NETWORKS[name]
    levels = builder.divisor.bit_length()
    assert builder.width is not None
    for dimensions in builder.dimensions:
        monais = theirs(
            "DynUNet",
            spatial_dims=dimensions,
            in_channels=4,
            out_channels=3,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=[builder.width << level for level in range(levels)],
            norm_name=("instance", {"affine": True}),
        )
        ours = on_meta(name, 3, channels=4, size=(16,) * dimensions)
        shapes = sorted(tuple(value.shape) for value in ours.parameters())
        assert shapes == sorted(tuple(value.shape) for value in monais.parameters())
        transposed = nn.ConvTranspose2d if dimensions == 2 else nn.ConvTranspose3d
        assert sum(isinstance(module, transposed) for module in ours.modules()) == levels - 1


def test_the_transformer_trains_nothing_that_it_does_not_use():
    with torch.device("cpu"):
        network = NETWORKS["vit_tiny"].body(Form((32, 32), 1, 2))
    network(torch.zeros(1, 1, 32, 32)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
