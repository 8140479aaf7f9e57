"""What one use of trained parameters owes to each patient, by family of layers."""

from wardround.per_patient.layers.base import Fold, Room, Use, in_full_precision, squared, widened
from wardround.per_patient.layers.convolution import Convolution
from wardround.per_patient.layers.elementwise import Embedding, Scale, Shift, Slope
from wardround.per_patient.layers.linear import Linear
from wardround.per_patient.layers.norms import GroupNorm, LayerNorm

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
