import numpy as np
import pytest
import torch
from tests.models.shapes import parameters_of
from torch import nn

from wardround.errors import ModelError
from wardround.models.vectors import load_vector, to_vector


def module():
    return nn.Sequential(nn.Conv2d(2, 3, (4, 5)), nn.Flatten(), nn.Linear(6, 7))


def test_a_vector_goes_in_and_comes_out_again():
    target = module()
    vector = np.arange(target_size(target), dtype=np.float32)
    load_vector(target, vector)
    np.testing.assert_array_equal(to_vector(target), vector)
    assert target[0].weight[0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert target[2].bias[-1] == vector[-1]


def target_size(target):
    return sum(parameter.numel() for parameter in target.parameters())


def test_names_and_shapes_come_in_the_order_of_the_vector():
    shapes = parameters_of(module())
    assert list(shapes.items()) == [
        ("0.weight", (3, 2, 4, 5)),
        ("0.bias", (3,)),
        ("2.weight", (7, 6)),
        ("2.bias", (7,)),
    ]


def test_frozen_parameters_stay_out():
    target = module()
    target[0].requires_grad_(False)
    before = target[0].weight.clone()
    assert list(parameters_of(target)) == ["2.weight", "2.bias"]
    load_vector(target, np.zeros(49, dtype=np.float32))
    assert not target[2].weight.any()
    assert torch.equal(target[0].weight, before)


def test_the_vector_is_a_copy():
    target = module()
    vector = to_vector(target)
    vector[:] = np.nan
    assert torch.isfinite(target[0].weight).all()
    load_vector(target, vector := np.zeros_like(vector))
    vector[:] = np.nan
    assert torch.isfinite(target[0].weight).all()


def test_parameters_keep_their_identity():
    target = module()
    before = [id(parameter) for parameter in target.parameters()]
    load_vector(target, to_vector(target) + 1)
    assert [id(parameter) for parameter in target.parameters()] == before


@pytest.mark.parametrize("shape", [(0,), (171,), (173,), (172, 1)])
def test_a_vector_of_another_shape_changes_nothing(shape):
    target = module()
    before = to_vector(target)
    with pytest.raises(ModelError, match=r"shape \(172,\)"):
        load_vector(target, np.zeros(shape, dtype=np.float32))
    np.testing.assert_array_equal(to_vector(target), before)


def test_a_module_without_trained_parameters_is_an_empty_vector():
    assert to_vector(nn.ReLU()).shape == (0,)
    load_vector(nn.ReLU(), np.zeros(0, dtype=np.float32))


def test_a_row_that_may_not_be_written_is_accepted():
    target = module()
    vector = to_vector(target) + 1
    vector.setflags(write=False)
    load_vector(target, vector)
    np.testing.assert_array_equal(to_vector(target), vector)
