from typing import Any, cast

import pytest
import torch
from tests.cases import family
from torch import nn

from wardround.errors import ModelError
from wardround.models.catalogue import build
from wardround.models.network import Network, Normalise, Stage
from wardround.models.norms import NORMS
from wardround.models.parameter_set import check_parameter_set
from wardround.models.stages import cut, unfreeze
from wardround.models.vectors import load_vector, parameters_of, to_vector


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


def test_unfreezing_keeps_every_weight_and_grows_the_parameter_set():
    network = made(train="head")
    sizes = []
    for stage in ("head", "norms", "all"):
        before = moved(network).whole().eval()(pictures()).detach()
        network = unfreeze(network, stage)
        torch.testing.assert_close(network.whole().eval()(pictures()), before, rtol=0, atol=0)
        sizes.append(network.num_parameters)
    assert sizes == [25_088 * 2 + 2, 25_088 * 2 + 2 + 5_504, 25_088 * 2 + 2 + 9_220_480 - 1_152 + 5_504]


def test_the_old_network_and_the_new_one_share_nothing():
    old = made(train="head")
    new = unfreeze(old, "all")
    before = to_vector(old.trained), [p.requires_grad for p in old.encode.parameters()]
    moved(new)
    assert (to_vector(old.trained) == before[0]).all()
    assert not any(before[1])
    assert not {id(p) for p in old.whole().parameters()} & {id(p) for p in new.whole().parameters()}
    assert all(p.requires_grad for p in new.trained.parameters())


def test_an_unfrozen_network_trains_with_its_dropout_and_a_frozen_one_without():
    head = made("squeezenet", train="head")
    assert not any(
        module.training for module in cast(nn.Sequential, head.encode)[1].get_submodule("inner").modules()
    )
    whole = unfreeze(head, "all")
    assert all(module.training for module in whole.trained.modules())
    again = unfreeze(whole, "head")
    assert parameters_of(again.trained) == parameters_of(head.trained)


def test_gradients_of_the_old_stage_do_not_travel():
    old = made("small_cnn")
    old.trained(old.encode(pictures())).sum().backward()
    assert all(p.grad is None for p in unfreeze(old, "head").whole().parameters())


def test_the_optimizer_of_an_old_stage_is_refused_after_unfreezing():
    old = made("small_cnn", train="head")
    optimizer = torch.optim.SGD(old.trained.parameters(), lr=0.1)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    check_parameter_set(held, old)
    new = unfreeze(old, "norms")
    with pytest.raises(ModelError, match="2 are not noised, while 8 that are noised are missing"):
        check_parameter_set(held, new)
    check_parameter_set([p for p in new.trained.parameters() if p.requires_grad], new)


def test_a_network_put_together_by_hand_and_an_unknown_stage_are_refused():
    with pytest.raises(ModelError, match="'mine' put together by hand"):
        unfreeze(Network("mine", Normalise(), nn.Linear(2, 2), encode_once=False), "all")
    with pytest.raises(ModelError, match="'all', 'norms' or 'head', got 'tail'"):
        unfreeze(made("small_cnn"), cast(Stage, "tail"))


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
