"""Gradient inversion: pictures and rows of features from a gradient that an attacker sees.

Two attacks. The optimisation of Geiping et al. 2020 (https://arxiv.org/abs/2003.14053, equation 4): pictures whose
gradient has the smallest cosine distance to the seen one, plus total variation, by signed Adam. And the exact inversion
of a linear layer (Phong et al. 2018, https://doi.org/10.1109/TIFS.2017.2787987, section 3): for one picture, the
gradient of a class's weights divided by the gradient of its bias is the layer's input.

An attack that fails proves nothing: a better one may succeed. Only epsilon bounds all attacks.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wardround.models.network import FULL_SCALE, Network
from wardround.per_patient.batch import Loss
from wardround.types import Pictures, Progress, Vector

Values = npt.NDArray[np.float64]

STEPS = 800
"""The most steps of one attack."""
_RATE, _VARIATION = 0.03, 0.2
_START = 0.01
_FALLS = (0.6, 0.8, 0.95)
"""Parts of an attack after which the step is a fifth."""


def head_of(network: Network) -> nn.Linear | None:
    """Returns the last layer of a network where it is linear and trained, else None."""
    layers = [layer for layer in network.trained.modules() if next(layer.children(), None) is None]
    heads = [layer for layer in layers if any(p.requires_grad for p in layer.parameters())]
    return heads[-1] if heads and isinstance(heads[-1], nn.Linear) else None


def bias_of(head: nn.Linear) -> Tensor | None:
    """Returns the bias of a layer, (class,), where it has one."""
    return head.bias


def head_inputs(network: Network, head: nn.Linear, inputs: Tensor) -> Tensor:
    """Returns the inputs of the last layer, (picture, feature), for inputs of the trained part, (picture, ...)."""
    kept: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    try:
        network.trained(inputs)
    finally:
        hook.remove()
    return kept[0]


def row_of(network: Network, head: nn.Linear, gradient: Vector) -> Values:
    """Returns the input of the last layer that a gradient, (parameter,), gives away, (feature,), up to its length.

    For one picture it is exact. For several it is their mean, weighted by how wrong the model is about each. A head
    without a bias reads rows that end in a positive constant (`wardround.models.networks.features`), which has the
    place of the bias.
    """
    start, found = 0, dict[Tensor, Values]()
    for parameter in (p for p in network.trained.parameters() if p.requires_grad):
        found[parameter] = gradient[start : start + parameter.numel()].reshape(parameter.shape).astype(np.float64)
        start += parameter.numel()
    weights, layer_bias = found[head.weight], bias_of(head)
    bias = weights[:, -1] if layer_bias is None else found[layer_bias]
    surest = int(np.argmax(np.abs(bias)))
    return np.asarray(weights[surest] * np.sign(bias[surest]))


def is_differentiable(network: Network, shape: tuple[int, ...]) -> bool:
    """Returns whether the encoding of pictures, (channel, height, width), follows small changes of them."""
    picture = torch.rand(1, *shape).mul_(FULL_SCALE).requires_grad_()
    return not network.encode_once and len(shape) == 3 and bool(network.encode(picture).requires_grad)


def reconstruct(
    network: Network, loss: Loss, target: Vector, labels: Tensor, shape: tuple[int, ...], *, seconds: float,
    progress: Progress,
) -> Pictures:  # fmt: skip
    """Returns pictures whose gradient is like a target, (picture, channel, height, width), uint8.

    Args:
        network: with the weights that the coordinator handed out.
        loss: of each picture.
        target: a gradient, or a sum of several, (parameter,); its length does not matter.
        labels: that the attacker tries, one a picture; the true ones are the attacker's best case.
        shape: of one picture.
        seconds: the attack ends after this many, wherever it is; the steps shrink by the same clock.
        progress: called with steps done and in all.
    """
    seen = torch.from_numpy(target)
    return _descend(lambda pictures: _gradient(network, loss, pictures, labels), seen, (len(labels), *shape),
                    seconds, progress)  # fmt: skip


def picture_of_row(
    network: Network, head: nn.Linear, row: Values, shape: tuple[int, ...], *, seconds: float, progress: Progress,
) -> Pictures:  # fmt: skip
    """Returns a picture that gives the last layer an input like `row`, (1, channel, height, width), uint8."""
    seen = torch.from_numpy(row).to(torch.float32)
    return _descend(lambda pictures: head_inputs(network, head, network.encode(pictures))[0], seen, (1, *shape),
                    seconds, progress)  # fmt: skip


def _gradient(network: Network, loss: Loss, pictures: Tensor, labels: Tensor) -> Tensor:
    parameters = [p for p in network.trained.parameters() if p.requires_grad]
    total = loss(network.trained(network.encode(pictures)), labels).sum()
    return torch.cat([part.flatten() for part in torch.autograd.grad(total, parameters, create_graph=True)])


def _descend(
    seen_of: Callable[[Tensor], Tensor], seen: Tensor, shape: tuple[int, ...], seconds: float, progress: Progress,
) -> Pictures:  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    values = (0.5 + _START * torch.randn(shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([values], lr=_RATE)
    started = time.monotonic()
    for step in range(STEPS):
        done = max(step / STEPS, (time.monotonic() - started) / seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.2 ** sum(done >= fall for fall in _FALLS)
        optimizer.zero_grad()
        distance = 1 - torch.cosine_similarity(seen_of(values * FULL_SCALE), seen, dim=0)
        (distance + _VARIATION * _variation(values)).backward()  # type: ignore[no-untyped-call]  # torch's
        assert values.grad is not None, "a picture moves its gradient"
        values.grad.sign_()
        optimizer.step()
        with torch.no_grad():
            values.clamp_(0, 1)
        progress(step + 1, STEPS)
    progress(STEPS, STEPS)
    found: Pictures = np.rint(values.detach().numpy() * FULL_SCALE).astype(np.uint8)
    return found


def _variation(values: Tensor) -> Tensor:
    across, down = values[..., 1:] - values[..., :-1], values[..., 1:, :] - values[..., :-1, :]
    return across.abs().mean() + down.abs().mean()


def levelled(pictures: Pictures, original: Pictures) -> Pictures:
    """Returns pictures with the mean and spread of one original, uint8: networks may standardise both away."""
    values = pictures.astype(np.float64)
    axes = tuple(range(1, values.ndim))
    centred = values - values.mean(axis=axes, keepdims=True)
    unit = centred / np.maximum(centred.std(axis=axes, keepdims=True), 1e-9)
    levels: Pictures = np.clip(np.rint(unit * original.std() + original.mean()), 0, FULL_SCALE).astype(np.uint8)
    return levels


def peak_signal_to_noise(first: Pictures, second: Pictures) -> float:
    """Returns the PSNR of two pictures in dB, at most 99.

    >>> peak_signal_to_noise(np.zeros((1, 2, 2), np.uint8), np.full((1, 2, 2), 255, np.uint8))
    0.0
    """
    error = float(((first.astype(np.float64) - second.astype(np.float64)) ** 2).mean())
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(FULL_SCALE**2 / error) + 0.0)


def rank_of(own: int, found: Values, rows: Values, owner: npt.NDArray[np.int64]) -> int:
    """Returns the place of a patient among all, by the distance of what was found to each one's nearest row; 1 is best.

    Args:
        own: the patient that was attacked.
        found: what the attack gave, (value,).
        rows: what the same encoding gives of every picture, (picture, value).
        owner: patient of each, (picture,).
    """
    distances = ((rows - found) ** 2).sum(axis=1)
    nearest = np.full(int(owner.max()) + 1, np.inf)
    np.minimum.at(nearest, owner, distances)
    return 1 + int((nearest < nearest[own]).sum())


def unit_rows(values: Values) -> Values:
    """Returns rows brought to norm one, (row, value); zeros stay zeros."""
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12))
