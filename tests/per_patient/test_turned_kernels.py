"""The gradient of a convolution's input, where few channels come out: a convolution with the kernel turned around."""

from typing import Any

import pytest
import torch
from tests.per_patient.convolutions import use_of
from torch import nn

from wardround.per_patient.layers.products import is_onednns

TURNED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "1-D": (nn.Conv1d(3, 2, 3, padding=1), (9,)),
    "even kernel": (nn.Conv2d(3, 2, (4, 2), padding=(1, 0)), (6, 5)),
    "dilated": (nn.Conv2d(3, 15, (3, 2), padding=(2, 1), dilation=(2, 3)), (7, 8)),
    "no padding": (nn.Conv2d(5, 4, 3), (6, 7)),
    "3-D": (nn.Conv3d(3, 2, (1, 2, 3), padding=(0, 1, 2)), (4, 5, 6)),
}
NOT_TURNED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "1x1": (nn.Conv2d(6, 2, 1), (4, 5)),
    "strided": (nn.Conv2d(3, 2, 3, stride=(1, 2), padding=1), (6, 7)),
    "many channels": (nn.Conv2d(3, 16, 3, padding=1), (6, 7)),
    "groups": (nn.Conv2d(4, 2, 3, groups=2), (6, 7)),
    "padded beyond the kernel": (nn.Conv2d(3, 2, 2, padding=2), (6, 7)),
}


def gradients(layer, space):
    """Returns the gradient of the input by the use, and by autograd in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, layer.in_channels, *space, generator=generator)
    wide = x.double().requires_grad_()
    y = layer.double()(wide)
    g = torch.randn(y.shape, generator=generator)
    (expected,) = torch.autograd.grad(y, wide, g.double())
    use = use_of(layer.float())
    (found,) = use.input_gradients(g, x)
    return use._turns(g), found, expected


@pytest.mark.parametrize("name", TURNED | NOT_TURNED)
def test_the_gradient_of_the_input_is_that_of_autograd(name):
    turned, found, expected = gradients(*(TURNED | NOT_TURNED)[name])
    assert turned == (name in TURNED and is_onednns(found))
    assert found.shape == expected.shape
    # At most 135 products of numbers about 1 are added up in single precision.
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_picture_not_finite_leaves_the_others_as_they_are():
    """Input gradients of one picture have nothing of another's, by which one patient would move the others' norms."""
    layer, space = TURNED["dilated"]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, layer.in_channels, *space, generator=generator)
    use = use_of(layer.float())
    g = torch.randn(use.run(x)[0].shape, generator=generator)
    (known,) = use.input_gradients(g, x)
    g[1] = torch.nan
    (found,) = use.input_gradients(g, x)
    assert torch.equal(found[[0, 2]], known[[0, 2]])
    assert found[1].isnan().any()
