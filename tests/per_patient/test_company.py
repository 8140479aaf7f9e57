"""Networks that mix patients in some batches only: `clipped_sum` refuses them, or is right on them."""

import pytest
import torch
from tests.cases import family
from torch import nn

from wardround.errors import ModelError
from wardround.per_patient import Independence, PatientBatch, clipped_sum, per_patient_gradients
from wardround.per_patient.guards import company
from wardround.training.losses import cross_entropy

pytestmark = pytest.mark.filterwarnings(
    "ignore::wardround.per_patient.SlowPath", "ignore:There is a performance drop"
)

PATIENTS, CLIP = 60, 0.1


class Net(nn.Module):
    """A linear layer, and an operation before it."""

    def __init__(self, before):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self._before = nn.Linear(20, 3), before

    def forward(self, x):
        return self.inner(self._before(x))


class Leaks(torch.autograd.Function):
    """Identity whose backward pass mixes the pictures of large batches."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, g):
        return g + 9.0 * g[:1] if len(g) > 8 else g


class Backward(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.last = nn.Linear(20, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(Leaks.apply(self.inner(x)))


def when_large(mix):
    return lambda: Net(lambda x: mix(x) if len(x) > 8 else x)


MIXING = {
    "mean": when_large(lambda x: x - x.mean(0)),
    "maximum": lambda: Net(lambda x: x * (10.0 / x.abs().amax().clamp(min=10.0)) ** 2),
    "sort": when_large(lambda x: x.sort(0).values),
    "minimum": when_large(lambda x: x * (x.amin() > -39)),
    "cumulative": when_large(lambda x: x.cumsum(0) / 4),
    "neighbour": when_large(lambda x: x + 10.0 * torch.cat([x[-1:], x[:-1]])),
    "first picture in all others": when_large(lambda x: torch.cat([x[:1], x[1:] + x[:1]])),
    "a little in each": when_large(lambda x: x * (1.0 + 2e-4 * x.amax() * torch.arange(20))),
    "backward pass": Backward,
}
KEPT = ["mean", "maximum", "sort", "cumulative", "a little in each", "backward pass"]


def cohort(size=PATIENTS):
    """Pictures of which the first patient's is the largest, first and last in every order."""
    pictures = 1.0 + torch.randn(PATIENTS, 20, generator=torch.Generator().manual_seed(1))
    pictures[0], pictures[0, 1] = 40.0, -40.0
    kept = slice(PATIENTS - size, None)
    return PatientBatch(pictures[kept], torch.zeros(size, dtype=torch.int64), torch.arange(size), size)


@pytest.mark.parametrize("independence", Independence)
@pytest.mark.parametrize("name", family(MIXING, keep=KEPT))
def test_the_first_patient_moves_the_sum_by_the_clip(name, independence):
    """The theorem, on networks that mix: maximum, sort and cumulative sums moved it by many clips."""
    moved = [
        clipped_sum(
            MIXING[name](), cross_entropy, cohort(size), clipping_norm=CLIP, independence=independence
        ).vector
        for size in (PATIENTS, PATIENTS - 1)
    ]
    assert (moved[0] - moved[1]).norm() <= CLIP * (1 + 1e-5)


@pytest.mark.parametrize("name", family(MIXING, keep=["sort", "a little in each"]))
def test_these_networks_would_move_the_sum_by_more(name):
    """Power of the test above: the common batch by itself, without the check."""
    model, sums = MIXING[name](), []
    for size in (PATIENTS, PATIENTS - 1):
        gradients = per_patient_gradients(model, cross_entropy, cohort(size)).double()
        sums.append((gradients * (CLIP / gradients.norm(dim=1)).clamp(max=1)[:, None]).sum(0))
    assert (sums[0] - sums[1]).norm() > 1.05 * CLIP


@pytest.mark.parametrize("name", family(MIXING, keep=KEPT))
def test_a_network_that_mixes_in_a_later_batch_is_refused(name):
    """The first batch is small and of small values, and there these networks keep patients apart."""
    model, mild = MIXING[name](), cohort(6)
    clipped_sum(model, cross_entropy, mild, clipping_norm=CLIP)
    with pytest.raises(ModelError) as refused:
        clipped_sum(model, cross_entropy, cohort(), clipping_norm=CLIP)
    assert refused.value.code == "model-mixes"
    found = clipped_sum(model, cross_entropy, cohort(), clipping_norm=CLIP, independence="by-construction").vector
    each = [cohort().singles()[i] for i in range(PATIENTS)]
    alone = sum(clipped_sum(model, cross_entropy, one, clipping_norm=CLIP).vector for one in each)
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


class Later(nn.Module):
    """Mixes from its hundredth batch on, whatever its size and values are."""

    def __init__(self):
        super().__init__()
        self.inner, self.batches = nn.Linear(20, 3), 0

    def forward(self, x):
        self.batches += len(x) == 30
        return self.inner(x - x.mean(0) if len(x) == 30 and self.batches > 100 else x)


def test_random_batches_are_checked_again():
    """Of equal batches about one in a hundred is checked for ever: 1,900 that mix go unseen in one run of a million."""
    model, batch = Later(), cohort(30)

    def train():
        for _ in range(2000):
            clipped_sum(model, cross_entropy, batch, clipping_norm=CLIP)

    with pytest.raises(ModelError) as refused:
        train()
    assert refused.value.code == "model-mixes"


def test_few_batches_are_checked_again():
    """Of equal batches the first, and the k-th with probability 1 / (k + 31), at least 1 / 128: 10 of 1,000."""
    counts = []
    for _ in range(20):
        seen = company.Seen()
        seen.note(torch.zeros(4, 2))
        counts.append(1 + sum(seen.is_due(torch.zeros(4, 2)) for _ in range(999)))
    expected = 1 + sum(max(1 / (k + 31), 1 / 128) for k in range(1, 1000))
    assert abs(sum(counts) / 20 - expected) < 5 * (expected / 20) ** 0.5


def test_larger_batches_and_wider_values_are_checked(monkeypatch):
    monkeypatch.setattr("secrets.randbelow", lambda below: 1)  # no batch by chance
    seen = company.Seen()

    def checks(inputs):
        is_due = seen.is_due(inputs)
        assert seen.is_due(inputs) is is_due, "it stays due until it is checked"
        if is_due:
            seen.note(inputs)
        return is_due

    assert checks(torch.ones(4, 2))
    assert not checks(torch.full((4, 2), -2.0))
    assert checks(torch.ones(5, 2))
    assert not checks(torch.ones(5, 2))
    assert checks(torch.full((4, 2), -2.1))
    assert checks(torch.full((4, 2), float("nan")))
    assert not checks(torch.full((4, 2), float("inf")))
    assert not checks(torch.zeros(5, 2, dtype=torch.int64))
    assert seen.checked == 4


def test_an_honest_network_passes_with_half_precision_autocast_and_diverged_weights():
    last = nn.Linear(64, 3)
    model = nn.Sequential(nn.Linear(20, 64), nn.GELU(), last)
    with torch.no_grad():
        last.weight.mul_(1e4)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", enabled=dtype is torch.bfloat16):
            total = clipped_sum(model, cross_entropy, cohort(), clipping_norm=CLIP)
        assert total.vector.norm() <= CLIP * PATIENTS
    assert company._SEEN[model], "it was checked"


def test_no_batch_of_a_known_network_is_called_mixing():
    """Every batch is checked (range, size and chance are switched off), over steps that change the weights."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten()
    )
    model = nn.Sequential(model, nn.Dropout(0.5), nn.Linear(24, 3))
    for step in range(20):
        company._SEEN.pop(model, None)
        total = clipped_sum(model, cross_entropy, cohort(30 + step), clipping_norm=CLIP)
        with torch.no_grad():
            start = 0
            for p in model.parameters():
                p.sub_(3.0 * total.vector[start : start + p.numel()].view_as(p))
                start += p.numel()
    assert all(seen.checked == 1 for seen in company._SEEN[model].values())
