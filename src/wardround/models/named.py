"""A network's parameters by name: the content of a file that `wardround.models.weights` reads."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from wardround.errors import ModelError
from wardround.models.network import Network
from wardround.models.vectors import load_vector, to_vector
from wardround.models.weights import faults_of, parsed
from wardround.types import Vector


def named_weights(network: Network, weights: Vector) -> dict[str, npt.NDArray[np.float32]]:
    """Returns every parameter of the network by name, frozen ones too, with these trained ones, (parameter,).

    The network itself is left as it was.
    """
    before = to_vector(network.trained)
    body = network.trained if network.parts is None else network.parts.body
    try:
        load_vector(network.trained, weights)
        return {name: value.detach().to(torch.float32).numpy().copy() for name, value in body.state_dict().items()}
    finally:
        load_vector(network.trained, before)


def vector_of(network: Network, content: bytes) -> Vector:
    """Returns the trained parameters, (parameter,), of the weights file that `named_weights` of this network made.

    The network itself is left as it was.

    Raises:
        ModelError: the content is no such file, or of another network.
    """
    body = network.trained if network.parts is None else network.parts.body
    before = {name: value.clone() for name, value in body.state_dict().items()}
    named = parsed(content, Path("model.safetensors"))
    faults = faults_of(named, before) | dict.fromkeys(named.keys() - before.keys(), "no parameter of the network")
    if faults:
        raise ModelError(
            f"A finished model must have the parameters of the study's network, and differs: {faults}. Compare the "
            "study files.",
            code="model-weights",
        )
    try:
        body.load_state_dict(named)
        return to_vector(network.trained)
    finally:
        body.load_state_dict(before)
