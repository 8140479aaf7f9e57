"""What one use of trained parameters owes to each patient, by family of layers."""

from wardround.privacy.uses.base import Fold, Room, Use, in_full_precision, squared, widened
from wardround.privacy.uses.convolution import Convolution
from wardround.privacy.uses.elementwise import Embedding, Scale, Shift, Slope
from wardround.privacy.uses.linear import Linear
from wardround.privacy.uses.norms import GroupNorm, LayerNorm

__all__ = [
    "Convolution",
    "Embedding",
    "Fold",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "Room",
    "Scale",
    "Shift",
    "Slope",
    "Use",
    "in_full_precision",
    "squared",
    "widened",
]
