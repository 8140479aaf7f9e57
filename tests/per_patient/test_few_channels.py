"""Each patient's weight gradient of a convolution with few channels in, from copies of all patches of some pictures."""

from typing import Any

import pytest
import torch
from tests.per_patient.convolutions import use_of
from torch import nn

from wardround.per_patient.layers.base import same

PICTURES = 5

COPIED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "1-D": (nn.Conv1d(2, 3, 5, padding=1), (90,)),
    "strided": (nn.Conv2d(1, 16, 8, stride=4, padding=2), (64, 64)),
    "dilated": (nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 3)), (17, 28)),
    "one place": (nn.Conv2d(7, 2, 4), (4, 4)),
}
NOT_COPIED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "groups": (nn.Conv2d(6, 4, 3, groups=2), (8, 8)),
    "large pictures": (nn.Conv2d(1, 2, 3, padding=1), (61, 61)),
    "many channels": (nn.Conv2d(8, 2, 3), (8, 8)),
}


def gradients(layer, space):
    """Returns how many pictures are copied at once, and the weight gradients by the use and by autograd in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PICTURES, layer.in_channels, *space, generator=generator)
    y = layer.double()(x.double())
    g = torch.randn(y.shape, generator=generator)
    expected = [
        torch.autograd.grad(y[i], layer.weight, g[i].double(), retain_graph=True)[0] for i in range(PICTURES)
    ]
    use = use_of(layer.float())
    [found] = use.per_patient(g, (x,), same)
    return use._patches_at_once(g.shape[2:]), found, torch.stack(expected)


@pytest.mark.parametrize("name", COPIED | NOT_COPIED)
@pytest.mark.parametrize("numbers", [1, 1 << 15, 1 << 18], ids=["one by one", "two at a time", "together"])
def test_each_gradient_is_that_of_autograd(name, numbers, monkeypatch):
    """So it is where pictures come one by one, in groups with a rest, and all together."""
    monkeypatch.setattr("wardround.per_patient.layers.convolution._PATCHES_AT_ONCE", numbers)
    at_once, found, expected = gradients(*(COPIED | NOT_COPIED)[name])
    assert (at_once > 0) == (name in COPIED)
    assert found.shape == expected.shape
    # Up to 3,721 products of numbers about 1 are added up in single precision.
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_a_picture_not_finite_leaves_the_others_as_they_are():
    """One patient who joins moves no bit of another's gradient."""
    layer, space = COPIED["strided"]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 1, *space, generator=generator)
    use = use_of(layer.float())
    g = torch.randn(use.run(x)[0].shape, generator=generator)
    [known] = use.per_patient(g, (x,), same)
    x[7] = torch.nan
    [found] = use.per_patient(g, (x,), same)
    others = [place for place in range(40) if place != 7]
    assert torch.equal(found[others], known[others])
    assert found[7].isnan().any()
