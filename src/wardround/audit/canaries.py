"""Virtual patients for an audit: one whose gradient is C e_j after the clip, for each audit coordinate j.

A linear network with one output and a loss equal to it has the picture's encoding as its gradient, at all weights. Each
virtual patient has one picture with one bright pixel, encoded ten times as long as the clipping norm, and at
least as long as one: cut to norm one, it is the patient's mean row (`wardround.training.centring`). The gradient is the
same at every centre. The study's own clip, grid, noise shares, masks, ledger and strategy then handle the patients like
any others.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wardround.images.findings import Findings
from wardround.images.patients import ImageSet
from wardround.models.network import Constants, Encoder, Network, Parts
from wardround.randomness import names_of
from wardround.simulation.dealing import Split
from wardround.simulation.materials import Hospitals, Materials
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Workbench
from wardround.types import HospitalName, Persons, Vector

_BEYOND = 10.0
"""Norm of a virtual patient's gradient before the clip, in clipping norms."""
_MEMORY_BYTES = 1 << 28


class OneBright(Encoder):
    """Pictures as rows: the bright pixel becomes `length`, every other pixel 0."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.length = length

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps pictures (picture, 1, height, width), uint8, to rows (picture, pixel)."""
        return pictures.flatten(1).to(torch.float32) * (self.length / 255)

    def constants(self) -> Constants:
        """See `Encoder`."""
        return {"kind": "audit", "length": self.length}


class _Uncentred(Workbench):
    """A workbench whose pictures have the same gradient at every centre: a clip bounds it for any."""

    def centred(self, centre: Vector | None) -> Workbench:
        """See `Workbench`."""
        return self


def canary_workbench(coordinates: int, clipping_norm: float) -> Workbench:
    """Returns a workbench whose picture j has the gradient 10 C e_j; `coordinates` is a square number."""
    side = math.isqrt(coordinates)
    pixels = np.zeros((coordinates, coordinates), dtype=np.uint8)
    np.fill_diagonal(pixels, 255)
    encoder = OneBright(max(1.0, _BEYOND * clipping_norm))
    body = nn.Sequential(nn.Linear(coordinates, 1, bias=False))
    nn.init.zeros_(body[0].weight)  # type: ignore[arg-type]  # of a linear layer
    network = Network(
        "audit", encoder, body, encode_once=False, parts=Parts(encoder, body, "0", encode_once=False)
    )
    return _Uncentred(network, pixels.reshape(coordinates, 1, side, side), _output, _MEMORY_BYTES)


def canary_materials(workbench: Workbench, present: Mapping[HospitalName, Sequence[int]]) -> Materials:
    """Returns hospitals whose training patients are the virtual patients of the given coordinates, one picture each."""
    hospitals: Hospitals = {name: _patients(coordinates) for name, coordinates in present.items()}
    nobody = _patients(())
    images = ImageSet(
        name="audit", root=None, class_names=("0", "1"), patients=(), findings=Findings(), digest="audit",
        pixels=np.zeros((0, *workbench.input_shape), dtype=np.uint8), persons=Persons.NAMED,
    )  # fmt: skip
    split = Split((), {name: () for name in present}, leaking=False, note="")
    return Materials(images, split, hospitals, nobody, nobody, workbench)


def _patients(coordinates: Sequence[int]) -> TrainingPatients:
    rows = np.array(coordinates, dtype=np.int64)
    return TrainingPatients(
        rows=rows,
        labels=np.zeros(len(rows), dtype=np.int64),
        starts=np.arange(len(rows) + 1, dtype=np.int64),
        names=names_of(f"virtual patient {coordinate}" for coordinate in coordinates),
    )


def _output(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the network's output as the loss of each picture, (picture,)."""
    return scores[:, 0]
