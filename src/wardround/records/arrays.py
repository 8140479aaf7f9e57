"""Named arrays on disk: one safetensors file with a checksum, and the words for what it is."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wardround.boundary.documents import check_tensor_header
from wardround.boundary.machine import reading_faults
from wardround.errors import RecordError

Arrays = Mapping[str, npt.NDArray[np.float32]]


def arrays_to_bytes(arrays: Arrays, about: str = "") -> bytes:
    """Returns named arrays as safetensors, with a checksum of them and of `about` among the metadata.

    Args:
        arrays: by name.
        about: words for the content, such as "round 3", which a reader asks for again.
    """
    from safetensors.numpy import save

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content: bytes = save(whole, metadata={"sha256": f"{_checksum(whole, about)} {about}".rstrip()})
    return content


def arrays_from_file(path: Path, about: str | None = None) -> dict[str, npt.NDArray[np.float32]]:
    """Returns the named arrays of a safetensors file; with `about`, of one that was written as that.

    Raises:
        RecordError: the file is no safetensors file, its arrays are not those that were written, or (with the code
            `record-renamed`) they were written as something else than `about`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_tensor_header(path)
        with reading_faults(path), safe_open(path, framework="numpy") as file:
            names = file.keys()
            arrays: dict[str, npt.NDArray[np.float32]] = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise RecordError(f"{path} must be a safetensors file ({error}); restore it or run again.") from None
    checksum, _, written = metadata.get("sha256", "").partition(
        " "
    )  # one entry: several have no order of their own
    if checksum != _checksum(arrays, written):
        raise RecordError(f"{path} must hold what was written there, and does not; restore it or run again.")
    if about is not None and written != about:
        raise RecordError(
            f"{path} must hold {about}, and was written as {written or 'something else'}; "
            "restore the file, or start a new run.",
            code="record-renamed",
        )
    return arrays


def _checksum(arrays: Arrays, about: str) -> str:
    sha256 = hashlib.sha256()
    if about:
        sha256.update(json.dumps(about).encode() + b"\n")
    for name in sorted(arrays):
        sha256.update(f"{name} {arrays[name].shape}\n".encode())
        sha256.update(arrays[name].tobytes())
    return sha256.hexdigest()
