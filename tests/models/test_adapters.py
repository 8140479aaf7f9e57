"""Low-rank adapters: what is trained, and the model that is saved of them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from tests.cases import family
from tests.errors import raises_code
from tests.models.shapes import parameters_of
from torch import nn

from wardround.errors import ModelError
from wardround.models.adapters import RANK
from wardround.models.catalogue import build
from wardround.models.network import NORMS
from wardround.models.vectors import load_vector, named_weights, to_vector, vector_of

SPACES = {"small_cnn": (32, 32), "unet": (32, 32), "unet3d": (16, 16, 16), "vit_tiny": (32, 32)}


def made(name, train="lora"):
    options: dict[str, Any] = {"size": SPACES[name], "channels": 1, "num_classes": 2, "train": train}
    network = build(name, **options, init_generator=torch.Generator().manual_seed(0))
    assert network.parts is not None
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, value in network.parts.body.named_parameters():
            if "lora_" not in key and not value.any():  # a head at zero answers nothing
                value.normal_(0, 0.1, generator=draw)
    return network


def moved(network):
    """The network with its trained parameters off their starting values."""
    vector = to_vector(network.trained)
    drawn = np.random.default_rng(2).normal(0, 0.05, len(vector)).astype(np.float32)
    load_vector(network.trained, vector + drawn)
    return network


def answers(network, *, training):
    shape = (2, 1, *SPACES[network.name])
    pictures = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network.trained.train(training)
    with torch.no_grad():
        return network.whole()(pictures)


NAMES = family(SPACES, keep=["small_cnn"])


@pytest.mark.parametrize("name", NAMES)
def test_the_first_answers_are_those_of_the_base(name):
    base = answers(made(name, "all"), training=False)
    for training in (True, False):
        assert torch.equal(answers(made(name), training=training), base)


@pytest.mark.parametrize("name", NAMES)
def test_adapters_norms_and_the_head_are_trained(name):
    network, norms, whole = made(name), made(name, "norms"), made(name, "all")
    adapters = {key: shape for key, shape in parameters_of(network.trained).items() if "lora_" in key}
    assert parameters_of(network.trained).items() - adapters.items() == parameters_of(norms.trained).items()
    weights = parameters_of(whole.trained)
    for key, (out, rank, *ones) in ((key, shape) for key, shape in adapters.items() if key.endswith("lora_up")):
        base = weights[key.replace("lora_up", "weight")]
        assert (out, rank, *ones) == (base[0], min(RANK, base[0], math.prod(base[1:])), *[1] * len(base[2:]))
        assert adapters[key.replace("up", "down")] == (rank, *base[1:])
    layers = [m for m in whole.parts.body.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv3d)]
    assert len(adapters) == 2 * (len(layers) - 1), "every layer but the head"
    assert not any(
        isinstance(module, NORMS) and hasattr(module, "lora_up") for module in whole.parts.body.modules()
    )
    assert network.num_parameters < whole.num_parameters


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_the_merged_model(name):
    network = moved(made(name))
    named = named_weights(network, to_vector(network.trained))
    plain = made(name, "all")
    plain.parts.body.load_state_dict({key: torch.from_numpy(value) for key, value in named.items()})
    merged = answers(network, training=False)
    assert torch.equal(answers(plain, training=False), merged)
    trained = answers(network, training=True)
    torch.testing.assert_close(trained, merged, rtol=1e-4, atol=1e-4)
    assert (merged - answers(made(name), training=False)).abs().max() > 0.01, "the adapters make a difference"


def test_a_saved_model_gives_adapters_that_answer_as_it_does():
    """A hospital that takes the finished model has figures of it, by the network of the study."""
    network = made("small_cnn")
    first, vector = to_vector(network.trained), to_vector(moved(made("small_cnn")).trained)
    found = vector_of(network, save(named_weights(network, vector)))
    np.testing.assert_array_equal(to_vector(network.trained), first, "left as it was")
    for key, value in named_weights(network, vector).items():
        np.testing.assert_allclose(named_weights(network, found)[key], value, rtol=0, atol=1e-6)


def test_a_network_without_layers_before_its_head_is_refused():
    with raises_code(ModelError, "model-no-adapter"):
        build(
            "linear", size=(8, 8), channels=1, num_classes=2, train="lora",
            init_generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
