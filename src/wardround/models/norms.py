"""Group norms, which normalise one picture by itself.

A batch norm would let the pictures of a batch meet, so no network here has one. MONAI's networks are asked for
group or instance norms by their constructors' `norm`; its ResNet hands that to the stem alone (MONAI 1.4 to 1.6),
so the batch norms of its blocks are replaced after it is built. `wardround.per_patient.surgery` does the same, with
more choices and a report, for networks that come from elsewhere; rooms do not share code across that wall.
"""

import torch
from torch import nn

MOST_GROUPS = 32
"""Wu and He 2018, https://arxiv.org/abs/1803.08494, section 3.2."""

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm, nn.modules.batchnorm._BatchNorm)
"""Layers whose scale and offset are trained by `train="norms"`."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Returns a group norm with the largest number of groups, up to 32, that divides the channels.

    >>> group_norm(64).num_groups, group_norm(48).num_groups, group_norm(7).num_groups
    (32, 24, 7)
    """
    groups = max(g for g in range(1, min(MOST_GROUPS, channels) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def group_normalised(network: nn.Module) -> nn.Module:
    """Returns the same network, its batch norms replaced in place by group norms of the same scale and offset.

    Weights keep their values, dtype and device (also torch's `meta` device); running statistics are dropped.
    """
    for name, module in list(network.named_modules()):
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        norm = group_norm(module.num_features)
        norm.eps, norm.affine = module.eps, module.affine
        for key in ("weight", "bias"):
            old = getattr(module, key)
            with torch.no_grad():
                new = None if old is None else nn.Parameter(old.detach().clone(), old.requires_grad)
            setattr(norm, key, new)
        if not name:
            return norm.train(module.training)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, norm.train(module.training))
    return network
