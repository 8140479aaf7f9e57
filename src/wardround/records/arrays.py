"""Named arrays on disk: one safetensors file with a checksum."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wardround.errors import RecordError

Arrays = Mapping[str, npt.NDArray[np.float32]]


def arrays_to_bytes(arrays: Arrays) -> bytes:
    """Returns named arrays as safetensors, with a checksum among its metadata."""
    from safetensors.numpy import save

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content: bytes = save(whole, metadata={"sha256": _checksum(whole)})
    return content


def arrays_from_file(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Returns the named arrays of a safetensors file.

    Raises:
        RecordError: the file is no safetensors file, or its arrays are not those that were written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            arrays: dict[str, npt.NDArray[np.float32]] = {name: file.get_tensor(name) for name in names}
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{path} must be a safetensors file ({error}); restore it or run again.") from None
    if expected != _checksum(arrays):
        raise RecordError(f"{path} must hold what was written there, and does not; restore it or run again.")
    return arrays


def _checksum(arrays: Arrays) -> str:
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        sha256.update(f"{name} {arrays[name].shape}\n".encode())
        sha256.update(arrays[name].tobytes())
    return sha256.hexdigest()
