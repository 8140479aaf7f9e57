"""Weights that a user brings: one `.safetensors` file, read strictly, its SHA-256 recorded.

A file is data, never a program: pickled weights (`.pt`, `.pth`, `.bin`) can run code when they are opened, so they are
refused.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import nn

from wardround.boundary.documents import Unfit, check_tensor_header, read_regular
from wardround.errors import ModelError

_MOST_BYTES = 1 << 36
_MOST_LISTED = 20

PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl", ".ckpt"})


def load_weights(
    module: nn.Module, path: Path, *, head: frozenset[str], absent: frozenset[str] = frozenset()
) -> str:
    """Copies a file's tensors into a freshly initialised module; returns the SHA-256 of the file, in hexadecimal.

    Args:
        module: the whole network; changed only when every tensor fits.
        path: a `.safetensors` file. Names are those of `module.state_dict()`.
        head: names of the classifier head. A head of another shape (another number of classes) keeps its
            initialisation; any other parameter that the file does not fit is an error.
        absent: names that the file may lack altogether: a U-Net's way up, when the file is that of its encoder.

    Raises:
        ModelError: the file is pickled, unreadable, or differs beyond the head. All differences are listed.
    """
    content = read_weights(path)
    found = parsed(content, path)
    wanted = module.state_dict()
    of_encoder = bool(absent) and not absent & found.keys()
    free = head | absent if of_encoder else head
    faults = faults_of(found, wanted)
    unused = sorted(found.keys() - wanted.keys())
    other_head = {name for name in free & found.keys() if found[name].shape != wanted[name].shape}
    has_other_names = bool(unused) and not of_encoder
    fine = other_head | (set() if has_other_names else free - found.keys())
    wrong = [f"{name}: {fault}" for name, fault in faults.items() if name not in fine]
    if wrong:
        wrong = wrong[:_MOST_LISTED] + [f"and {len(wrong) - _MOST_LISTED} more"] * (len(wrong) > _MOST_LISTED)
        wrong += [f"in the file and not in the network: {', '.join(unused[:_MOST_LISTED])}"] * bool(unused)
        raise ModelError(
            "weights must fit the network in every name and shape, but for a head of another shape or none at all; "
            f"{path.name} differs: {'; '.join(wrong)}. "
            "Choose the network, channels and image size that the file was trained with, or rename its tensors.",
            code="model-weights",
        )
    loaded = [name for name in wanted if not (faults and name in free)]
    if not loaded:
        raise ModelError(
            f"weights must fill at least one parameter of the network, and {path.name} fills none: its head is of "
            "another shape, and there is nothing else. Leave `weights` out, or choose a file for these classes.",
            code="model-weights",
        )
    with torch.no_grad():
        for name in loaded:
            wanted[name].copy_(found[name])
    return hashlib.sha256(content).hexdigest()


def read_weights(path: Path) -> bytes:
    """Returns the content of a `.safetensors` file.

    Raises:
        ModelError: another kind of file, or one that cannot be read.
    """
    if path.suffix.lower() in PICKLED:
        raise ModelError(
            f"weights must be a .safetensors file, got {path.name}, a pickle that can run code when opened. "
            "Convert it once, where you trust it: "
            "safetensors.torch.save_file(torch.load(file, weights_only=True), 'weights.safetensors')."
        )
    if path.suffix.lower() != ".safetensors":
        raise ModelError(
            f"weights must be a .safetensors file, got {path.name}. Convert the file, and name it so."
        )
    try:
        check_tensor_header(path)
        return read_regular(path, _MOST_BYTES)
    except Unfit as error:
        raise _no_safetensors(path, str(error)) from error
    except OSError as error:
        raise ModelError(
            f"weights must be a readable file, got {path.name}: {error.strerror}. Check the path."
        ) from error


def parsed(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a file by name; the path is for the error.

    Raises:
        ModelError: the content is not in the safetensors format.
    """
    try:
        tensors: dict[str, torch.Tensor] = parse_safetensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_safetensors(path, str(error)) from error
    return tensors


def _no_safetensors(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"weights must be in the safetensors format, and {path.name} is not ({reason}). "
        "Save the file again with safetensors.torch.save_file."
    )


def faults_of(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, str]:
    """Returns for each parameter whose place a file's tensor cannot take, the reason."""
    faults = {name: _fault_of(found.get(name), present) for name, present in wanted.items()}
    return {name: fault for name, fault in faults.items() if fault is not None}


def _fault_of(value: torch.Tensor | None, present: torch.Tensor) -> str | None:
    if value is None:
        return "missing"
    if value.shape != present.shape:
        return f"shape {tuple(value.shape)}, expected {tuple(present.shape)}"
    if not value.is_floating_point():
        return f"type {value.dtype}, expected a floating-point type"
    if not bool(torch.isfinite(value.to(present.dtype)).all()):
        return f"contains NaN, infinity or a value beyond {present.dtype}"
    return None
