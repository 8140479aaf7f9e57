"""Kinds of networks that need care: `clipped_sum` alone refuses each with one sentence, or is right on it."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from wardround.errors import ModelError, PrivacyError
from wardround.per_patient import Independence, PatientBatch, check_trainable, clipped_sum, per_patient_gradients
from wardround.per_patient.isolated import isolated_gradient
from wardround.per_patient.layout import Layout
from wardround.training.losses import cross_entropy

pytestmark = pytest.mark.filterwarnings(
    "ignore::wardround.per_patient.SlowPath", "ignore:There is a performance drop", "ignore::FutureWarning",
    "ignore::DeprecationWarning", "ignore:.*LazyModule.*", "ignore:Lazy modules",
)  # fmt: skip

CLIP = 0.5
COUNT = 8
PICTURES = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, 9, (COUNT, 7), generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Parts, and a function of them and the input."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def body(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.Flatten(), nn.Linear(144, 4))


def wide(norm):
    """Power iterations that have not come to rest."""
    return nn.Sequential(norm(nn.Conv2d(3, 64, 3)), nn.Flatten(), nn.Linear(2304, 4))


def embedding(**options):
    return lambda: Net(lambda m, x: m.h(m.e(x).mean(1)), e=nn.Embedding(9, 5, **options), h=nn.Linear(5, 4))


class Keeps(nn.Module):
    """A buffer that a forward pass changes; some change it in large batches only, or make it there."""

    def __init__(self, change, start=None):
        super().__init__()
        self.inner = body()
        self._change = change
        self.register_buffer("kept", torch.zeros(3) if start is None else start)

    def forward(self, x):
        self._change(self, x.detach())
        return self.inner(x)


def running_mean(m, x):
    m.kept.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))


def replaced(m, x):
    m.kept = x.mean((0, 2, 3))


def through_data(m, x):
    m.kept.data += x.mean((0, 2, 3))


def counter(m, x):
    m.kept += len(x)


def only_in_large_batches(m, x):
    if len(x) > 5:
        m.kept.copy_(x.amax((0, 2, 3)))


def made(m, x):
    if "new" not in m._buffers:
        m.register_buffer("new", x.mean())


class MovesItsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = body()

    def forward(self, x):
        with torch.no_grad():
            self.inner[0].bias += 0.01
        return self.inner(x)


def checkpointed(*, reentrant):
    def run(m, x):
        return m.h(checkpoint(m.c, m.b(x), use_reentrant=reentrant).flatten(1))

    return lambda: Net(run, b=nn.Conv2d(3, 3, 1), c=nn.Conv2d(3, 4, 3), h=nn.Linear(144, 4))


def made_in_inference():
    with torch.inference_mode():
        return body()


def compiled_in_place():
    model = body()
    model.compile(backend="eager")
    return model


def filtered(w, as_complex):
    def run(m, x):
        return m.h(torch.fft.irfft2(torch.fft.rfft2(x) * as_complex(m.w)).flatten(1))

    return lambda: Net(run, w=nn.Parameter(w), h=nn.Linear(192, 4))


REFUSED = {
    "batch norm": (lambda: body(nn.BatchNorm2d(4)), "model-buffer", "1.running_mean"),
    "batch norm without statistics": (
        lambda: body(nn.BatchNorm2d(4, track_running_stats=False)), "model-buffer", "BatchNorm2d at '1'",
    ),
    "instance norm with statistics": (
        lambda: body(nn.InstanceNorm2d(4, track_running_stats=True)), "model-buffer", "1.running_mean",
    ),
    "spectral norm": (lambda: wide(spectral_norm), "model-buffer", "0.parametrizations.weight.0._"),
    "spectral norm of hooks": (lambda: wide(hooked_spectral_norm), "model-buffer", "0.weight_"),
    "running mean": (lambda: Keeps(running_mean), "model-buffer", "'kept'"),
    "buffer replaced": (lambda: Keeps(replaced), "model-buffer", "'kept'"),
    "buffer changed as data": (lambda: Keeps(through_data), "model-buffer", "'kept'"),
    "counter": (lambda: Keeps(counter, torch.tensor(0)), "model-buffer", "'kept'"),
    "buffer of large batches": (lambda: Keeps(only_in_large_batches), "model-buffer", "'kept'"),
    "new buffer": (lambda: Keeps(made), "model-buffer", "'new'"),
    "parameter changed": (MovesItsWeight, "model-buffer", "'inner.0.bias'"),
    "embedding with max_norm": (embedding(max_norm=0.5), "model-buffer", "'e.weight'"),
    "compiled": (lambda: torch.compile(body(), backend="eager"), "model-compiled", "torch.compile"),
    "compiled in place": (compiled_in_place, "model-compiled", "torch.compile"),
    "scripted": (lambda: torch.jit.script(body()), "model-scripted", "torch.jit"),
    "traced inside": (
        lambda: nn.Sequential(torch.jit.trace(nn.Conv2d(3, 4, 3), PICTURES), nn.Flatten(), nn.Linear(144, 4)),
        "model-scripted", "'0'",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(4)), "model-lazy", "'0.weight'"),
    "meta": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 4, device="meta")), "model-meta", "'1.weight'"),
    "complex": (filtered(torch.randn(3, 8, 5, dtype=torch.cfloat), lambda w: w), "model-complex", "'w'"),
    "reentrant checkpoint": (checkpointed(reentrant=True), "model-checkpoint", "use_reentrant=False"),
    "made in inference mode": (made_in_inference, "model-inference", "'0.weight'"),
}  # fmt: skip

RIGHT = {
    "ordinary": body,
    "batch norm in evaluation": lambda: body(nn.BatchNorm2d(4).eval()),
    "batch norm of a function": lambda: Net(
        lambda m, x: m.h(F.batch_norm(m.c(x), None, None, training=True).flatten(1)),
        c=nn.Conv2d(3, 4, 3), h=nn.Linear(144, 4),
    ),
    "instance norm": lambda: body(nn.InstanceNorm2d(4, affine=True)),
    "spectral norm in evaluation": lambda: body(spectral_norm(nn.Conv2d(4, 4, 1)).eval()),
    "weight norm": lambda: body(weight_norm(nn.Conv2d(4, 4, 1))),
    "tokens": embedding(),
    "sparse embedding": embedding(sparse=True),
    "embedding scaled by frequency": embedding(scale_grad_by_freq=True),
    "embedding bag": lambda: Net(lambda m, x: m.h(m.e(x)), e=nn.EmbeddingBag(9, 5), h=nn.Linear(5, 4)),
    "checkpoint": checkpointed(reentrant=False),
    "complex as real": filtered(torch.randn(3, 8, 5, 2), torch.view_as_complex),
    "data parallel": lambda: nn.DataParallel(body()),
    "traced by fx": lambda: torch.fx.symbolic_trace(body()),
    "recurrent": lambda: Net(lambda m, x: m.h(m.r(x.flatten(2))[0][:, -1]), r=nn.LSTM(64, 5), h=nn.Linear(5, 4)),
    "attention over the batch": lambda: Net(
        lambda m, x: m.h(m.a(x.flatten(2), x.flatten(2), x.flatten(2))[0].mean(1)),
        a=nn.MultiheadAttention(64, 1), h=nn.Linear(64, 4),
    ),
    "hypernetwork": lambda: Net(
        lambda m, x: F.linear(x.flatten(1), m.a @ m.b), a=nn.Parameter(torch.randn(4, 2)),
        b=nn.Parameter(torch.randn(2, 192) * 0.1),
    ),
    "a weight in the loss path": lambda: Net(lambda m, x: m.b(x) * (1 + m.b[0].weight.pow(2).mean()), b=body()),
    "buffer that stays": lambda: Keeps(lambda m, x: m.kept, torch.tensor(float("nan"))),
}  # fmt: skip


def shared():
    layer = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Flatten(), nn.Linear(192, 4))


def tied():
    first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Flatten(), nn.Linear(192, 4))


RIGHT |= {"one module under two names": shared, "one weight in two modules": tied}


def built(build):
    torch.manual_seed(1)
    return build()


def batch_for(model, count=COUNT, dtype=None):
    reads_tokens = any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.modules())
    inputs = TOKENS if reads_tokens else PICTURES if dtype is None else PICTURES.to(dtype)
    return PatientBatch(inputs[:count], torch.arange(count) % 4, torch.arange(count), count)


def loop(model, batch):
    """The oracle: one backward pass of each picture alone, clipped and added up in float64."""
    parameters, total = [p for p in model.parameters() if p.requires_grad], 0.0
    for picture in batch.singles():
        loss = cross_entropy(model(picture.inputs).float(), picture.labels)[0]
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        row = torch.cat([(g.to_dense() if g.is_sparse else g).double().reshape(-1) for g in found])
        total = total + row * (CLIP / row.norm()).clamp(max=1.0)
    return total


@pytest.mark.parametrize("independence", Independence)
@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_taken_is_refused_and_left_as_it_was(name, independence):
    build, code, named = REFUSED[name]
    model = built(build)
    has_values = name not in ("lazy", "meta")
    before = {key: value.clone() for key, value in model.state_dict().items()} if has_values else None
    for count in (5, COUNT):
        if name == "buffer of large batches" and (count == 5 or independence == "by-construction"):
            continue  # here it changes nothing
        with pytest.raises(ModelError) as refused:
            clipped_sum(
                model, cross_entropy, batch_for(model, count), clipping_norm=CLIP, independence=independence
            )
        assert refused.value.code == code
        assert named in str(refused.value)
    if before is not None:
        assert list(model.state_dict()) == list(before)
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("independence", Independence)
@pytest.mark.parametrize("name", RIGHT)
def test_a_network_that_needs_care_is_right(name, independence):
    model = built(RIGHT[name])
    batch, parameters = batch_for(model), dict(model.named_parameters(remove_duplicate=False))
    found = clipped_sum(model, cross_entropy, batch, clipping_norm=CLIP, independence=independence).vector
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[key] is parameter for key, parameter in parameters.items())
    expected = loop(model, batch)
    assert (found - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("independence", Independence)
@pytest.mark.parametrize("layers", [(), (nn.GroupNorm(2, 4),), (nn.Flatten(), nn.Linear(144, 600), nn.ReLU())])
def test_with_weights_of_half_precision_the_sum_is_formed_in_single(dtype, independence, layers):
    """One patient moves it by the clip: a sum in half precision moved by 1.075 clips."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.Flatten(), nn.Linear(600 if len(layers) > 1 else 144, 4))
    model = model.to(dtype)
    batch = batch_for(model, dtype=dtype)
    rest = PatientBatch(batch.inputs[1:], batch.labels[1:], batch.patient[:-1], COUNT - 1)
    total, other = (
        clipped_sum(model, half_loss, b, clipping_norm=CLIP, independence=independence).vector
        for b in (batch, rest)
    )
    assert total.dtype is torch.float32
    assert (total.double() - other.double()).norm() <= CLIP
    assert (total - loop(model, batch)).norm() <= 0.1 * total.norm()


def half_loss(logits, labels):
    return cross_entropy(logits.float(), labels)


def test_inference_mode_is_refused_and_inputs_made_in_it_are_taken():
    model = built(body)
    with torch.inference_mode():
        batch = batch_for(model)
        made = PatientBatch(batch.inputs.clone(), batch.labels.clone(), batch.patient.clone(), COUNT)
        with pytest.raises(ModelError) as refused:
            clipped_sum(model, cross_entropy, batch, clipping_norm=CLIP)
    assert refused.value.code == "model-inference"
    found = clipped_sum(model, cross_entropy, made, clipping_norm=CLIP).vector
    assert torch.equal(found, clipped_sum(model, cross_entropy, batch, clipping_norm=CLIP).vector)


def alone(model, batch):
    return isolated_gradient(model, Layout.of(model), cross_entropy, batch.inputs, batch.labels)


ENTRIES = {
    "per_patient_gradients": lambda model, batch: per_patient_gradients(model, cross_entropy, batch),
    "isolated_gradient": alone,
    "check_trainable": lambda model, batch: check_trainable(model, batch.inputs),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_other_entry_refuses_a_changed_buffer(entry):
    for change in (running_mean, replaced, made):
        model = built(lambda change=change: Keeps(change))
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ModelError) as refused:
            ENTRIES[entry](model, batch_for(model))
        assert refused.value.code == "model-buffer"
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["tokens", "sparse embedding", "ordinary", "checkpoint", "spectral norm in evaluation"]
)
def test_the_validator_takes_what_the_sum_takes(name):
    model = built(RIGHT[name])
    check_trainable(model, batch_for(model).inputs)


def test_a_model_that_was_frozen_after_the_first_call_is_studied_anew():
    """Findings are of one state of the switches: training mode brings the refusal back."""
    model = built(lambda: body(nn.BatchNorm2d(4)))
    for training in (False, True, False):
        model.train(training)
        expected = pytest.raises(ModelError) if training else nullcontext()
        with expected:
            clipped_sum(model, cross_entropy, batch_for(model), clipping_norm=CLIP)


@pytest.mark.parametrize("reason", ["believed", None])
def test_another_reason_for_independence_is_refused(reason):
    model = built(body)
    with pytest.raises(PrivacyError) as refused:
        clipped_sum(model, cross_entropy, batch_for(model), clipping_norm=CLIP, independence=reason)
    assert refused.value.code == "privacy-independence"
