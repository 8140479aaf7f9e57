"""One patient moves the sum by at most the clip, whatever their pictures; what mixes patients is refused."""

import math

import pytest
import torch
from tests.cases import family
from tests.per_patient.case import Custom
from tests.per_patient.oracle import (
    clip_and_sum,
    cross_entropy,
    parameter_sizes,
    quietly,
    relative_error,
    typical_clipping_norm,
)
from torch import nn
from torch.nn import functional as F

from wardround.errors import ModelError
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import clipped_sum, per_patient_gradients
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.per_patient.validation import check_trainable


@pytest.fixture(autouse=True)
def _slow_paths_may_be_announced():
    with quietly():
        yield


def engine(model, loss, batch, clipping_norm):
    return clipped_sum(model, loss, batch, clipping_norm=clipping_norm).vector.double()


# fmt: off
ADVERSARIAL = {
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
    "depthwise and transposed": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.ConvTranspose2d(2, 2, 2, groups=2), nn.Flatten(),
        nn.Linear(50, 3),
    ),
    "linear with tokens": lambda: nn.Sequential(
        nn.Flatten(1, 2), nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
    "group norm": lambda: nn.Sequential(
        nn.GroupNorm(1, 1), nn.Conv2d(1, 3, 3), nn.GroupNorm(3, 3), nn.Flatten(), nn.Linear(12, 3)
    ),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm((1, 4, 4)), nn.Linear(4, 4), nn.Flatten(), nn.Linear(16, 3)),
    "instance norm": lambda: nn.Sequential(nn.InstanceNorm2d(1, affine=True), nn.Flatten(), nn.Linear(16, 3)),
    "bare parameter": lambda: Custom(
        lambda m, x: m.head((x * m.scale + m.offset).flatten(1)), head=nn.Linear(16, 3),
        scale=nn.Parameter(torch.ones(4)), offset=nn.Parameter(torch.zeros(1, 4, 4)),
    ),
    "PReLU": lambda: nn.Sequential(nn.PReLU(), nn.Flatten(), nn.Linear(16, 3)),
    "attention": lambda: nn.Sequential(
        nn.Flatten(1, 2), nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True), nn.Flatten(),
        nn.Linear(16, 3),
    ),
    "used twice": lambda: Custom(
        lambda m, x: m.head(m.c(m.c(x)).flatten(1)), c=nn.Conv2d(1, 1, 3, padding=1), head=nn.Linear(16, 3)
    ),
}
# fmt: on
PICTURES = {
    "1e38": torch.full((1, 4, 4), 1e38),
    "-1e30": torch.full((1, 4, 4), -1e30),
    "1e20": torch.linspace(-1e20, 1e20, 16).view(1, 4, 4),
    "infinity": torch.full((1, 4, 4), math.inf),
    "one infinity": torch.ones(1, 4, 4).index_fill(2, torch.tensor([2]), math.inf),
    "not a number": torch.full((1, 4, 4), math.nan),
    "one that is not a number": torch.ones(1, 4, 4).index_fill(1, torch.tensor([3]), math.nan),
    "all equal": torch.full((1, 4, 4), 3.0),
    "one huge coordinate": torch.zeros(1, 4, 4).index_fill(2, torch.tensor([1]), 1e37),
    "denormal": torch.full((1, 4, 4), 1e-45),
    "zeros": torch.zeros(1, 4, 4),
}


@pytest.mark.parametrize("dtype", family([torch.float32, torch.float64]), ids=["float32", "float64"])
@pytest.mark.parametrize(
    "network", family(ADVERSARIAL, keep=["convolution", "linear", "layer norm", "used twice"])
)
def test_removing_an_adversary_moves_the_sum_by_at_most_the_clip(network, dtype):
    torch.manual_seed(0)
    model, wrong = ADVERSARIAL[network]().to(dtype), []
    honest = torch.randn(4, 1, 4, 4, dtype=dtype)
    labels = torch.tensor([0, 1, 2, 0])
    for kind, picture in PICTURES.items():
        for place in ("alone", "beside a healthy picture"):
            # The adversary is patient 1 of 0, 1, 2: in the middle of every sum.
            mine = (
                picture.to(dtype)[None] if place == "alone" else torch.cat([picture.to(dtype)[None], honest[3:]])
            )
            inputs = torch.cat([honest[:2], mine, honest[2:3]])
            targets = torch.cat([labels[:2], labels[-len(mine) :], labels[2:3]])
            patient = torch.tensor([0, 0, *[1] * len(mine), 2])
            with_it = PatientBatch(inputs, targets, patient, 3)
            kept = patient != 1
            without = PatientBatch(inputs[kept], targets[kept], torch.tensor([0, 0, 1]), 2)
            for clipping_norm in (1e-3, 0.5, 1e3):
                a, b = (engine(model, cross_entropy, batch, clipping_norm) for batch in (with_it, without))
                if not torch.isfinite(a).all() or not (a - b).norm() <= clipping_norm:
                    wrong.append(f"{kind}, {place}, C = {clipping_norm}: moved by {float((a - b).norm()):.9g}")
                if "number" in kind and not (a - b).norm() <= 1e-6 * b.norm():
                    wrong.append(f"{kind}, {place}: contributes although its gradient is not finite")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("network", family(ADVERSARIAL))
@pytest.mark.parametrize("patients", family([2, 65, 300], keep=[65]))
def test_many_patients_with_one_and_the_same_gradient(network, patients):
    torch.manual_seed(1)
    model = ADVERSARIAL[network]()
    picture = torch.randn(1, 1, 4, 4)
    sums = []
    for number in (patients, patients - 1):
        batch = PatientBatch(
            picture.repeat(number, 1, 1, 1), torch.ones(number, dtype=torch.int64), torch.arange(number), number
        )
        sums.append(engine(model, cross_entropy, batch, 0.01))
    assert (sums[0] - sums[1]).norm() <= 0.01


def alone(*pictures):
    """A batch of one patient with these pictures."""
    inputs = torch.stack(pictures)
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    return PatientBatch(inputs, labels, torch.zeros(len(inputs), dtype=torch.int64), 1)


def weighted_outputs(outputs, labels):
    del labels
    return outputs.flatten(1).sum(1)


EQUAL = {
    "linear": (lambda: nn.Linear(1000, 1000), (1000,)),
    "linear, tokens": (lambda: nn.Linear(1000, 1000), (3, 1000)),
    "convolution": (lambda: nn.Conv2d(1000, 1000, 1), (1000, 1, 1)),
    "bare parameter": (lambda: Custom(lambda m, x: x * m.w, w=nn.Parameter(torch.ones(10**6))), (10**6,)),
}


@pytest.mark.parametrize("number", family([1, 2], keep=[2]), ids=["one picture", "two pictures"])
@pytest.mark.parametrize("value", family([0.3, 0.7]))
@pytest.mark.parametrize("kind", EQUAL)
def test_a_million_equal_coordinates_do_not_exceed_the_clip(kind, value, number):
    # Their squares added in float32 one after another lose up to a thousandth, and 3 % if there are 50 million.
    layer, shape = EQUAL[kind]
    model, batch = layer(), alone(*[torch.full(shape, value)] * number)
    assert engine(model, weighted_outputs, batch, 0.5).norm() <= 0.5


CANCELLING = {
    "linear, two tokens": (lambda: nn.Linear(64, 64, bias=False), (2, 64)),
    "linear, eight tokens": (lambda: nn.Linear(256, 256), (8, 256)),
    "convolution, four pixels": (lambda: nn.Conv2d(256, 512, 1, bias=False), (256, 2, 2)),
    "convolution, four pixels under a kernel": (
        lambda: nn.Conv2d(64, 256, 3, bias=False),
        (64, 4, 4),
    ),
}


@pytest.mark.parametrize("number", family([1, 2], keep=[2]), ids=["one picture", "two pictures"])
@pytest.mark.parametrize("size", family([1.0, 1e3, 1e5, 1e7, 1e10], keep=[1e7]))
@pytest.mark.parametrize("kind", CANCELLING)
def test_a_gradient_of_large_terms_that_cancel_does_not_exceed_the_clip(kind, size, number):
    # The norm from inner products of tokens is a small difference of large numbers, and may come out as zero.
    torch.manual_seed(0)
    layer, shape = CANCELLING[kind]
    model, moved = layer(), []
    channel = 0 if len(shape) == 3 else len(shape) - 1
    for small in (0.0, 2.0**-23, 2.0**-20, 2.0**-16, 2.0**-12):
        picture = size * torch.rand(shape[channel]).view(*(-1 if i == channel else 1 for i in range(len(shape))))
        picture = picture.expand(shape).contiguous()
        with torch.no_grad():
            output = model(picture[None])
        sign = torch.ones(output.numel() // output.shape[1 + channel])
        sign[::2] = -1 - small
        sign = sign.view(*(1 if i == channel else n for i, n in enumerate(output.shape[1:])))

        def loss(outputs, labels, sign=sign):
            del labels
            return (outputs * sign).flatten(1).sum(1)

        batch = alone(*[picture] * number)
        norm = float(engine(model, loss, batch, 1.0).norm())
        if not norm <= 1.0:
            moved.append(f"off by {small:.1e}: the patient moves the sum by {norm:.3g} times the clip")
    assert not moved, "\n".join(moved)


@pytest.mark.parametrize("patients", family([1_000, 10_000, 40_000], keep=[10_000]))
def test_a_patient_among_thousands_alike(patients):
    # The last digit of a large sum in single precision is more than the margin below the clip.
    model, moved = nn.Linear(30, 30, bias=False), []
    for clipping_norm in (0.01, 0.1, 0.37, 0.5, 0.7, 0.9):
        sums = []
        for number in (patients, patients - 1):
            inputs, nothing = torch.full((number, 30), 0.7), torch.zeros(number, dtype=torch.int64)
            batch = PatientBatch(inputs, nothing, torch.arange(number), number)
            sums.append(engine(model, weighted_outputs, batch, clipping_norm).double())
        norm = float((sums[0] - sums[1]).norm())
        if not norm <= clipping_norm:
            moved.append(f"C = {clipping_norm}: moves the sum by {norm / clipping_norm:.9g} times the clip")
    assert not moved, "\n".join(moved)


def times_labels(outputs, labels):
    """A loss whose gradient is the label: what a patient's record can make of it in a regression."""
    return (outputs * labels).flatten(1).sum(1)


@pytest.mark.parametrize("number", family([1, 2], keep=[2]), ids=["one picture", "two pictures"])
@pytest.mark.parametrize("kind", ["linear", *CANCELLING])
def test_small_pictures_with_large_labels_do_not_exceed_the_clip(kind, number):
    # The squares of the pictures vanish in float32, the gradient does not.
    layer, shape = CANCELLING.get(kind, (lambda: nn.Linear(512, 512), (512,)))
    model, moved = layer(), []
    for small, large in ((2.6e-23, 1e17), (1e-30, 1e18), (1e-38, 1e18), (1e-42, 1e18)):
        picture = torch.full((number, *shape), small)
        with torch.no_grad():
            labels = torch.full_like(model(picture), large)
        batch = PatientBatch(picture, labels, torch.zeros(number, dtype=torch.int64), 1)
        for clipping_norm in (1e-8, 1e-4, 1.0):
            norm = float(engine(model, times_labels, batch, clipping_norm).norm())
            if not norm <= clipping_norm:
                moved.append(f"{small} times {large}: moves the sum by {norm / clipping_norm:.3g} times the clip")
    assert not moved, "\n".join(moved)


@pytest.mark.parametrize("bright", family([0.0, 1.0, 1e5], keep=[1.0]), ids=["black", "ordinary", "bright"])
@pytest.mark.parametrize("size", family([1e3, 1e7, 1e10], keep=[1e10]))
@pytest.mark.parametrize("kind", CANCELLING)
def test_large_terms_that_cancel_do_not_swallow_the_other_patients(kind, size, bright):
    # In a sum of single precision, what is added before 1e10 - 1e10 is lost.
    torch.manual_seed(0)
    layer, shape = CANCELLING[kind]
    model = layer()
    if getattr(model, "bias", None) is None:
        model.bias = nn.Parameter(torch.zeros(len(model.get_parameter("weight"))))
    honest = 0.01 * torch.randn(1, *shape).expand(20, *shape)
    with torch.no_grad():
        labels = torch.rand_like(model(honest)[:1]).expand(20, *model(honest).shape[1:])
    sign = torch.ones(labels.shape[1:])
    alternating = sign.transpose(0, -1) if len(shape) == 2 else sign.flatten(1)
    alternating[..., ::2] = -1
    channel = 0 if len(shape) == 3 else len(shape) - 1
    flat = bright * torch.rand(shape[channel]).view(*(-1 if i == channel else 1 for i in range(len(shape))))
    rest = engine(model, times_labels, PatientBatch(honest, labels, torch.arange(20), 20), 1.0)
    moved = []
    for place in (0, 10, 20):
        order = [*range(place), 20, *range(place, 20)]
        inputs = torch.cat([honest, flat.expand(1, *shape)])[order]
        for small in (0.0, 2.0**-23, 2.0**-20, 2.0**-14):
            mine = size * labels[0].mean() * torch.where(sign < 0, -1 - small, 1.0)
            batch = PatientBatch(inputs, torch.cat([labels, mine[None]])[order], torch.arange(21), 21)
            norm = float((engine(model, times_labels, batch, 1.0) - rest).norm())
            if not norm <= 1.0:
                moved.append(f"off by {small:.1e}, picture {place}: moves the sum by {norm:.9g} times the clip")
    assert not moved, "\n".join(moved)


# Dropout.

DROPOUT = {
    "Dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
    "Dropout2d": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(32, 3)),
    "Dropout in the middle of images, in place": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.Dropout(0.3, inplace=True),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 2, 2),
        nn.Flatten(),
        nn.Linear(6, 3),
    ),
    "AlphaDropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.AlphaDropout(0.3), nn.Linear(8, 3)),
    "functional dropout": lambda: Custom(
        lambda m, x: m.head(F.dropout(x.flatten(1), 0.5, m.training)), head=nn.Linear(48, 3)
    ),
    "TransformerEncoderLayer": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.TransformerEncoderLayer(24, 2, 8, dropout=0.4, batch_first=True),
        nn.Flatten(),
        nn.Linear(48, 3),
    ),
    "stochastic depth": lambda: Custom(
        lambda m, x: m.head((x + m.c(x) * torch.rand(len(x), 1, 1, 1, dtype=x.dtype).round()).flatten(1)),
        c=nn.Conv2d(2, 2, 3, padding=1),
        head=nn.Linear(48, 3),
    ),
}


@pytest.mark.parametrize("kind", family(DROPOUT, keep=["Dropout", "stochastic depth"]))
def test_dropout_masks_follow_the_seed_and_differ_between_pictures(kind):
    torch.manual_seed(0)
    model = DROPOUT[kind]().double()
    picture = torch.randn(1, 2, 6, 4, dtype=torch.float64)
    batch = PatientBatch(
        picture.expand(8, -1, -1, -1),
        torch.zeros(8, dtype=torch.int64),
        torch.arange(4).repeat_interleave(2),
        4,
        range(4),
    )
    sums = [clipped_sum(model, cross_entropy, batch, clipping_norm=0.5, dropout_seed=s).vector for s in (3, 3, 4)]
    assert torch.equal(sums[0], sums[1])
    assert not torch.equal(sums[0], sums[2])
    assert sums[0].norm() <= 4 * 0.5
    rows = per_patient_gradients(model, cross_entropy, batch, dropout_seed=3)
    assert len(rows.unique(dim=0)) > 1
    model.eval()
    sums = [clipped_sum(model, cross_entropy, batch, clipping_norm=0.5, dropout_seed=s).vector for s in (1, 2)]
    if kind != "stochastic depth":
        assert torch.equal(sums[0], sums[1])


@pytest.mark.parametrize("kind", family(DROPOUT, keep=["Dropout", "stochastic depth"]))
def test_with_dropout_the_sum_is_that_of_the_clipped_rows_of_the_same_seed(kind):
    torch.manual_seed(0)
    model = DROPOUT[kind]().double()
    batch = PatientBatch(
        torch.randn(5, 2, 6, 4, dtype=torch.float64),
        torch.tensor([0, 1, 2, 0, 1]),
        torch.tensor([0, 0, 2, 2, 3]),
        4,
        range(4),
    )
    rows = per_patient_gradients(model, cross_entropy, batch, dropout_seed=3)
    norm = typical_clipping_norm(rows)
    ours = clipped_sum(model, cross_entropy, batch, clipping_norm=norm, dropout_seed=3).vector
    assert relative_error(ours, clip_and_sum(rows, norm, shave=SHAVE), parameter_sizes(model))[0] < 1e-10


# Refusals.

MIXING = {
    "BatchNorm in training mode": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(24, 3)
    ),
    "subtracts the mean of the batch": lambda: Custom(
        lambda m, x: m.head((x - x.mean(0)).flatten(1)), head=nn.Linear(48, 3)
    ),
    "divides by the largest pixel of the batch": lambda: Custom(
        lambda m, x: m.head((x / x.max()).flatten(1)), head=nn.Linear(48, 3)
    ),
    "attention over the batch": lambda: Custom(
        lambda m, x: m.head(m.a(*[x.flatten(2)] * 3)[0].flatten(1)),
        head=nn.Linear(48, 3),
        a=nn.MultiheadAttention(24, 2),
    ),
    "looks at its neighbour": lambda: Custom(
        lambda m, x: m.head((x + 0.1 * x.roll(1, 0)).flatten(1)), head=nn.Linear(48, 3)
    ),
    "mixes the gradients only": lambda: Custom(
        lambda m, x: m.head(_mean_through_the_gradient(m.c(x)).flatten(1)),
        c=nn.Conv2d(2, 2, 3),
        head=nn.Linear(16, 3),
    ),
}


def _mean_through_the_gradient(x):
    mean = x.mean(0, keepdim=True)
    return x + mean - mean.detach()


@pytest.mark.parametrize("kind", MIXING)
def test_a_network_that_mixes_patients_is_refused(kind):
    torch.manual_seed(0)
    with pytest.raises(ModelError):
        check_trainable(MIXING[kind](), torch.randn(4, 2, 6, 4))
