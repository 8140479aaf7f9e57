import pytest
import torch
from torch import nn

from wardround.models.network import Form
from wardround.models.networks.small_cnn import small_cnn


def test_it_is_small():
    assert sum(parameter.numel() for parameter in small_cnn(Form((64, 64), 1, 2)).parameters()) == 19_698


@pytest.mark.parametrize("size", [16, 17, 30, 48, 63, 64, 65, 96, 128])
def test_the_head_fits_pictures_of_every_size(size):
    assert small_cnn(Form((size, size), 3, 4))(torch.zeros(2, 3, size, size)).shape == (2, 4)


def test_no_layer_lets_pictures_meet_or_works_in_place():
    for module in small_cnn(Form((64, 64), 1, 2)).modules():
        assert not isinstance(module, nn.modules.batchnorm._BatchNorm)
        assert not getattr(module, "inplace", False)
