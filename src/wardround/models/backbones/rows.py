"""Pictures to rows of norm one: a frozen backbone's inner activations, standardised by public constants.

Each number has its public mean taken away and is divided by its public deviation; each block of numbers is brought to
norm one; the blocks together are brought to norm one; a constant is appended; the row is brought to norm one again.
Means and deviations are of pictures that are in no study (`benchmarks/public_moments.py` makes them): those of the
study's own pictures would be a release. A row follows from its own picture alone, in every bit: pictures go through
the network one at a time, and each on one thread.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.errors import ModelError
from wardround.models.backbones.efficientnet_lite import SIZES
from wardround.models.backbones.names import MOMENTS_SHA256, SIDE, WEIGHTS_SHA256, Backbone
from wardround.models.backbones.source import efficientnet_lite0
from wardround.models.network import Constants, Encoder, Form
from wardround.models.networks.features import BIAS
from wardround.models.weights import parsed, read_weights
from wardround.per_patient.process import one_thread

MOMENTS = Path(__file__).with_name("moments.safetensors")
CENTRE = 127.0
SCALE = 128.0
"""Values reach the backbone as (pixel - 127) / 128, as it was trained."""

_NORM_FLOOR = 1e-12
_WITHIN = 1e-5
"""Float32 sums of 4,033 squares differ from 1 by less."""


def blocks_of(backbone: Backbone) -> int:
    """Returns the number of blocks of features that a backbone's rows have."""
    return 2 if backbone.name == "efficientnet-lite0" else len(SIZES)


def num_features(backbone: Backbone) -> int:
    """Returns the length of a row, the constant included.

    >>> num_features(Backbone("efficientnet-lite0")), num_features(Backbone("efficientnet-lite0-all"))
    (2433, 4033)
    """
    return sum(SIZES[: blocks_of(backbone)]) + 1


class BackboneRows(Encoder):
    """Pictures to rows of norm one, see the module.

    Args:
        backbone: the network and the set of constants.
        form: of the pictures.

    Raises:
        ModelError: pictures of another size than 224 x 224 (code `model-image-size`), or neither grey nor in colour.
        MissingExtra: the package of the weights is not installed.
    """

    def __init__(self, backbone: Backbone, form: Form) -> None:
        super().__init__()
        if form.size != (SIDE, SIDE) or form.channels not in (1, 3):
            got = f"{' x '.join(map(str, form.size))} with channels = {form.channels}"
            raise ModelError(
                f'`[data] image_size` must be {SIDE}, of grey or colour pictures, for encoder = "{backbone.name}", got '
                f"{got}; set image_size = {SIDE}.",
                code="model-image-size",
            )
        self.backbone, self.channels = backbone, form.channels
        self.network = efficientnet_lite0()
        moments(backbone, form.channels)  # refused here, if at all

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps pictures (picture, channel, 224, 224), uint8, to rows (picture, feature), float32.

        An exported graph has all pictures in one batch, and equals this to the rounding of single precision.
        """
        if torch.compiler.is_exporting():
            return self._rows(pictures)
        threads = min(torch.get_num_threads(), len(pictures))
        if threads == 0:
            return torch.zeros(0, num_features(self.backbone))
        if torch.get_num_threads() == 1:
            return torch.cat([self._row(picture) for picture in pictures])
        # With several threads a convolution of one picture would be cut and summed in another way.
        with one_thread(), ThreadPoolExecutor(threads, initializer=torch.get_num_threads) as pool:
            return torch.cat(list(pool.map(self._row, pictures)))

    def constants(self) -> Constants:
        """Returns the public numbers of a row, and the hashes of those that are in files."""
        return {
            "kind": "backbone-rows", "centre": CENTRE, "scale": SCALE, "bias": BIAS,
            "backbone": self.backbone.name, "backbone_sha256": WEIGHTS_SHA256,
            "moments": self.backbone.moments, "moments_sha256": MOMENTS_SHA256,
        }  # fmt: skip

    def _row(self, picture: Tensor) -> Tensor:
        with torch.no_grad():
            row = self._rows(picture[None])
        assert abs(float(row.square().sum()) - 1) < _WITHIN, "a row has norm one"
        return row

    def _rows(self, pictures: Tensor) -> Tensor:
        activations = torch.cat(self.network(values_of(pictures), blocks_of(self.backbone)), dim=1)
        return row_of(activations, self.backbone, self.channels)


def values_of(pictures: Tensor) -> Tensor:
    """Maps pictures (picture, channel, 224, 224), uint8, to the backbone's input, 3 channels; grey is repeated."""
    values = (pictures.to(torch.float32) - CENTRE) / SCALE
    return values.expand(-1, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)


def row_of(activations: Tensor, backbone: Backbone, channels: int) -> Tensor:
    """Returns rows of norm one, (picture, feature), from all or the first blocks of activations, (picture, number)."""
    sizes = list(SIZES[: blocks_of(backbone)])
    mean, deviation = (part[: sum(sizes)] for part in moments(backbone, channels))
    standardised = (activations[:, : sum(sizes)] - mean) / deviation
    blocks = [_unit(block) for block in torch.split(standardised, sizes, dim=1)]
    return _unit(F.pad(_unit(torch.cat(blocks, dim=1)), (0, 1), value=BIAS))


def moments(backbone: Backbone, channels: int) -> tuple[Tensor, Tensor]:
    """Returns the public mean and deviation of all 4,032 numbers, each (feature,).

    The generated pictures have a set for grey and one for colour; the radiographs are grey.
    """
    of = "chest-xray" if backbone.moments == "chest-xray" else f"generated-{'grey' if channels == 1 else 'colour'}"
    found = _moments()
    return found[f"{of}/mean"], found[f"{of}/deviation"]


@cache
def _moments() -> dict[str, Tensor]:
    content = read_weights(MOMENTS)
    if (found := hashlib.sha256(content).hexdigest()) != MOMENTS_SHA256:
        raise ModelError(
            f"{MOMENTS.name} of wardround must have the SHA-256 {MOMENTS_SHA256[:12]}..., got {found[:12]}...; install "
            "wardround again.",
            code="model-moments-hash",
        )
    return parsed(content, MOMENTS)


def _unit(rows: Tensor) -> Tensor:
    """Returns rows divided by their norms; a row of zeros stays one."""
    return rows / torch.sqrt(rows.square().sum(dim=1, keepdim=True) + _NORM_FLOOR)
