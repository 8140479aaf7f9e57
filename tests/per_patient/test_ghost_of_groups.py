"""Ghost norms of grouped convolutions: each group is a picture of its own, and the squares of a picture's add up."""

import math

import pytest
import torch
from tests.per_patient.clipped import clipped_by_hand
from tests.per_patient.oracle import cross_entropy, patient_gradients
from torch import nn

from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import clipped_sum
from wardround.per_patient.clipping_rules import Flat
from wardround.per_patient.layers.base import same, squared
from wardround.per_patient.layers.convolution import Convolution

# groups, stride, padding, dilation, kernel, picture
SHAPES = {
    "one group": (1, (1, 1), (1, 1), (1, 1), (3, 3), (4, 5)),
    "two groups": (2, (1, 1), (1, 1), (1, 1), (3, 3), (4, 5)),
    "three groups, strided": (3, (2, 1), (0, 2), (1, 1), (2, 3), (5, 4)),
    "two groups, dilated": (2, (1, 2), (2, 0), (2, 1), (3, 2), (6, 5)),
    "depthwise": (6, (1, 1), (0, 0), (1, 1), (3, 3), (3, 3)),
    "two groups, in one dimension": (2, (2,), (1,), (1,), (4,), (9,)),
    "two groups, in three dimensions": (2, (1, 1, 1), (1, 0, 1), (1, 1, 1), (2, 3, 2), (3, 4, 2)),
}


def use_of(name):
    """A use with the weight's gradient wanted, an output gradient of five pictures and their inputs."""
    groups, stride, padding, dilation, kernel, space = SHAPES[name]
    generator = torch.Generator().manual_seed(len(name))

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, x = drawn(12, 6 // groups, *kernel), drawn(5, 6, *space)
    use = Convolution(
        ("w",), weight, None, (True, False), stride, padding, dilation, False, (0,) * len(space), groups
    )
    return use, drawn(*use.run(x)[0].shape), x


@pytest.mark.parametrize("name", SHAPES)
def test_the_ghost_norm_is_that_of_the_formed_gradient(name, monkeypatch):
    monkeypatch.setattr(Convolution, "_has_cheap_gram", lambda *_: True)
    use, g, x = use_of(name)
    norms, terms = use.squared_norms(g, (x,), None)
    (formed,) = use.per_patient(g, (x,), same)
    assert norms.shape == terms.shape == (5,)
    torch.testing.assert_close(norms, squared(formed), rtol=1e-12, atol=0.0)
    assert (terms >= norms * (1 - 1e-12)).all(), "no norm is larger than that of its terms"


def test_terms_are_those_of_each_group(monkeypatch):
    """A group whose output gradient is zero adds nothing, however large its pixels are."""
    monkeypatch.setattr(Convolution, "_has_cheap_gram", lambda *_: True)
    use, g, x = use_of("two groups")
    g[:, 6:] = 0
    _, terms = use.squared_norms(g, (x,), None)
    x[:, 3:] *= 1e6
    torch.testing.assert_close(use.squared_norms(g, (x,), None)[1], terms, rtol=1e-12, atol=1e-12)


def test_a_grouped_convolution_of_few_pixels_takes_its_ghost_norm():
    """As wide as those of AlexNet, and the clipped sum is that of one-patient backward passes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(64, 192, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(192 * 9, 3)
    )
    wide = nn.Sequential(nn.Conv2d(1, 64, 1), model).double()
    batch = PatientBatch(
        torch.randn(4, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1]), torch.arange(4), 4
    )
    weight = next(model.parameters()).detach()
    use = Convolution(("w",), weight, None, (True, False), (1, 1), (1, 1), (1, 1), False, (0, 0), 2)
    assert not use.prefers_norms(torch.zeros(4, 192, 3, 3), (), single=True), "small weights are formed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wardround.per_patient.layers.convolution.SMALL_WEIGHT", 1000)
        assert use.prefers_norms(torch.zeros(4, 192, 3, 3), (), single=True)
        ours = clipped_sum(wide, cross_entropy, batch, clipping_norm=0.1).vector
    by_hand = clipped_by_hand(wide, patient_gradients(wide, cross_entropy, batch), Flat(), 0.1).sum(0)
    error = (ours - by_hand).norm() / by_hand.norm()
    assert math.isfinite(error)
    assert error < 1e-9
