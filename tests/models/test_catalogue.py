from functools import lru_cache

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call, grad, vmap

from wardround.errors import ModelError
from wardround.models.catalogue import NETWORKS, build
from wardround.models.vectors import load_vector, parameters_of, to_vector

SIZE = 64
WITH_A_BACKBONE = ["small_cnn", "squeezenet", "alexnet"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def made(name, **changed):
    given = {"image_size": SIZE, "channels": 1, "num_classes": 3, "init_generator": generator()}
    return build(name, **(given | changed))


@lru_cache(maxsize=2)
def shared(name, train="all"):
    """A network that no test may change; AlexNet is slow to draw."""
    net = made(name, train=train)
    for module in net.trained.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for parameter in net.trained.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator(1))
    return net


def pictures(count=3, channels=1, size=SIZE):
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator(7))


@pytest.mark.parametrize("train", ["all", "head"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pictures_logits_do_not_depend_on_the_other_pictures(name, train):
    net = shared(name, train)
    assert net.trained.training
    together = net.trained(net.encode(pictures()))
    alone = torch.cat([net.trained(net.encode(picture[None])) for picture in pictures()])
    assert together.shape == (3, 3)
    assert together.std(dim=0).min() > 0
    # float32; matrix products of other sizes are summed in another order.
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_equals_the_encoding_and_the_trained_part(name):
    net = shared(name)
    torch.testing.assert_close(net.whole()(pictures()), net.trained(net.encode(pictures())), rtol=0, atol=0)


HEAVY = [pytest.param(name, marks=pytest.mark.slow) if name == "alexnet" else name for name in NETWORKS]
"""All networks; AlexNet's per-picture gradients take 250 MB each, its shapes are tested in `test_alexnet`."""


@pytest.mark.parametrize("name", HEAVY)
def test_gradients_of_single_pictures_by_vmap_are_those_of_single_backward_passes(name):
    net = shared(name)
    inputs, labels = net.encode(pictures(2)), torch.tensor([0, 2])
    parameters = {name: value.detach() for name, value in net.trained.named_parameters()}

    def loss(values, one, label):
        logits = functional_call(net.trained, values, (one[None],))
        return nn.functional.cross_entropy(logits, label[None])

    together = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(parameters, inputs, labels)
    for i in range(2):
        alone = grad(loss)(parameters, inputs[i], labels[i])
        for key, value in alone.items():
            torch.testing.assert_close(together[key][i], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_vector_goes_into_every_network_and_comes_out_again(name):
    net = shared(name)
    vector = to_vector(net.trained)
    assert vector.shape == (net.num_parameters,)
    load_vector(net.trained, vector)
    assert (to_vector(net.trained) == vector).all()


@pytest.mark.parametrize("name", HEAVY)
def test_the_generator_alone_decides_the_starting_values(name):
    state = torch.get_rng_state()
    first = to_vector(made(name).trained)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert (to_vector(made(name).trained) == first).all()
    if name in WITH_A_BACKBONE:
        assert (to_vector(made(name, init_generator=generator(1)).trained) != first).any()


@pytest.mark.parametrize("name", ["linear", "features", "small_cnn"])
def test_a_head_at_zero_gives_every_class_the_same_chance(name):
    net = made(name)
    assert not net.trained(net.encode(pictures())).any()


@pytest.mark.parametrize("name", WITH_A_BACKBONE)
def test_training_the_head_freezes_the_backbone_into_the_encoding(name):
    net, full = shared(name, "head"), made(name)
    assert net.encode_once
    assert net.num_parameters < full.num_parameters
    assert set(parameters_of(net.trained)) < set(parameters_of(full.trained))
    assert not any(parameter.requires_grad for parameter in net.encode.parameters())
    frozen = sum(parameter.numel() for parameter in net.encode.parameters())
    assert frozen + net.num_parameters == full.num_parameters
    net.whole().train()
    torch.testing.assert_close(net.encode(pictures()), net.encode(pictures()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["squeezenet", "small_cnn"])
def test_a_cut_network_computes_what_the_uncut_one_does(name):
    cut, uncut = made(name, train="head"), made(name)
    ours, theirs = cut.whole().eval()(pictures()), uncut.whole().eval()(pictures())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["linear", "features"])
def test_a_network_that_is_a_head_is_the_same_either_way(name):
    assert parameters_of(made(name, train="head").trained) == parameters_of(made(name).trained)


def test_only_features_and_frozen_backbones_are_encoded_once():
    assert [name for name in NETWORKS if shared(name).encode_once] == ["features"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_smallest_picture_passes_and_a_smaller_one_is_refused(name, channels):
    smallest = NETWORKS[name].smallest_picture
    net = made(name, image_size=smallest, channels=channels)
    assert net.whole()(pictures(2, channels, smallest)).shape == (2, 3)
    with pytest.raises(ModelError, match=f"at least {smallest} pixels"):
        made(name, image_size=smallest - 1)


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(ModelError, match="nearest known one is 'squeezenet'"):
        made("sqeeze_net")


def test_one_class_and_an_unknown_part_are_refused():
    with pytest.raises(ModelError, match="at least 2, got 1"):
        made("linear", num_classes=1)
    with pytest.raises(ModelError, match="'all' or 'head', got 'tail'"):
        made("linear", train="tail")


def test_weights_for_other_classes_give_a_backbone_and_a_fresh_head(tmp_path):
    source = made("small_cnn", num_classes=5, init_generator=generator(1))
    path = tmp_path / "weights.safetensors"
    save_file(source.trained.state_dict(), path)
    net = made("small_cnn", train="head", weights=path)
    assert net.weights is not None
    assert net.weights.reinitialised == ("classifier.0.weight", "classifier.0.bias")
    assert list(parameters_of(net.trained)) == list(net.weights.reinitialised)
    loaded = dict(net.encode.named_parameters())
    source_of = source.trained.state_dict()
    assert all(torch.equal(value, source_of[key.removeprefix("1.inner.")]) for key, value in loaded.items())
    assert made("small_cnn").weights is None
