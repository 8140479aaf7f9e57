"""A network's parameters by name: the content of a file that `wardround.models.weights` reads."""

import numpy as np
import numpy.typing as npt
import torch

from wardround.models.network import Network
from wardround.models.vectors import load_vector, to_vector
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
