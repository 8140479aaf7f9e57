from typing import Any, cast

import pytest
import torch
from tests.cases import family
from tests.models.shapes import parameters_of
from torch import nn

from wardround.errors import ModelError
from wardround.models.catalogue import build
from wardround.models.network import NORMS, Stage
from wardround.models.stages import cut, last_block
from wardround.models.vectors import load_vector, to_vector


def made(name="vgg11_gn", **options):
    given: dict[str, Any] = {"size": (32, 32), "channels": 1, "num_classes": 2}
    given["init_generator"] = torch.Generator().manual_seed(0)
    return build(name, **(given | options))


def pictures():
    return torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def moved(network):
    """The network with its trained parameters off their starting values."""
    vector = to_vector(network.trained)
    load_vector(network.trained, vector + torch.linspace(-0.01, 0.01, len(vector)).numpy())
    return network


@pytest.mark.parametrize(
    "name", family(["small_cnn", "vgg11_gn", "resnet18", "densenet121", "vit_tiny", "unet", "segresnet"])
)
def test_norms_are_the_head_and_the_scale_and_offset_of_every_norm(name):
    network, head = made(name, train="norms"), made(name, train="head")
    of_norms = [
        f"{where}.{key}"
        for where, module in network.trained.named_modules()
        if isinstance(module, NORMS)
        for key, _ in module.named_parameters()
    ]
    assert set(parameters_of(network.trained)) == {*of_norms, *parameters_of(head.trained)}
    assert network.stage == "norms"
    assert network.encode.state_dict() == {}  # the layers stay where they are


@pytest.mark.parametrize("name", ["squeezenet", "features", "voxel_features"])
def test_without_norms_the_norms_are_the_head(name):
    ours, head = made(name, train="norms"), made(name, train="head")
    assert parameters_of(ours.trained) == parameters_of(head.trained)
    assert ours.encode_once == head.encode_once


LAST_BLOCKS = {
    "small_cnn": "features.6",
    "resnet18": "layer4.1",
    "densenet121": "features.denseblock4.denselayer16",
    "vit_tiny": "vit.blocks.11",
    "unet": "decoder.2",
}


@pytest.mark.parametrize("name", family(LAST_BLOCKS))
def test_the_last_block_is_trained_with_head_and_norms(name):
    network, norms = made(name, train="last-block"), made(name, train="norms")
    assert network.parts is not None
    block = cut(network.parts.body, network.parts.head)[0].get_submodule(LAST_BLOCKS[name])
    assert last_block(cut(network.parts.body, network.parts.head)[0]) is block
    inside = {f"{LAST_BLOCKS[name]}.{key}" for key, _ in block.named_parameters()}
    assert set(parameters_of(network.trained)) == {*parameters_of(norms.trained), *inside}


@pytest.mark.parametrize("name", family(["small_cnn", "vit_tiny", "unet", "resnet18"], keep=["small_cnn", "unet"]))
def test_biases_are_the_head_and_every_bias(name):
    network, head = made(name, train="biases"), made(name, train="head")
    biases = {key for key in parameters_of(made(name).trained) if key.endswith("bias")}
    assert set(parameters_of(network.trained)) == {*biases, *parameters_of(head.trained)}


def test_a_frozen_backbone_runs_without_its_dropout():
    head = made("squeezenet", train="head")
    inner = cast(nn.Sequential, head.encode)[1].get_submodule("inner")
    assert not any(module.training for module in inner.modules())
    assert all(module.training for module in made("squeezenet").trained.modules())


def test_an_unknown_stage_is_refused():
    with pytest.raises(ModelError, match="all, last-block, norms, lora, biases, head, got 'tail'"):
        made("small_cnn", train=cast(Stage, "tail"))


def test_a_cut_keeps_layers_order_and_names():
    body = nn.Sequential()
    body.add_module("first", nn.Linear(3, 4))
    body.add_module("second", nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6)))
    body.add_module("third", nn.Linear(6, 7))
    for head, names in {
        "first": [],
        "second": ["first"],
        "second.2": ["first", "second.0"],
        "third": ["first", "second.0", "second.2"],
    }.items():
        before, after = cut(body, head)
        kept = [name.removesuffix(".weight") for name in before.state_dict() if name.endswith("weight")]
        assert kept == names
        assert {**before.state_dict(), **after.state_dict()}.keys() == body.state_dict().keys()
        x = torch.ones(1, 3)
        torch.testing.assert_close(after(before(x)), body(x), rtol=0, atol=0)
