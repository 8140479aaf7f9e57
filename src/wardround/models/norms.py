"""Group norms, which normalise one picture by itself: a batch norm would let the pictures of a batch meet."""

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
