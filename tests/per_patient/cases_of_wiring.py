"""Cases of parameters outside layers, of layers used twice, in place or not at all, and of batches that are folded."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from tests.per_patient.case import Custom, add, frozen, noise, only, parameter, tokens
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


# fmt: off
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


def add_wiring() -> None:
    """Adds them to `CASES`."""
    for fill in (_parameters, _wiring):
        fill()
