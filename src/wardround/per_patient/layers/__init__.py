"""Per-patient gradients, ghost norms and weighted sums of one use of trained parameters, by family of layers."""

from wardround.per_patient.layers.base import Buffers, Fold, Use, in_full_precision, squared, widened
from wardround.per_patient.layers.convolution import Convolution
from wardround.per_patient.layers.elementwise import Embedding, Scale, Shift, Slope
from wardround.per_patient.layers.linear import Linear
from wardround.per_patient.layers.norms import GroupNorm, LayerNorm

__all__ = [
    "Buffers",
    "Convolution",
    "Embedding",
    "Fold",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "Scale",
    "Shift",
    "Slope",
    "Use",
    "in_full_precision",
    "squared",
    "widened",
]
