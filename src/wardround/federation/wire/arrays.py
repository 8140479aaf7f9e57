"""Codecs of arrays: the header says how many items there are, the bytes follow it."""

from dataclasses import dataclass

import numpy as np

from wardround.errors import FederationError
from wardround.federation.wire.frame import Arrays, Raw
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.values import MOST_INTEGER, Bound, refused, whole
from wardround.types import Vector


@dataclass(frozen=True)
class Blob:
    """Bytes whose inside has a format of its own.

    Attributes:
        most: how many there may be.
        sizes: the only numbers of bytes that there may be; None for any.
    """

    most: Bound
    sizes: frozenset[int] | None = None

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        if not isinstance(value, bytes) or (self.sizes is not None and len(value) not in self.sizes):
            raise refused(name, self._wording(), value)
        arrays.append(value)
        return {"bytes": len(value)}

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> bytes:
        """See `Codec`."""
        count = _declared(data, "bytes", name)
        if count > self.most(limits):
            raise refused(name, f"at most {self.most(limits)} bytes", count)
        if self.sizes is not None and count not in self.sizes:
            raise refused(name, self._wording(), count)
        return bytes(arrays.take("bytes", count, name))

    def _wording(self) -> str:
        return "bytes" if self.sizes is None else " or ".join(map(str, sorted(self.sizes))) + " bytes"


@dataclass(frozen=True)
class Reals:
    """A vector of finite float32, (coordinate,); read without a copy, and read-only."""

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim != 1:
            raise refused(name, "a vector of float32", getattr(value, "dtype", value))
        _check_finite(value, name)
        arrays.append(np.ascontiguousarray(value, dtype="<f4").data)
        return {"float32": value.size}

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> Vector:
        """See `Codec`."""
        count = _declared(data, "float32", name)
        if count > limits.most_coordinates:
            raise refused(name, f"at most {limits.most_coordinates} coordinates", count)
        vector = np.frombuffer(arrays.take("float32", count, name), dtype="<f4").astype(np.float32, copy=False)
        _check_finite(vector, name)
        return vector


@dataclass(frozen=True)
class Positions:
    """Positions of parameters, int64, ascending, each once, (position,); read-only."""

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        if not isinstance(value, np.ndarray) or value.dtype != np.int64 or value.ndim != 1:
            raise refused(name, "a vector of int64", getattr(value, "dtype", value))
        arrays.append(np.ascontiguousarray(value, dtype="<i8").data)
        return {"int64": value.size}

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> object:
        """See `Codec`."""
        count = _declared(data, "int64", name)
        most = limits.most_parameters if limits.parameters is None else limits.parameters
        if not 1 <= count <= most:
            raise refused(name, f"1 to {most} positions", count)
        positions = np.frombuffer(arrays.take("int64", count, name), dtype="<i8").astype(np.int64, copy=False)
        if positions[0] < 0 or positions[-1] >= most or np.any(positions[1:] <= positions[:-1]):
            raise FederationError(
                f"`{name}` must be ascending, each once, from 0 to {most - 1}, got others. Send the request again."
            )
        return positions


def _declared(data: object, kind: str, name: str) -> int:
    """Items of an array, as the header says."""
    if not isinstance(data, dict) or data.keys() != {kind}:
        raise refused(name, f"an array of {kind}", data)
    return whole(data[kind], name, 0, MOST_INTEGER)


def _check_finite(vector: Vector, name: str) -> None:
    if not np.isfinite(vector).all():
        raise FederationError(
            f"`{name}` must be finite everywhere, got NaN or infinity. Lower `[federation] learning_rate`."
        )
