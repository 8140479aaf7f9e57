"""A module's trained parameters as one row of numbers, and back.

The row holds the parameters that require a gradient, in the order of `named_parameters()`, each flattened
in C order. It is the only form in which a model travels between a hospital and the coordinator.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wardround.errors import ModelError
from wardround.models.adapters import merged, unmerged
from wardround.models.network import Network
from wardround.models.weights import faults_of, parsed
from wardround.types import Vector


def sha256_of(weights: Vector) -> str:
    """Returns the hash of a vector of weights, as little-endian single precision, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(weights, dtype="<f4").tobytes()).hexdigest()


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Returns the SHA-256 of names, shapes, types and values, in hexadecimal."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous().numpy()
        sha256.update(f"{name} {value.shape} {value.dtype}\n".encode() + value.tobytes())
    return sha256.hexdigest()


def to_vector(module: nn.Module) -> Vector:
    """Returns a copy of the trained parameters in one row, (parameter,), float32."""
    rows = [p.detach().to(device="cpu", dtype=torch.float32).reshape(-1) for p in _trained(module)]
    return torch.cat(rows).numpy() if rows else np.zeros(0, dtype=np.float32)


def load_vector(module: nn.Module, vector: Vector) -> None:
    """Writes a row of numbers, (parameter,), into the trained parameters in place; objects, dtypes and devices stay.

    Raises:
        ModelError: the vector's shape is not (number of trained parameters,). The module is then unchanged.
    """
    load_parameters(_trained(module), vector)


def load_parameters(parameters: Sequence[nn.Parameter], vector: Vector) -> None:
    """Writes a row of numbers, (parameter,), into parameters in place, as `load_vector` does.

    Raises:
        ModelError: the vector's shape is not (number of these parameters,). They are then unchanged.
    """
    sizes = [parameter.numel() for parameter in parameters]
    if vector.shape != (sum(sizes),):
        raise ModelError(
            f"a parameter vector must have shape ({sum(sizes)},) for this network, got {vector.shape}. "
            "Check that both sides built the same network, with the same image size and classes."
        )
    if not sizes:
        return
    pieces = np.split(np.require(vector, np.float32, ["C", "W"]), np.cumsum(sizes)[:-1])
    values = [torch.from_numpy(piece.reshape(p.shape)) for p, piece in zip(parameters, pieces, strict=True)]
    with torch.no_grad():
        if parameters[0].device.type == "cpu":
            torch._foreach_copy_(list(parameters), values)  # one call: threads wait for the interpreter at each
            return
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def named_weights(network: Network, weights: Vector) -> dict[str, npt.NDArray[np.float32]]:
    """Returns every parameter of the network by name, frozen ones too, with these trained ones, (parameter,).

    Adapters are merged into the weights beside them. The network itself is left as it was.
    """
    before = to_vector(network.trained)
    body = network.trained if network.parts is None else network.parts.body
    try:
        load_vector(network.trained, weights)
        named = merged(body.state_dict())
        return {name: value.detach().to(torch.float32).numpy().copy() for name, value in named.items()}
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
    wanted = merged(before)
    faults = faults_of(named, wanted) | dict.fromkeys(named.keys() - wanted.keys(), "no parameter of the network")
    if faults:
        raise ModelError(
            f"A finished model must have the parameters of the study's network, and differs: {faults}. Compare the "
            "study files.",
            code="model-weights",
        )
    try:
        body.load_state_dict(unmerged(named, before))
        return to_vector(network.trained)
    finally:
        body.load_state_dict(before)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
