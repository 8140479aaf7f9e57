"""ONNX: uint8 rows to logits and probabilities, with the patch, the normalisation and all layers in the graph.

Decoding and scaling are not in it: training scales with Pillow, area averages with rounding to whole grey levels, and
ONNX's `Resize` rounds otherwise. The recipe is on the card beside the graph; `inference.reading` makes such rows.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wardround.boundary.extras import needed
from wardround.boundary.private import write_whole
from wardround.errors import ModelError
from wardround.inference.answers import Logits
from wardround.inference.calibration import Probabilities
from wardround.inference.model import Model
from wardround.inference.reading import recipe_of
from wardround.models.card import ENCODER
from wardround.types import Pictures

INPUT, OUTPUTS = "pictures", ("logits", "probabilities")

TOLERANCE = 1e-5
"""Largest difference of a logit from torch's, as a part of the largest logit, or of 1 where all are smaller, or of the
sums behind them (`_size_of_sums`); and of a probability from that of the graph's own logits."""
_UNIT = 2.0**-23
"""Distance of 1 from the next number of float32."""

_CHECKED = 4
_EXPORTERS = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Checked:
    """A graph that was held against torch.

    Attributes:
        pictures: number of rows that both answered.
        difference: the largest, see `TOLERANCE`.
    """

    pictures: int
    difference: float


class _Answers(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.whole, self.probabilities = model.whole, Probabilities(model.scale)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.whole(pictures)
        return logits, self.probabilities(logits)


def write_onnx(model: Model, path: Path, rows: Pictures | None = None) -> Checked:
    """Writes a model as ONNX, once ONNX Runtime gives torch's logits for drawn rows and for the given ones.

    The input `pictures` is uint8 (picture, channel, *space), any number of pictures of the recipe's size; the outputs
    are `logits` and `probabilities`, (picture, class) or (picture, class, *space), float32.

    Args:
        model: to be exported.
        path: of the file; it appears only when the check holds.
        rows: real pictures to check as well, uint8 (row, channel, *space).

    Raises:
        MissingExtra: ONNX, its exporter or its runtime is not installed.
        ModelError: the graph answers otherwise than torch (code `model-export`), or the model has a user's ONNX encoder
            (`model-export-encoder`).
    """
    if (own := model.card.network.own) is not None and own.architecture is None:
        raise ModelError(
            f"A model behind a user's ONNX encoder must be served with {ENCODER} beside it, and cannot be exported as "
            "one graph; use `wardround predict`, or an encoder from a .safetensors file.",
            code="model-export-encoder",
        )
    with needed("export", "Exporting to ONNX"):
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    proto = _proto(model)
    for key, value in (("wardround_card", model.card.model_dump_json()), ("sha256", model.card.weights.sha256)):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = _check(model, session, [*_drawn(model), *([] if rows is None else _parts(rows))])
    write_whole(path, content)
    return found


def _proto(model: Model) -> Any:
    # Two pictures: a size of one would be taken for a constant.
    example = torch.zeros((2, *recipe_of(model.card).shape), dtype=torch.uint8)
    levels = {name: logging.getLogger(name).level for name in _EXPORTERS}
    try:
        for name in _EXPORTERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Answers(model).eval(), (example,), dynamo=True, verbose=False, input_names=[INPUT],
                output_names=list(OUTPUTS), dynamic_shapes=({0: torch.export.Dim("picture")},),
            )  # fmt: skip
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert program is not None, "the exporter of torch.export returns a program"
    return program.model_proto


def _drawn(model: Model) -> Iterator[Pictures]:
    """Yields drawn rows, of several pictures and of one: noise, a ramp, and two halves of dark and bright.

    A constant picture is not among them: where each picture is standardised, it is made of rounding errors.
    """
    shape = recipe_of(model.card).shape
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (_CHECKED, *shape), dtype=np.uint8)
    yield noise
    yield noise[:1]
    ramp = np.linspace(0, 255, shape[-1]).astype(np.uint8)
    yield np.stack([np.broadcast_to(ramp, shape), np.broadcast_to(np.where(ramp < 128, 20, 220), shape)]).astype(
        np.uint8
    )


def _parts(rows: Pictures) -> Iterator[Pictures]:
    for start in range(0, len(rows), _CHECKED):
        yield np.ascontiguousarray(rows[start : start + _CHECKED])


def _check(model: Model, session: Any, several: list[Pictures]) -> Checked:
    worst, count = 0.0, 0
    for rows in several:
        expected = model.logits(rows)
        logits, probabilities = session.run(None, {INPUT: rows})
        scale, difference = max(1.0, float(np.abs(expected).max())), float(np.abs(logits - expected).max())
        if not difference <= TOLERANCE * scale:
            scale = max(scale, _size_of_sums(model, rows, expected))
        worst = max(worst, difference / scale)
        # Of the graph's own logits: of torch's, the rounding of a logit of a thousand would be much of a probability.
        worst = max(worst, float(np.abs(probabilities - model.probabilities(logits)).max()))
        count += len(rows)
    if not worst <= TOLERANCE:
        raise ModelError(
            f"An exported graph must answer as torch does, within {TOLERANCE:g}, got a difference of {worst:.1e} over "
            f"{count} pictures; report this network, {model.card.network.name}, with the versions installed.",
            code="model-export",
        )
    return Checked(count, worst)


def _size_of_sums(model: Model, rows: Pictures, logits: Logits) -> float:
    """Returns how far logits move when every weight moves by `_UNIT` of itself, up or down, over `_UNIT`.

    A sum in floating point, in any order of its terms, is the exact sum of weights that each lie within some units of
    the given ones (Higham 2002, Accuracy and Stability of Numerical Algorithms, equation 3.4). So torch and the
    graph may differ by about as much as such weights do. Weights that are mostly noise give terms of thousands whose
    sum is small, and probabilities that are blurred after them hide their size. `TOLERANCE` is 84 units: weights of
    half precision, at 4,096 units, are far beyond it, and so is a weight that is missing or another.
    """
    generator = torch.Generator().manual_seed(0)
    moved = copy.deepcopy(model.whole)
    with torch.no_grad():
        for weights in moved.parameters():
            up = torch.randint(0, 2, weights.shape, generator=generator)
            weights.mul_(1 + _UNIT * (2 * up - 1))
    return float(np.abs(replace(model, whole=moved).logits(rows) - logits).max()) / _UNIT
