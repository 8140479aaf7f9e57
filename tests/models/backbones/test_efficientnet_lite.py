"""The folded network against the published one, run layer by layer with its batch norms."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from tests.backbone import needs_backbone

from wardround.models.backbones.source import efficientnet_lite0, from_package

# Kernel, stride, expansion and blocks of each stage: Tan and Le 2019, table 1.
TABLE = [(3, 1, 1, 1), (3, 2, 6, 2), (5, 2, 6, 2), (3, 2, 6, 3), (5, 1, 6, 3), (5, 2, 6, 4), (3, 1, 6, 1)]


def same(maps, kernel, stride):
    """Pads as TensorFlow does: so much that ceil(size / stride) windows fit, the odd pixel after the map."""
    for axis in (3, 2):
        size = maps.shape[axis]
        missing = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        sides = (missing // 2, missing - missing // 2)
        maps = F.pad(maps, sides if axis == 3 else (0, 0, *sides))
    return maps


def published(tensors, values):
    """Activations of the unfolded network in evaluation mode, by the package's names."""

    def layer(maps, convolution, norm, *, kernel=1, stride=1, groups=1, active=True):
        maps = F.conv2d(same(maps, kernel, stride), tensors[f"{convolution}.weight"], stride=stride, groups=groups)
        mean, variance, scale, shift = (
            tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        maps = F.batch_norm(maps, mean, variance, scale, shift, training=False, eps=1e-3)
        return F.relu6(maps) if active else maps

    maps, number, stages = layer(values, "_conv_stem", "_bn0", kernel=3, stride=2), 0, []
    for kernel, stride, expansion, blocks in TABLE:
        for position in range(blocks):
            before, name = maps, f"_blocks.{number}"
            if expansion > 1:
                maps = layer(maps, f"{name}._expand_conv", f"{name}._bn0")
            maps = layer(
                maps, f"{name}._depthwise_conv", f"{name}._bn1",
                kernel=kernel, stride=1 if position else stride, groups=maps.shape[1],
            )  # fmt: skip
            maps = layer(maps, f"{name}._project_conv", f"{name}._bn2", active=False)
            maps = maps + before if position else maps
            number += 1
        stages.append(maps)
    return stages, layer(maps, "_conv_head", "_bn1")


def averaged(maps, starts, width):
    """Means over square windows that start at these rows and columns, the slowest index the channel."""
    cells = [maps[:, :, y : y + width, x : x + width].mean(dim=(2, 3)) for y in starts for x in starts]
    return torch.stack(cells, dim=2).flatten(1)


@needs_backbone
def test_activations_are_those_of_the_published_network():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand((1, 3, 224, 224), generator=generator) * 2 - 1
    with torch.no_grad():
        stages, head = published(from_package(), values)
        found = efficientnet_lite0()(values)
        inner = efficientnet_lite0()(values, 2)
    expected = [
        averaged(stages[2], range(0, 28, 7), 7), averaged(stages[4], range(0, 12, 3), 5),
        stages[6].mean(dim=(2, 3)), head.mean(dim=(2, 3)),
    ]  # fmt: skip
    assert [tuple(block.shape) for block in found] == [(1, 640), (1, 1792), (1, 320), (1, 1280)]
    for block, golden in zip(found, expected, strict=True):
        torch.testing.assert_close(block, golden, rtol=1e-4, atol=1e-4)
        assert golden.std() > 0.01
    assert len(inner) == 2
    assert all(torch.equal(part, whole) for part, whole in zip(inner, found, strict=False))


@needs_backbone
def test_nothing_of_the_network_is_trained_or_kept_between_pictures():
    network = efficientnet_lite0()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not list(network.buffers())
    before = [parameter.clone() for parameter in network.parameters()]
    values = torch.from_numpy(np.random.default_rng(1).random((1, 3, 224, 224), dtype=np.float32))
    with torch.no_grad():
        first, second = network.train()(values), network.eval()(values)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))
