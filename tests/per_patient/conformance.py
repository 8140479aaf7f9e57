"""What every engine of per-patient clipped gradients must get right, and the oracle that says what right is.

An engine is any callable `(model, loss, batch, clipping_norm) -> vector`: the sum over patients of their clipped
gradients, (parameter,), trained parameters in the order of `named_parameters`. The same cases judge ours and the
peers; those that know no patients are judged on batches of one picture each:

    for case in CASES.values():
        print(judge(case, engine, counts=ONE_EACH, tolerance=1e-5))

The oracle is a loop of one-patient backward passes in float64, by ordinary autograd. Nothing here needs pytest.
"""

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from wardround.per_patient.batch import PatientBatch

Loss = Callable[[Tensor, Tensor], Tensor]
Engine = Callable[[nn.Module, Loss, PatientBatch, float], Tensor]

UNEVEN = (2, 0, 3, 1, 0)
ONE_EACH = (1, 1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Problem:
    """One question to an engine. `model` may be changed by who asked for the problem: it is their copy."""

    model: nn.Module
    loss: Loss
    batch: PatientBatch


@dataclass(frozen=True)
class Case:
    """A network and the pictures it reads.

    Attributes:
        name: unique, a key of `CASES`.
        family: what part of the promise it belongs to.
        network: builds the network; its random numbers come from the global generator, which is seeded.
        inputs: pictures, from their number.
        labels: labels, from their number.
        loss: loss of each picture, unreduced.
        may_refuse: an engine may decline this network with an error; it may never be wrong on it.
    """

    name: str
    family: str
    network: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    labels: Callable[[int], Tensor]
    loss: Loss
    may_refuse: bool = False

    def problem(self, counts: Sequence[int] = UNEVEN, dtype: torch.dtype = torch.float64) -> Problem:
        """The question for patients with so many pictures each; the same one at every call."""
        model, batch, _ = _solved(self.name, tuple(counts))
        labels = batch.labels.to(dtype) if batch.labels.is_floating_point() else batch.labels
        inputs = batch.inputs.to(dtype) if batch.inputs.is_floating_point() else batch.inputs
        model = copy.deepcopy(model).to(dtype)
        return Problem(model, self.loss, PatientBatch(inputs, labels, batch.patient, batch.num_patients))

    def gradients(self, counts: Sequence[int] = UNEVEN) -> Tensor:
        """The oracle's gradients, (patient, parameter), float64."""
        return _solved(self.name, tuple(counts))[2]


@dataclass(frozen=True)
class Verdict:
    """How an engine did on a case.

    Attributes:
        case: name of the case.
        outcome: "right", "wrong", or "refused" (an exception was raised).
        error: largest relative error over the parameters; infinite where refused.
        detail: the parameter that is worst, or the exception.
        passed: right, or refused where that is allowed.
    """

    case: str
    outcome: str
    error: float
    detail: str
    passed: bool

    def __str__(self) -> str:
        return f"{self.case:<58} {self.outcome:<8} {self.error:8.1e}  {self.detail}"


def judge(
    case: Case,
    engine: Engine,
    *,
    counts: Sequence[int] = UNEVEN,
    clipping_norm: float | None = None,
    shave: float = 1.0,
    tolerance: float = 1e-10,
    dtype: torch.dtype = torch.float64,
) -> Verdict:
    """Compares an engine with the oracle.

    Args:
        case: the network.
        engine: see the module.
        counts: pictures of each patient.
        clipping_norm: by default one that clips the larger half of the patients.
        shave: factor by which the engine aims below the clipping norm.
        tolerance: relative error allowed; a peer that adds 1e-6 to each norm needs more.
        dtype: of the engine's network and pictures; the oracle's are always float64.
    """
    gradients = case.gradients(counts)
    norm = typical_clipping_norm(gradients) if clipping_norm is None else clipping_norm
    problem = case.problem(counts, dtype)
    sizes = parameter_sizes(problem.model)
    try:
        with quietly():
            vector = engine(problem.model, problem.loss, problem.batch, norm)
    except Exception as refusal:  # a peer may raise anything at all
        detail = f"{type(refusal).__name__}: {' '.join(str(refusal).split())[:160]}"
        return Verdict(case.name, "refused", math.inf, detail, case.may_refuse)
    one = min(norm, float(gradients.norm(dim=1).max())) if len(gradients) else 0.0
    error, worst = relative_error(vector, clip_and_sum(gradients, norm, shave=shave), sizes, one=one)
    right = error < tolerance
    return Verdict(case.name, "right" if right else "wrong", error, worst, right)


def patient_gradients(model: nn.Module, loss: Loss, batch: PatientBatch) -> Tensor:
    """The oracle: a backward pass of the mean loss over each patient's pictures, (patient, parameter)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = torch.zeros(batch.num_patients, sum(p.numel() for p in parameters), dtype=parameters[0].dtype)
    for patient, row in enumerate(rows):
        mine = batch.patient == patient
        if mine.any():
            mean = loss(model(batch.inputs[mine]), batch.labels[mine]).mean()
            parts = torch.autograd.grad(mean, parameters, allow_unused=True, materialize_grads=True)
            row.copy_(torch.cat([part.reshape(-1) for part in parts]))
    return rows


def clip_and_sum(gradients: Tensor, clipping_norm: float, *, shave: float = 1.0) -> Tensor:
    """The sum of the rows, each scaled to a norm of at most `shave * clipping_norm`."""
    norms = gradients.norm(dim=1).clamp(min=1e-300)
    return (gradients * torch.clamp(clipping_norm * shave / norms, max=1.0)[:, None]).sum(0)


def typical_clipping_norm(gradients: Tensor) -> float:
    """A clipping norm below the median patient: some are clipped and some are not, and none is on the edge."""
    norms = gradients.norm(dim=1)
    return 0.9 * float(norms[norms > 0].median()) if norms.any() else 1.0


def parameter_sizes(model: nn.Module) -> dict[str, int]:
    """Numbers of the trained parameters by name, in the order of the vector."""
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


def relative_error(
    vector: Tensor, expected: Tensor, sizes: dict[str, int], *, one: float = 0.0
) -> tuple[float, str]:
    """The largest error of one parameter, relative to its size, and the name of that parameter.

    A parameter that matters less than a hundredth of the whole is measured against that: the gradient of a bias
    before a normalisation is zero but for rounding. `one` is the size of one patient's part of the sum: the
    parts of two patients may cancel.
    """
    if vector.shape != expected.shape:
        return math.inf, f"shape {tuple(vector.shape)}, expected {tuple(expected.shape)}"
    floor = (1e-2 * expected.norm()).clamp(min=max(1e-2 * one, 1e-300))
    worst = (0.0, "")
    parts = zip(vector.double().split([*sizes.values()]), expected.split([*sizes.values()]), strict=True)
    for name, (ours, theirs) in zip(sizes, parts, strict=True):
        error = float((ours - theirs).norm() / torch.maximum(theirs.norm(), floor))
        if not error <= worst[0]:  # a NaN is the worst
            worst = (math.inf if math.isnan(error) else error, name)
    return worst


@contextmanager
def quietly() -> Iterator[None]:
    """Without warnings: an engine may say that a layer takes the slow path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def _solved(name: str, counts: tuple[int, ...]) -> tuple[nn.Module, PatientBatch, Tensor]:
    """Model, batch and the oracle's gradients; not to be changed."""
    case, total = CASES[name], sum(counts)
    with torch.random.fork_rng(devices=[]), quietly():
        torch.manual_seed(sum(name.encode()))
        model = case.network().double()
        with torch.no_grad():
            for p in model.parameters():  # no scale that is 1, no offset that is 0
                p.add_(0.1 * torch.randn_like(p))
        patient = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
        batch = PatientBatch(case.inputs(total), case.labels(total), patient, len(counts))
        return model, batch, patient_gradients(copy.deepcopy(model), case.loss, batch)


# Losses and labels.


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none").flatten(1).mean(1)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=logits.dtype)
    return F.cross_entropy(logits, labels, weight=weight, label_smoothing=0.1, reduction="none")


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)


def soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    shown, true = torch.sigmoid(logits).flatten(1), labels.flatten(1)
    return 1 - (2 * (shown * true).sum(1) + 1) / (shown.sum(1) + true.sum(1) + 1)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).square().flatten(1).sum(1)


def classes(*shape: int) -> Callable[[int], Tensor]:
    return lambda number: torch.randint(0, 3, (number, *shape))


def findings(*shape: int) -> Callable[[int], Tensor]:
    return lambda number: torch.randint(0, 2, (number, *shape)).double()


def noise(*shape: int) -> Callable[[int], Tensor]:
    return lambda number: torch.randn(number, *shape, dtype=torch.float64)


def tokens(length: int, vocabulary: int = 7) -> Callable[[int], Tensor]:
    return lambda number: torch.randint(0, vocabulary, (number, length))


# Networks.


class Custom(nn.Module):
    """A network whose forward is the function `run(self, x)`; its parts are registered in the order given."""

    def __init__(self, run: Callable[[Any, Any], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: an `nn.Conv2d` by its class, which uses another weight than its own."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        std = self.weight.std(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias, self.stride, self.padding)


class ScaledLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * 0.5, self.bias)


class Matrix(nn.Module):
    """No layer of torch's: a matrix and nothing else."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(rows, columns) / rows**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Last(nn.Module):
    """A recurrent network's outputs, without its state."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.recurrent(x)[0]
        return outputs


class SelfAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return outputs


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def only(part: str, module: nn.Module) -> nn.Module:
    """Freezes everything except the parameters of one name, such as "bias"."""
    for name, p in module.named_parameters():
        p.requires_grad_(name.split(".")[-1] == part)
    return module


def with_statistics(norm: nn.Module) -> nn.Module:
    """A normalisation that has seen pictures, in eval mode."""
    for name, buffer in norm.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name == "running_var" else 0.0))
    return norm.eval()


CASES: dict[str, Case] = {}


def add(
    family: str,
    name: str,
    network: Callable[[], nn.Module],
    inputs: Callable[[int], Tensor],
    labels: Callable[[int], Tensor] | None = None,
    loss: Loss = cross_entropy,
    *,
    may_refuse: bool = False,
) -> None:
    assert name not in CASES, name
    CASES[name] = Case(name, family, network, inputs, labels or classes(), loss, may_refuse)


def sandwich(layer: Callable[[], nn.Module], shape: tuple[int, ...], kind: str) -> Callable[[], nn.Module]:
    """A network around a layer: something trained before it, so that its input gradient counts, and a head."""

    def build() -> nn.Module:
        before: nn.Module = nn.Identity()
        if kind == "image" and len(shape) > 1:
            before = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 2](shape[0], shape[0], 1)
        else:
            before = nn.Linear(shape[-1], shape[-1])
        middle = layer()
        with torch.no_grad():
            width = middle(before(torch.zeros(2, *shape)))[0].numel()
        return Custom(
            lambda m, x: m.head(torch.tanh(m.layer(m.before(x))).flatten(1)),
            before=before,
            layer=middle,
            head=nn.Linear(width, 3),
        )

    return build


def image_layer(family: str, name: str, layer: Callable[[], nn.Module], *shape: int) -> None:
    add(family, name, sandwich(layer, shape, "image"), noise(*shape))


def token_layer(family: str, name: str, layer: Callable[[], nn.Module], *shape: int) -> None:
    add(family, name, sandwich(layer, shape, "tokens"), noise(*shape))


# The tables of cases keep a case on as few lines as it needs.
# fmt: off
SPACE = {1: (7,), 2: (6, 5), 3: (4, 6, 5)}


def _linear() -> None:
    add("linear", "Linear alone, 2-D", lambda: nn.Linear(5, 3), noise(5))
    token_layer("linear", "Linear, 2-D", lambda: nn.Linear(5, 4), 5)
    token_layer("linear", "Linear, 3-D", lambda: nn.Linear(4, 5), 3, 4)
    token_layer("linear", "Linear, 4-D", lambda: nn.Linear(4, 5), 2, 3, 4)
    token_layer("linear", "Linear, 3-D, one token", lambda: nn.Linear(4, 5), 1, 4)
    token_layer("linear", "Linear, 3-D, many tokens", lambda: nn.Linear(2, 3), 40, 2)
    token_layer("linear", "Linear, 3-D, no bias", lambda: nn.Linear(4, 5, bias=False), 3, 4)
    token_layer("linear", "a subclass of Linear that scales its weight", lambda: ScaledLinear(4, 5), 3, 4)
    token_layer("linear", "a module of our own: x @ matrix", lambda: Matrix(4, 5), 3, 4)
    token_layer("linear", "Bilinear with itself", lambda: Custom(
        lambda m, x: m.pair(x, x), pair=nn.Bilinear(4, 4, 3)), 3, 4)


def _convolutions() -> None:
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "no bias": {"bias": False},
        "stride 2": {"stride": 2},
        "stride 3, kernel 2, rows left over": {"kernel_size": 2, "stride": 3},
        "dilation 2, stride 2": {"dilation": 2, "stride": 2, "padding": 1},
        "groups": {"groups": 2},
        "depthwise": {"groups": 4, "padding": 1},
        "padding valid": {"padding": "valid"},
        "padding same": {"padding": "same"},
        "padding same, even kernel, dilation": {"kernel_size": 2, "padding": "same", "dilation": 3},
        "padding circular": {"padding": 1, "padding_mode": "circular"},
        "padding reflect": {"padding": 1, "padding_mode": "reflect"},
        "padding replicate": {"padding": 1, "padding_mode": "replicate"},
        "padding same and reflect": {"padding": "same", "padding_mode": "reflect"},
        "all at once": {"groups": 2, "stride": 2, "dilation": 2, "padding": 2, "padding_mode": "circular"},
        "1x1": {"kernel_size": 1},
        "1x1, stride 2": {"kernel_size": 1, "stride": 2, "bias": False},
        "wide padding": {"padding": 3},
    }
    for d, kind in {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}.items():
        for name, options in variants.items():
            layer = functools.partial(kind, 4, 8, **{"kernel_size": 3} | options)
            image_layer("convolution", f"Conv{d}d, {name}", layer, 4, *SPACE[d])
    image_layer("convolution", "Conv2d, another kernel, stride, padding each way", lambda: nn.Conv2d(
        4, 5, (3, 1), stride=(1, 2), padding=(0, 1), dilation=(2, 1)), 4, 6, 5)
    image_layer("convolution", "Conv2d, one output pixel", lambda: nn.Conv2d(4, 5, (6, 5)), 4, 6, 5)
    image_layer("convolution", "Conv2d, one channel, large kernel", lambda: nn.Conv2d(1, 2, 5), 1, 6, 5)
    image_layer("convolution", "weight standardisation", lambda: StandardisedConv(4, 5, 3, padding=1), 4, 6, 5)
    image_layer("convolution", "weight_norm", lambda: weight_norm(nn.Conv2d(4, 5, 3)), 4, 6, 5)


def _transposed() -> None:
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "no bias": {"bias": False},
        "stride 2": {"stride": 2, "kernel_size": 2},
        "stride 2, output_padding": {"stride": 2, "padding": 1, "output_padding": 1},
        "dilation 2": {"dilation": 2},
        "groups": {"groups": 2},
        "depthwise": {"groups": 4, "stride": 2},
        "all at once": {"groups": 2, "stride": 3, "padding": 2, "dilation": 2, "output_padding": 1},
        "1x1": {"kernel_size": 1},
    }
    small = {1: (4,), 2: (3, 4), 3: (2, 4, 3)}
    for d, kind in {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}.items():
        for name, options in variants.items():
            layer = functools.partial(kind, 4, 4, **{"kernel_size": 3} | options)
            image_layer("transposed convolution", f"ConvTranspose{d}d, {name}", layer, 4, *small[d])
    image_layer("transposed convolution", "ConvTranspose2d, output_size", lambda: Custom(
        lambda m, x: m.up(x, output_size=[10, 9]), up=nn.ConvTranspose2d(4, 3, 3, stride=3)), 4, 3, 3)
    image_layer("transposed convolution", "ConvTranspose2d, another stride each way", lambda: nn.ConvTranspose2d(
        4, 3, (2, 3), stride=(3, 1), padding=(0, 1), output_padding=(1, 0)), 4, 3, 4)


def _norms() -> None:
    for d, space in SPACE.items():
        image_layer("norm", f"GroupNorm, {d}-D images", lambda: nn.GroupNorm(2, 4), 4, *space)
        instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[d - 1]
        image_layer("norm", f"InstanceNorm{d}d, affine", functools.partial(instance, 4, affine=True), 4, *space)
        batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[d - 1]
        image_layer("norm", f"BatchNorm{d}d, frozen statistics",
                    lambda kind=batch: with_statistics(kind(4)), 4, *space)  # type: ignore[misc]
    image_layer("norm", "BatchNorm1d, frozen statistics, 2-D", lambda: with_statistics(nn.BatchNorm1d(4)), 4)
    image_layer("norm", "GroupNorm, one group", lambda: nn.GroupNorm(1, 4), 4, 6, 5)
    image_layer("norm", "GroupNorm, a group for each channel", lambda: nn.GroupNorm(4, 4), 4, 6, 5)
    image_layer("norm", "GroupNorm, 2-D", lambda: nn.GroupNorm(2, 6), 6)
    image_layer("norm", "GroupNorm, only its bias is trained", lambda: only("bias", nn.GroupNorm(2, 4)), 4, 6, 5)
    token_layer("norm", "LayerNorm, last axis", lambda: nn.LayerNorm(4), 3, 4)
    token_layer("norm", "LayerNorm, 2-D", lambda: nn.LayerNorm(6), 6)
    token_layer("norm", "LayerNorm, two axes", lambda: nn.LayerNorm((3, 4)), 2, 3, 4)
    token_layer("norm", "LayerNorm, no bias", lambda: nn.LayerNorm(4, bias=False), 3, 4)
    image_layer("norm", "LayerNorm, images, all axes", lambda: nn.LayerNorm((4, 6, 5)), 4, 6, 5)
    image_layer("norm", "LayerNorm, images, space", lambda: nn.LayerNorm((6, 5), eps=0.1), 4, 6, 5)
    image_layer("norm", "LayerNorm, channels last within the network", lambda: Custom(
        lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=nn.LayerNorm(4)), 4, 6, 5)
    token_layer("norm", "RMSNorm", lambda: nn.RMSNorm(4), 3, 4)
    token_layer("norm", "RMSNorm, two axes", lambda: nn.RMSNorm((3, 4), eps=0.01), 2, 3, 4)
    image_layer("norm", "PReLU, one", lambda: nn.PReLU(), 4, 6, 5)
    image_layer("norm", "PReLU, each channel", lambda: nn.PReLU(4), 4, 6, 5)
    image_layer("norm", "PReLU, each feature, 2-D", lambda: nn.PReLU(4), 4)


def _tokens() -> None:
    table = functools.partial(nn.Embedding, 7, 4)

    def head(run: Callable[[Any, Any], Tensor], **parts: nn.Module | nn.Parameter) -> Callable[[], nn.Module]:
        return lambda: Custom(lambda m, x: m.head(m.body(x).mean(1)), body=Custom(run, **copy.deepcopy(parts)),
                              head=nn.Linear(4, 3))

    add("tokens", "Embedding, repeated tokens", head(lambda m, x: m.e(x), e=table()), tokens(9))
    add("tokens", "Embedding, padding_idx", head(lambda m, x: m.e(x), e=table(padding_idx=2)), tokens(9))
    add("tokens", "Embedding of one token each", head(lambda m, x: m.e(x[:, 0])[:, None], e=table()), tokens(1))
    add("tokens", "Embedding, table on four axes", head(
        lambda m, x: m.e(x.view(-1, 3, 3)).flatten(1, 2), e=table()), tokens(9))
    add("tokens", "positions by Embedding of arange, as many as pictures", head(
        lambda m, x: torch.tanh(m.e(x) + m.position(torch.arange(6))), e=table(),
        position=nn.Embedding(6, 4)), tokens(6))
    add("tokens", "Linear on a table, as long as there are pictures", head(
        lambda m, x: torch.tanh(x + m.mix(torch.linspace(0, 1, 6, dtype=x.dtype)[:, None])), mix=nn.Linear(1, 4)),
        noise(6, 4))
    add("tokens", "Embedding's weight used again as the head", lambda: Custom(
        lambda m, x: torch.tanh(m.e(x)).mean(1) @ m.e.weight[:3].T, e=table()), tokens(5))
    for name, options in {"plain": {}, "no bias": {"bias": False}, "bias_k, zero": {"add_bias_kv": True}}.items():
        token_layer("tokens", f"MultiheadAttention, {name}", functools.partial(SelfAttention, **options), 3, 4)
    token_layer("tokens", "MultiheadAttention, keys of other width", lambda: Custom(
        lambda m, x: m.a(x, x[..., :2], x[..., 1:])[0],
        a=nn.MultiheadAttention(4, 2, kdim=2, vdim=3, batch_first=True)), 5, 4)
    token_layer("tokens", "MultiheadAttention, sequence first, as long as there are pictures", lambda: Custom(
        lambda m, x: m.a(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1), a=nn.MultiheadAttention(4, 2)), 6, 4)

    def encoder(**options: Any) -> nn.Module:
        return nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.0, batch_first=True, **options)

    token_layer("tokens", "TransformerEncoderLayer", encoder, 3, 4)
    token_layer("tokens", "TransformerEncoderLayer, norm first, gelu", lambda: encoder(
        norm_first=True, activation="gelu"), 3, 4)
    token_layer("tokens", "TransformerEncoderLayer, eval mode", lambda: encoder().eval(), 3, 4)
    token_layer("tokens", "LSTM", lambda: Last(nn.LSTM(4, 3, batch_first=True)), 5, 4)
    token_layer("tokens", "LSTM, two layers, both ways", lambda: Last(
        nn.LSTM(4, 2, num_layers=2, bidirectional=True, batch_first=True)), 4, 4)
    token_layer("tokens", "GRU", lambda: Last(nn.GRU(4, 3, batch_first=True)), 5, 4)
    token_layer("tokens", "GRU, sequence first, as long as there are pictures", lambda: Custom(
        lambda m, x: m.gru(x.transpose(0, 1))[0].transpose(0, 1), gru=nn.GRU(4, 3)), 6, 4)

    def loop(m: Any, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 3)
        for step in range(x.shape[1]):
            state = m.cell(x[:, step], state)
        return state

    token_layer("tokens", "GRUCell in a loop", lambda: Custom(loop, cell=nn.GRUCell(4, 3)), 5, 4)


def _parameters() -> None:
    def net(run: Callable[[Any, Any], Tensor], **parts: Any) -> Callable[[], nn.Module]:
        return lambda: Custom(lambda m, x: m.head(m.body(x).flatten(1)), body=Custom(run, **copy.deepcopy(parts)),
                              head=nn.Linear(12, 3))

    add("parameter", "scale and offset of each channel", net(
        lambda m, x: torch.tanh(x * m.scale + m.offset), scale=parameter(3, 1), offset=parameter(3, 1)),
        noise(3, 4))
    add("parameter", "a number", net(lambda m, x: x * m.scale.exp(), scale=parameter()), noise(3, 4))
    add("parameter", "positional embedding", net(
        lambda m, x: torch.tanh(x + m.position), position=parameter(1, 3, 4)), noise(3, 4))
    add("parameter", "positional embedding, as long as there are pictures", net(
        lambda m, x: torch.tanh(x + m.position).view(-1, 3, 2, 4).sum(2), position=parameter(6, 4)), noise(6, 4))
    add("parameter", "class token expanded to the batch", net(
        lambda m, x: torch.tanh(m.mix(torch.cat([m.token.expand(len(x), -1, -1), x], 1))),
        token=parameter(1, 1, 4), mix=nn.Linear(4, 4)), noise(2, 4))
    add("parameter", "class token repeated, by size from the input", net(
        lambda m, x: torch.tanh(m.mix(torch.cat([m.token.repeat(x.size(0), 1, 1), x], 1))),
        token=parameter(1, 1, 4), mix=nn.Linear(4, 4)), noise(2, 4))
    add("parameter", "a ParameterList", net(
        lambda m, x: torch.tanh((x * m.many[0]) @ m.many[1]),
        many=nn.ParameterList([parameter(3, 1), parameter(4, 4)])), noise(3, 4))
    add("parameter", "a weight made by another layer", net(
        lambda m, x: torch.tanh(x @ m.maker(m.code).view(4, 4)), code=parameter(2), maker=nn.Linear(2, 16)),
        noise(3, 4))
    add("parameter", "parameters that are not used", net(
        lambda m, x: torch.tanh(m.used(x)), idle=nn.Linear(5, 5), used=nn.Linear(4, 4), spare=parameter(3)),
        noise(3, 4))
    add("parameter", "a layer whose output is thrown away", net(
        lambda m, x: (m.idle(x), torch.tanh(m.used(x)))[1], idle=nn.Linear(4, 4), used=nn.Linear(4, 4)),
        noise(3, 4))
    add("parameter", "a branch without gradient", net(
        _gated, gate=nn.Linear(4, 4), used=nn.Linear(4, 4)), noise(3, 4))
    add("parameter", "used with and without gradient", net(
        lambda m, x: torch.tanh(m.used(m.used(x).detach())), used=nn.Linear(4, 4)), noise(3, 4))
    add("parameter", "a branch that starts at zero", net(
        lambda m, x: x + m.gate * m.used(x), gate=nn.Parameter(torch.zeros(())), used=nn.Linear(4, 4)),
        noise(3, 4))
    add("parameter", "no gradient for any patient", lambda: Custom(
        lambda m, x: m.mix(x * 0) * 0, mix=nn.Linear(4, 3)), noise(4))

    def chain(*frozen_parts: int) -> nn.Module:
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(24, 3)
        )
        for part in frozen_parts:
            frozen(model[part])
        return model

    still = {"the start": (0, 1), "the middle": (1, 3), "the head": (5,), "all but the head": (0, 1, 3)}
    for name, parts in still.items():
        add("frozen", f"frozen: {name}", functools.partial(chain, *parts), noise(2, 6, 5))
    add("frozen", "frozen: all but biases", lambda: only("bias", chain()), noise(2, 6, 5))
    add("frozen", "frozen: all but weights", lambda: only("weight", chain()), noise(2, 6, 5))
    add("frozen", "input overwritten behind a frozen weight", lambda: Custom(
        lambda m, x: m.head(_overwrite(m, m.first(x))), first=nn.Linear(4, 5), shift=only("bias", nn.Linear(5, 5)),
        head=nn.Linear(5, 3)), noise(4), may_refuse=True)


def _gated(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        gate = torch.sigmoid(m.gate(x))
    return torch.tanh(m.used(x)) * gate


def _overwrite(m: Any, x: Tensor) -> Tensor:
    shifted = m.shift(x)
    x.relu_()
    return torch.tanh(shifted) + x


def _wiring() -> None:
    def conv(inputs: int = 3, outputs: int = 3, **options: Any) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, padding=1, **options)

    def image(run: Callable[[Any, Any], Tensor], width: int = 90, **parts: Any) -> Callable[[], nn.Module]:
        return lambda: Custom(lambda m, x: m.head(m.body(x).flatten(1)), body=Custom(run, **copy.deepcopy(parts)),
                              head=nn.Linear(width, 3))

    pictures = noise(3, 6, 5)
    add("wiring", "a convolution used twice", image(lambda m, x: m.c(torch.tanh(m.c(x))), c=conv()), pictures)
    add("wiring", "a convolution used at two sizes", image(
        lambda m, x: torch.tanh(m.c(x)) + F.interpolate(m.c(F.avg_pool2d(x, 2)), size=(6, 5)), c=conv()), pictures)
    add("wiring", "a norm used twice", image(
        lambda m, x: m.n(torch.tanh(m.c(m.n(x)))), n=nn.GroupNorm(3, 3), c=conv()), pictures)
    add("wiring", "a module used three times, part of it frozen", image(
        lambda m, x: m.b(m.b(m.b(x))), b=nn.Sequential(conv(), frozen(nn.GroupNorm(3, 3)), nn.Tanh())), pictures)
    add("wiring", "Linear used on tokens and on their mean", lambda: Custom(
        lambda m, x: m.head(torch.tanh(m.mix(torch.tanh(m.mix(x)).mean(1)))), mix=nn.Linear(4, 4),
        head=nn.Linear(4, 3)), noise(3, 4))
    add("wiring", "tied weights of two convolutions", _tied, pictures)
    add("wiring", "one module under two names", _two_names, pictures)
    add("wiring", "registered in another order than run", lambda: Custom(
        lambda m, x: m.head(torch.tanh(m.last(torch.tanh(m.first(x)))).flatten(1)),
        head=nn.Linear(90, 3), last=conv(), first=conv()), pictures)
    add("wiring", "in-place ReLU", image(lambda m, x: m.b(x), b=nn.Sequential(
        conv(), nn.ReLU(inplace=True), nn.GroupNorm(3, 3), nn.LeakyReLU(inplace=True), conv())),
        pictures)
    add("wiring", "in-place addition of a residual", image(
        _add_in_place, c=conv(), n=nn.GroupNorm(3, 3)), pictures)
    add("wiring", "in-place change of a part of a layer's output", image(
        _change_part, c=conv(), d=conv()), pictures)
    add("wiring", "written into a buffer by slices", image(_by_slices, c=conv(3, 2), d=conv(3, 1)), pictures)
    add("wiring", "in-place after Linear, on a view", lambda: Custom(
        lambda m, x: m.head(m.mix(x).transpose(1, 2).relu_().flatten(1)), mix=nn.Linear(4, 4),
        head=nn.Linear(12, 3)), noise(3, 4))
    add("wiring", "residual", image(
        lambda m, x: x + m.c(torch.tanh(x + m.c(x) + m.d(x))), c=conv(), d=conv()), pictures)
    add("wiring", "layer called by keyword", image(lambda m, x: torch.tanh(m.c(input=x)), c=conv()), pictures)
    add("wiring", "layer's forward called directly", image(
        lambda m, x: torch.tanh(m.c.forward(x)), c=conv()), pictures)
    add("wiring", "a layer with a forward hook", _hooked, pictures)
    add("wiring", "functional use of a layer's weight", image(
        lambda m, x: F.conv2d(torch.tanh(m.c(x)), m.c.weight, padding=1), c=conv()), pictures)
    add("wiring", "channels-last pictures", image(lambda m, x: m.b(x), b=nn.Sequential(
        conv(3, 4), nn.GroupNorm(2, 4), nn.ReLU(), conv(4, 3))),
        lambda number: noise(3, 6, 5)(number).contiguous(memory_format=torch.channels_last))
    add("wiring", "channels-last network", lambda: nn.Sequential(
        conv(3, 4), nn.GroupNorm(2, 4), nn.ReLU(), conv(4, 3), nn.ConvTranspose2d(3, 2, 2), nn.Flatten(),
        nn.Linear(84, 3)).to(memory_format=torch.channels_last), pictures)  # type: ignore[call-overload]
    add("wiring", "channels-last network and pictures", lambda: nn.Sequential(
        conv(3, 4, bias=False), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Conv2d(4, 3, 2, stride=2),
        nn.Flatten(), nn.Linear(18, 3)).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        lambda number: noise(3, 6, 5)(number).contiguous(memory_format=torch.channels_last))
    add("wiring", "channels-last volumes", lambda: nn.Sequential(
        nn.Conv3d(2, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)),
        lambda number: noise(2, 4, 6, 5)(number).contiguous(memory_format=torch.channels_last_3d))
    add("wiring", "pictures that are a strided view", image(lambda m, x: m.c(x), c=conv()),
        lambda number: noise(5, 6, 6)(number).transpose(1, 3)[:, ::2])
    add("wiring", "a norm reads pictures that are a strided view", image(
        lambda m, x: m.n(x), n=nn.GroupNorm(3, 3)),
        lambda number: noise(5, 6, 6)(number).transpose(1, 3)[:, ::2])
    add("wiring", "a norm reads the transposed output of a layer", image(
        lambda m, x: m.n(m.c(x).transpose(2, 3)), n=nn.InstanceNorm2d(3, affine=True), c=conv()), pictures)
    add("wiring", "a norm reads pictures that are one picture expanded", image(
        lambda m, x: m.n(x), n=nn.GroupNorm(1, 3)),
        lambda number: noise(3, 6, 5)(1).expand(number, -1, -1, -1))
    add("wiring", "pictures that are one picture expanded", image(lambda m, x: m.c(x), c=conv()),
        lambda number: noise(3, 6, 5)(1).expand(number, -1, -1, -1))
    add("folded", "slices folded into the batch", lambda: Custom(
        lambda m, x: m.head(torch.tanh(m.n(m.c(x.flatten(0, 1)))).view(len(x), 4, -1).amax(1)),
        c=conv(2, 2), n=nn.GroupNorm(1, 2), head=nn.Linear(60, 3)), noise(4, 2, 6, 5))
    add("folded", "tokens folded into the batch", lambda: Custom(
        lambda m, x: m.head(torch.tanh(m.mix(x.reshape(-1, 4))).view(len(x), -1)), mix=nn.Linear(4, 4),
        head=nn.Linear(12, 3)), noise(3, 4))
    add("folded", "two views behind one another", lambda: Custom(
        lambda m, x: m.head(torch.stack(torch.tanh(m.c(torch.cat([x, x.flip(-1)]))).chunk(2)).prod(0).flatten(1)),
        c=conv(), head=nn.Linear(90, 3)), pictures, may_refuse=True)
    add("folded", "sequence first, as long as there are pictures", lambda: Custom(
        lambda m, x: m.head(torch.tanh(m.mix(x.transpose(0, 1))).mean(0)), mix=nn.Linear(4, 4),
        head=nn.Linear(4, 3)), noise(6, 4))
    add("folded", "layer norm, sequence first, as long as there are pictures", lambda: Custom(
        lambda m, x: m.head((m.n(x.transpose(0, 1)) ** 2).mean(0)), n=nn.LayerNorm(4),
        head=nn.Linear(4, 3)), noise(6, 4))
    add("folded", "the batch turned over and back", image(
        lambda m, x: torch.tanh(m.c(x.flip(0))).flip(0), c=conv()), pictures, may_refuse=True)
    add("folded", "the batch in two pieces", image(
        lambda m, x: torch.cat([torch.tanh(m.c(part)) for part in x.split(2)]), c=conv()),
        pictures, may_refuse=True)
    add("folded", "the batch in pieces of four", image(
        lambda m, x: torch.cat([torch.tanh(m.c(part)) for part in x.split(4)]), c=conv()),
        pictures, may_refuse=True)
    add("folded", "a large batch turned over and back", image(
        lambda m, x: torch.tanh(m.c(x.flip(0))).flip(0) if len(x) > 4 else torch.tanh(m.c(x)), c=conv()),
        pictures, may_refuse=True)
    add("folded", "tokens turned over and back", lambda: Custom(
        lambda m, x: m.head(torch.tanh(m.e(x.flip(0))).flip(0).mean(1)), e=nn.Embedding(7, 4),
        head=nn.Linear(4, 3)), tokens(5), may_refuse=True)
    add("folded", "sorted by content and back", image(_sorted, c=conv()), pictures, may_refuse=True)
    add("folded", "each picture to one of two experts", image(
        _experts, c=conv(), d=conv()), pictures, may_refuse=True)
    add("folded", "picture by picture", image(
        lambda m, x: torch.stack([torch.tanh(m.c(one)) for one in x]), c=conv()), pictures, may_refuse=True)
    add("folded", "gradient checkpointing", image(
        lambda m, x: checkpoint(m.b, x, use_reentrant=False), b=nn.Sequential(conv(), nn.Tanh(), conv())),
        pictures, may_refuse=True)


# fmt: on
def _tied() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(), nn.Linear(90, 3)
    )
    model[2].weight = model[0].weight
    return model


def _two_names() -> nn.Module:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Flatten(), nn.Linear(90, 3))


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    model[3].register_forward_pre_hook(lambda module, inputs: (inputs[0] ** 2,))
    return model


def _add_in_place(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.c(x)
    y += x
    z: Tensor = m.n(y)
    z += m.c(torch.tanh(z))
    return z


def _change_part(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.c(x)
    y[:, 0] *= 2
    y[:, 1:].relu_()
    z: Tensor = m.d(y)
    return z


def _by_slices(m: Any, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :2] = torch.tanh(m.c(x))
    out[:, 2:] = m.d(x)
    return out


def _sorted(m: Any, x: Tensor) -> Tensor:
    order = x.mean(dim=(1, 2, 3)).argsort()
    return torch.tanh(m.c(x[order]))[order.argsort()]


def _experts(m: Any, x: Tensor) -> Tensor:
    bright = x.mean(dim=(1, 2, 3)) > 0
    out = torch.zeros_like(x)
    out[bright] = torch.tanh(m.c(x[bright]))
    out[~bright] = torch.tanh(m.d(x[~bright]))
    return out


class UNet(nn.Module):
    """One level down and up again, with a transposed convolution and a skip connection."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True))
        self.bottom = nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.InstanceNorm2d(6, affine=True), nn.PReLU()
        )
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)
        self.out = nn.Conv2d(8, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        outputs: Tensor = self.out(torch.cat([skip, self.up(self.bottom(skip))], dim=1))
        return outputs


class ViT(nn.Module):
    """Patches, a class token, positions, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = parameter(1, 1, 8), parameter(1, 7, 8)
        self.patches = nn.Conv2d(2, 8, 2, stride=2)
        self.blocks = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
                for _ in range(2)
            ]
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        sequence = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(sequence))[:, 0])
        return logits


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, width), nn.ReLU(inplace=False), nn.Conv2d(width, 2, 3, padding=1, bias=False)
            )
            for width in (2, 4, 6)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        logits: Tensor = self.head(torch.cat(features, dim=1).relu_().mean(dim=(2, 3)))
        return logits


class ConvNeXt(nn.Module):
    """Depthwise convolution, then layers that see channels last, then a scale of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(4, 4, 5, padding=2, groups=4), nn.LayerNorm(4)
        self.wide, self.narrow, self.scale = nn.Linear(4, 8), nn.Linear(8, 4), parameter(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))) * self.scale
        logits: Tensor = self.head((x + y.permute(0, 3, 1, 2)).mean(dim=(2, 3)))
        return logits


class Residual(nn.Module):
    """The block of a ResNet, with a projected shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), nn.GroupNorm(2, 4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4)
        self.shortcut = nn.Sequential(nn.Conv2d(2, 4, 1, stride=2, bias=False), nn.GroupNorm(2, 4))
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += self.shortcut(x)
        logits: Tensor = self.head(self.relu(out).mean(dim=(2, 3)))
        return logits


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


# fmt: off
def _networks() -> None:
    pictures = noise(2, 6, 4)
    add("network", "small CNN", small_cnn, pictures)
    add("network", "U-Net, per-pixel cross-entropy", lambda: UNet(3), pictures, classes(6, 4), pixel_cross_entropy)
    add("network", "U-Net, soft Dice", lambda: UNet(1), pictures, findings(1, 6, 4), soft_dice)
    add("network", "ViT", ViT, pictures)
    add("network", "DenseNet block", Dense, pictures)
    add("network", "ConvNeXt block", ConvNeXt, noise(4, 6, 5))
    add("network", "ResNet block", Residual, pictures)
    add("network", "3-D CNN", lambda: nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.InstanceNorm3d(3, affine=True), nn.ReLU(inplace=True), nn.MaxPool3d(2),
        nn.Conv3d(3, 4, 2), nn.PReLU(4), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)),
        noise(1, 4, 6, 5))
    add("network", "3-D U-Net's up path", lambda: nn.Sequential(
        nn.Conv3d(1, 3, 2, stride=2), nn.LeakyReLU(), nn.ConvTranspose3d(3, 2, 2, stride=2), nn.GroupNorm(1, 2),
        nn.Conv3d(2, 3, 1)), noise(1, 4, 6, 2), classes(4, 6, 2), pixel_cross_entropy)
    add("loss", "binary cross-entropy of several findings", small_cnn, pictures, findings(3), binary_cross_entropy)
    add("loss", "weighted, smoothed cross-entropy", small_cnn, pictures, classes(), smoothed_cross_entropy)
    add("loss", "squared error", small_cnn, pictures, noise(3), squared_error)
    add("loss", "loss that reads one logit only", small_cnn, pictures, classes(),
        lambda logits, labels: logits.gather(1, labels[:, None])[:, 0].exp())
# fmt: on


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)  # some cases draw the values of their parts here
    for _fill in (_linear, _convolutions, _transposed, _norms, _tokens, _parameters, _wiring, _networks):
        _fill()
