"""ViT-tiny of MONAI, patches of 16x16 pixels.

Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, at the size of DeiT-tiny (Touvron et al. 2021,
https://arxiv.org/abs/2012.12877, table 1): 12 blocks, 3 heads, 192 numbers a token. For 224 pixels, 3 channels and
1,000 classes the published network has 5,717,416 parameters; this one has 192 fewer, because MONAI adds no
position to the class token: it is one trained row beside another, and under private training each row is noised.

A norm for cross-attention that MONAI makes and never runs is taken out, for the same reason. Layer norms see one
token, so one picture never sees another. Names are MONAI's under `vit.`, the head is `classifier`.
"""

from collections import OrderedDict

import torch
from torch import nn

from wardround.models.form import Form
from wardround.models.networks.extras import optional

PATCH = 16
SMALLEST_SIDE = 16

HEAD = "classifier"

DEVIATION = 0.02
"""Of the starting values of all linear layers, the class token and the positions (DeiT)."""

_TOKEN = 192


class First(nn.Module):
    """The class token of what MONAI's network returns: the pair of it and the hidden states of all blocks."""

    def forward(self, outputs: tuple[torch.Tensor, list[torch.Tensor]]) -> torch.Tensor:
        """To (picture, feature)."""
        return outputs[0]


def vit_tiny(form: Form) -> nn.Sequential:
    """`vit` up to the normalised class token, then one linear `classifier`."""
    optional("einops")
    network = optional("monai.networks.nets.vit").ViT(
        in_channels=form.channels,
        img_size=form.size,
        patch_size=(PATCH, PATCH),
        hidden_size=_TOKEN,
        mlp_dim=4 * _TOKEN,
        num_layers=12,
        num_heads=3,
        classification=True,
        num_classes=form.num_classes,
        post_activation=None,
        qkv_bias=True,
        spatial_dims=2,
    )
    for block in network.blocks:
        block.norm_cross_attn = block.cross_attn = nn.Identity()
    network.classification_head = nn.Identity()
    head = nn.Linear(_TOKEN, form.num_classes)
    return nn.Sequential(OrderedDict(vit=network, token=First(), classifier=head))
