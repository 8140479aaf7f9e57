"""Cases of single layers, each between a trained part before it and a head."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from tests.per_patient.case import Custom, add, noise, only, tokens
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


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


def with_statistics(norm: nn.Module) -> nn.Module:
    """A normalisation that has seen pictures, in eval mode."""
    for name, buffer in norm.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name == "running_var" else 0.0))
    return norm.eval()


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


def add_layers() -> None:
    """Adds them to `CASES`; some draw the values of their parts here."""
    for fill in (_linear, _convolutions, _transposed, _norms, _tokens):
        fill()
