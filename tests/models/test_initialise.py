import math

import pytest
import torch
from torch import nn

from wardround.errors import ModelError
from wardround.models.initialise import initialised


def body():
    return nn.Sequential(nn.Conv2d(4, 300, 5), nn.GroupNorm(3, 300), nn.Linear(300, 200))


def drawn(seed, zero=frozenset()):
    return initialised(body, torch.Generator().manual_seed(seed), zero=zero)


def test_weights_have_the_deviation_of_he_and_biases_are_zero():
    network = drawn(0)
    for layer, fan_in in ((network[0], 4 * 5 * 5), (network[2], 300)):
        # 30,000 and 60,000 draws: the relative standard error of the deviation is below 0.5 %.
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
        assert not layer.bias.any()
    assert (network[1].weight == 1).all()
    assert not network[1].bias.any()


def test_the_same_seed_gives_the_same_parameters_and_another_does_not():
    first, again, other = drawn(5), drawn(5), drawn(6)
    assert torch.equal(first[2].weight, again[2].weight)
    assert not torch.equal(first[2].weight, other[2].weight)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    drawn(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_named_parameters_start_at_zero():
    assert not drawn(0, zero=frozenset({"2.weight"}))[2].weight.any()


def test_a_layer_without_a_rule_is_refused():
    with pytest.raises(ModelError, match="BatchNorm2d"):
        initialised(lambda: nn.Sequential(nn.BatchNorm2d(3)), torch.Generator(), zero=frozenset())


def test_a_transposed_convolution_is_drawn_for_the_inputs_that_reach_one_output():
    made = initialised(
        lambda: nn.Sequential(nn.ConvTranspose3d(64, 100, 2, stride=2), nn.ConvTranspose2d(60, 90, 3, groups=3)),
        torch.Generator().manual_seed(0),
        zero=frozenset(),
    )
    for layer, fan_in in ((made[0], 64), (made[1], 20 * 3 * 3)):
        # 51,200 and 16,200 draws: the relative standard error of the deviation is below 0.6 %.
        weight = layer.get_parameter("weight")
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.025)
        assert not layer.get_parameter("bias").any()


def test_norms_with_and_without_weights_start_as_the_identity():
    made = initialised(
        lambda: nn.Sequential(
            nn.InstanceNorm3d(4, affine=True),
            nn.InstanceNorm2d(4),
            nn.LayerNorm(5),
            nn.GroupNorm(2, 4, affine=False),
        ),
        torch.Generator(),
        zero=frozenset(),
    )
    assert {name: set(p.tolist()) for name, p in made.named_parameters()} == {
        "0.weight": {1.0}, "0.bias": {0.0}, "2.weight": {1.0}, "2.bias": {0.0},
    }  # fmt: skip


def test_linear_layers_take_the_deviation_that_a_network_asks_for():
    made = initialised(
        lambda: nn.Sequential(nn.Linear(200, 300)), torch.Generator(), zero=frozenset(), linear_deviation=0.02
    )
    assert made.get_parameter("0.weight").std().item() == pytest.approx(0.02, rel=0.02)


def test_a_buffer_which_would_be_left_without_values_is_refused():
    def with_a_buffer():
        made = nn.Sequential(nn.Linear(2, 2))
        made.register_buffer("mask", torch.ones(2))
        return made

    with pytest.raises(ModelError, match="'mask'"):
        initialised(with_a_buffer, torch.Generator(), zero=frozenset())
