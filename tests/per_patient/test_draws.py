"""Draws of a network follow from the patient and the step: whoever joins changes no other patient's draws."""

from dataclasses import replace

import pytest
import torch
from tests.cases import family
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wardround.errors import ModelError, PrivacyError
from wardround.per_patient import Independence, PatientBatch, clipped_sum, per_patient_gradients
from wardround.training.losses import cross_entropy

pytestmark = pytest.mark.filterwarnings(
    "ignore::wardround.per_patient.SlowPath", "ignore:There is a performance drop"
)

CLIP = 0.05
IDS = list("abcdefghij")


class Net(nn.Module):
    """Two linear layers, with something that draws between them; maps are (picture, 4, 3, 3)."""

    def __init__(self, between, layer=None, shape=(4, 3, 3)):
        super().__init__()
        self.first, self.last = nn.Linear(18, 36), nn.Linear(36, 3)
        self.layer = layer
        self._between, self._shape = between, shape

    def forward(self, x):
        maps = self.first(x.flatten(1)).view(-1, *self._shape)
        return self.last(self._between(self, maps).flatten(1))


def layer(build, *shape):
    return lambda: Net(lambda net, x: net.layer(x), build(), shape or (4, 3, 3))


def function(run):
    return lambda: Net(lambda _, x: run(x))


class OwnGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator()

    def forward(self, x):
        return x * (torch.rand(x.shape, generator=self.generator) < 0.5)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.LSTM(9, 9, 2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.inner(x)[0]


def depth_of_all(x):
    return x * (torch.rand(()) < 0.5)


def depth_of_each(x):
    return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5) / 0.5


def attention(x):
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)


def again_when_needed(x):
    return checkpoint(lambda x: F.dropout(x, 0.5).sin(), x, use_reentrant=False)


DRAWING = {
    "Dropout": layer(lambda: nn.Dropout(0.5)),
    "Dropout in place": layer(lambda: nn.Dropout(0.5, inplace=True)),
    "Dropout1d": layer(lambda: nn.Dropout1d(0.5), 4, 9),
    "Dropout2d": layer(lambda: nn.Dropout2d(0.5)),
    "Dropout3d": layer(lambda: nn.Dropout3d(0.5), 4, 3, 3, 1),
    "AlphaDropout": layer(lambda: nn.AlphaDropout(0.5)),
    "FeatureAlphaDropout": layer(lambda: nn.FeatureAlphaDropout(0.5)),
    "RReLU": layer(nn.RReLU),
    "LSTM": layer(Recurrent, 4, 9),
    "Transformer": layer(lambda: nn.TransformerEncoderLayer(9, 3, 8, 0.5, batch_first=True), 4, 9),
    "attention": function(attention),
    "stochastic depth": function(depth_of_each),
    "one depth for all": function(depth_of_all),
    "rand_like": function(lambda x: x * (torch.rand_like(x) < 0.5)),
    "noise, one for all": function(lambda x: x + torch.randn(4, 3, 3)),
    "bernoulli": function(lambda x: x * torch.bernoulli(torch.full_like(x, 0.5))),
    "normal": function(lambda x: x + torch.normal(torch.zeros_like(x), 1.0)),
    "gumbel softmax": function(lambda x: x * F.gumbel_softmax(x, dim=-1)),
    "multinomial": function(lambda x: x * torch.multinomial(x.detach().flatten(1).exp(), 1).view(-1, 1, 1, 1)),
    "randperm": function(lambda x: x[:, torch.randperm(4)]),
    "batch on the second axis": function(lambda x: F.dropout(x.transpose(0, 1), 0.5).transpose(0, 1)),
    "batch flattened": function(lambda x: F.dropout(x.flatten(0, 1), 0.5).view_as(x)),
    "own generator": layer(OwnGenerator),
    "distribution": function(lambda x: x * torch.distributions.Normal(torch.ones_like(x), 1.0).rsample()),
    "checkpoint": function(again_when_needed),
}
KEPT = [
    "Dropout", "FeatureAlphaDropout", "LSTM", "stochastic depth", "one depth for all", "noise, one for all",
    "batch on the second axis", "own generator", "checkpoint",
]  # fmt: skip


def network(name):
    torch.manual_seed(1)
    return DRAWING[name]().double()


def ten_patients():
    pictures = torch.randn(12, 2, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    patient = torch.tensor([0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9])
    return PatientBatch(pictures, torch.arange(12) % 3, patient, 10, IDS)


def without_the_first(batch):
    kept = batch.patient > 0
    return PatientBatch(
        batch.inputs[kept], batch.labels[kept], batch.patient[kept] - 1, batch.num_patients - 1, batch.keys[1:]
    )


@pytest.mark.parametrize("independence", Independence)
@pytest.mark.parametrize("name", family(DRAWING, keep=KEPT))
def test_one_patient_moves_the_sum_by_the_clip_whatever_is_drawn(name, independence):
    """The theorem for any fixed draws: by joint convexity it holds for the mixture over them."""
    model, batch = network(name), ten_patients()
    rest = without_the_first(batch)
    for seed in (1, 2):
        total, other = (
            clipped_sum(
                model, cross_entropy, b, clipping_norm=CLIP, dropout_seed=seed, independence=independence
            ).vector
            for b in (batch, rest)
        )
        assert (total - other).norm() <= CLIP
    again = clipped_sum(model, cross_entropy, rest, clipping_norm=CLIP, dropout_seed=2, independence=independence)
    assert torch.equal(again.vector, other)


@pytest.mark.parametrize("name", family(DRAWING, keep=KEPT))
def test_draws_differ_between_calls_and_leave_the_generator_alone(name):
    model, batch = network(name), replace(ten_patients(), keys=None)
    before = torch.get_rng_state()
    sums = torch.stack([clipped_sum(model, cross_entropy, batch, clipping_norm=CLIP).vector for _ in range(3)])
    assert len(sums.unique(dim=0)) == 3
    assert torch.equal(before, torch.get_rng_state())


def test_a_thousand_patients_and_one_who_leaves():
    """Masks from one generator shift when the first patient leaves: by that the sum moved by 29.5 clips here."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))
    pictures, labels = torch.randn(1000, 64), torch.randint(0, 2, (1000,))
    batch = PatientBatch(pictures, labels, torch.arange(1000), 1000, range(1000))
    total, other = (
        clipped_sum(model, cross_entropy, b, clipping_norm=0.1, dropout_seed=0).vector
        for b in (batch, without_the_first(batch))
    )
    assert (total - other).norm() <= 0.1 * (1 + 1e-5)


def test_masks_of_keyed_patients_are_fair_and_independent():
    """Counts of kept units: each of 64 patients has 200 fair and different ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(200, 2))
    ones, patients = torch.ones(64, 200), torch.arange(64)
    batch = PatientBatch(ones, torch.zeros(64, dtype=torch.int64), patients, 64, patients.tolist())
    kept = per_patient_gradients(model, cross_entropy, batch, dropout_seed=5)[:, :200] != 0
    assert len(kept.unique(dim=0)) == 64
    assert abs(kept.double().mean() - 0.5) < 5 * 0.5 / (64 * 200) ** 0.5
    agreements = [(kept[i] == kept[j]).double().mean() for i in range(64) for j in range(i)]
    assert abs(torch.stack(agreements) - 0.5).max() < 5 * 0.5 / 200**0.5


def test_pictures_of_a_patient_draw_apart():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(200, 2))
    patient = torch.zeros(1, dtype=torch.int64)
    one, two = (
        per_patient_gradients(
            model, cross_entropy,
            PatientBatch(torch.ones(n, 200), patient.expand(n), patient.expand(n), 1, "a"), dropout_seed=1,
        )[0, :200]
        for n in (1, 2)
    )  # fmt: skip
    assert 0.6 < (two != 0).double().mean() < 0.9
    assert bool((two[one != 0] != 0).all()), "the first picture keeps its mask"


def test_a_seed_needs_a_key_of_each_patient():
    model, batch = network("Dropout"), ten_patients()
    for keys in (None, IDS[1:]):
        with pytest.raises(PrivacyError) as refused:
            clipped_sum(model, cross_entropy, replace(batch, keys=keys), clipping_norm=CLIP, dropout_seed=1)
        assert refused.value.code == "privacy-keys"


class Elsewhere(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.inner, self._draw = nn.Linear(18, 3), draw

    def forward(self, x):
        return self.inner(x.flatten(1)) * self._draw()


def numpy_draw():
    import numpy as np

    return float(np.random.random())


def python_draw():
    import random

    return random.random()


def own_draw():
    import secrets

    return 10.0 ** (secrets.randbelow(1 << 30) / (1 << 24) - 32)  # two are closer than 1e-3 once in 36,000 times


@pytest.mark.parametrize(
    ("draw", "code"), [(numpy_draw, "model-draws"), (python_draw, "model-draws"), (own_draw, "model-state")]
)
def test_draws_outside_torch_are_refused(draw, code):
    torch.manual_seed(3)
    with pytest.raises(ModelError) as refused:
        clipped_sum(Elsewhere(draw).double(), cross_entropy, ten_patients(), clipping_norm=CLIP)
    assert refused.value.code == code


def test_a_draw_is_seen_where_the_loss_is_saturated():
    """A gradient of zero says nothing of the draw that it was computed with; the network's output does."""
    model = Elsewhere(own_draw).double()
    with torch.no_grad():
        model.inner.weight.zero_()
        model.inner.bias.copy_(torch.tensor([1e38, 0.0, 0.0]))  # the first label is 0
    with pytest.raises(ModelError) as refused:
        clipped_sum(model, cross_entropy, ten_patients(), clipping_norm=CLIP)
    assert refused.value.code == "model-state"
