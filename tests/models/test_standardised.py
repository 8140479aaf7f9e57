import math

import pytest
import torch
from tests.errors import raises_code
from torch.nn import functional as F

from wardround.errors import ModelError
from wardround.models.catalogue import build
from wardround.per_patient.layers.standardised import standardised, standardised_convolution


def test_each_output_channel_has_mean_zero_and_a_fixed_norm():
    weight = 3.0 + torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    channels = standardised(weight).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(5), rtol=0, atol=1e-6)
    torch.testing.assert_close(channels.norm(dim=1), torch.full((5,), math.sqrt(2.0)))


def test_scale_and_offset_of_the_trained_weights_change_nothing():
    weight = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(standardised(4.0 * weight + 1.0), standardised(weight), rtol=1e-5, atol=1e-6)


def test_equal_weights_become_zero():
    assert not standardised(torch.full((2, 3, 3), 7.0)).any()


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_convolution_is_that_of_the_standardised_weights(dimensions):
    x, weight = torch.randn(2, 4, *(6,) * dimensions), torch.randn(6, 2, *(3,) * dimensions)
    plain = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
    ours = standardised_convolution(x, weight, torch.ones(6), 2, 1, 1, 2)
    torch.testing.assert_close(ours, plain(x, standardised(weight), torch.ones(6), 2, 1, 1, 2))


def test_a_network_without_convolutions_is_refused():
    with raises_code(ModelError, "model-no-convolution"):
        build(
            "linear", size=(32, 32), channels=1, num_classes=2, standardise_weights=True,
            init_generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
