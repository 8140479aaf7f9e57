"""Max-pooling by the channels-last kernel: the values, places and gradients of torch's own in every bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

from wardround.per_patient.layers import pooling
from wardround.per_patient.recorder import Recorder
from wardround.per_patient.rules import FASTER, RULES
from wardround.per_patient.tape import Tape


def recording(count):
    tape = Tape(torch.arange(count), count, lambda values: values, single=True, materialise=False)
    return Recorder({}, count, tape, RULES, FASTER)


WINDOWS = {
    "two by two": nn.MaxPool2d(2),
    "overlapping": nn.MaxPool2d(3, stride=2, padding=1),
    "stride 1": nn.MaxPool2d((3, 2), stride=1, padding=(1, 0)),
    "dilated": nn.MaxPool2d(2, dilation=(2, 3)),
    "last ones cut": nn.MaxPool2d((3, 4), ceil_mode=True),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_pooling_has_torchs_bits(monkeypatch, name, at_once):
    """Equal numbers in a window (after a ReLU most are), infinities and NaN choose the place that torch chooses."""
    monkeypatch.setattr(pooling, "_FEW_NUMBERS", 1)
    monkeypatch.setattr(pooling, "_BYTES_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 20, 15, 16, generator=generator).relu().round(decimals=1)
    x[1, 3, 4, 5], x[2, :, 2:9], x[3, 7] = float("nan"), float("inf"), -float("inf")
    x.requires_grad_()
    layer = WINDOWS[name]
    with recording(5):
        found = layer(x)
    expected = layer(x)
    assert type(found.grad_fn).__name__ != type(expected.grad_fn).__name__  # else nothing is tested
    g = torch.randn(expected.shape, generator=generator)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    gradients = (torch.autograd.grad(each, x, g, create_graph=True)[0] for each in (found, expected))
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_second_derivative_goes_through_pooling(monkeypatch):
    monkeypatch.setattr(pooling, "_FEW_NUMBERS", 1)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def second(pool):
        (first,) = torch.autograd.grad(pool(x, 2).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    assert torch.equal(second(pooling.max_pool2d), second(F.max_pool2d))


def test_other_pooling_is_left_to_torch(monkeypatch):
    """Few channels or numbers, other formats, `torch.func` and forward-mode derivatives."""
    x = torch.randn(4, 8, 64, 64)
    assert pooling.max_pool2d(x, 2) is not NotImplemented
    monkeypatch.setattr(pooling, "_FEW_NUMBERS", 1)
    for other in (x[:, :3], x.to(memory_format=torch.channels_last), x[0], x[..., ::2]):
        assert pooling.max_pool2d(other, 2) is NotImplemented
    monkeypatch.undo()
    assert pooling.max_pool2d(x[:2], 2) is NotImplemented
    assert pooling.max_pool2d(x, 2, return_indices=True) is NotImplemented
    found = []

    def pooled(each):
        found.append(pooling.max_pool2d(each[None], 2))
        return each

    torch.func.vmap(pooled)(x)
    with forward_ad.dual_level():
        found.append(pooling.max_pool2d(x, 2))
    assert all(each is NotImplemented for each in found)
