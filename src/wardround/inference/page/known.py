"""A known picture and the outputs of a model for it, by which a page finds that a browser computes otherwise.

A page computes them once when it opens (`assets/known.js`) and answers no picture where they differ by more than 1e-3.
This finds a fault of the browser or of its runtime, and a damaged file. It is no signature: a person who alters a model
can alter its outputs as well.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.inference.model import Model
from wardround.inference.reading import recipe_of
from wardround.types import Pictures


def known_picture(model: Model) -> Pictures:
    """Returns one picture of the model's recipe, uint8 (1, channel, height, width): arithmetic, and no patient's."""
    channel, row, column = np.indices(recipe_of(model.card).shape)
    levels: Pictures = ((column * (3 * row + 1) + 85 * channel) % 256).astype(np.uint8)
    return levels[None]


def known_outputs(model: Model) -> dict[str, list[float]]:
    """Returns what torch computes for the known picture, by the name of the graph's output.

    Of a large output, as of masks, they are those at 256 places, which a prime step spreads over all rows and columns.
    """
    logits = model.logits(known_picture(model))
    return {"logits": _few(logits), "probabilities": _few(model.probabilities(logits))}


def _few(outputs: npt.NDArray[Any]) -> list[float]:
    places = 7919 * np.arange(min(outputs.size, 256)) % outputs.size
    return [float(f"{one:.6g}") for one in outputs.ravel()[places]]
