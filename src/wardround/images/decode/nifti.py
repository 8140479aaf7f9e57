"""NIfTI volumes (.nii, .nii.gz) from bytes, by nibabel: RAS+ axes, the file's own scaling, its spacing and orientation.

A compressed file is unpacked no further than its limit, and the header is held against the bytes that came before an
array is made of them. Values that are no numbers (NaN, infinity), which some tools write outside the body, are padding,
and become the smallest number of the volume.
"""

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wardround.boundary.extras import needed
from wardround.errors import DataError
from wardround.images.decode.raw import Affine, Decoder, Extent, Hint, Mask, Padding, Raw
from wardround.images.entries import Entry

ENDINGS = (".nii", ".nii.gz")

MAX_VOXELS = 400_000_000
"""A volume with more values is refused, over all channels; 1,500 slices of 512 x 512 have as many."""

MAX_CHANNELS = 64

OFF_CLASS = 0.02
"""Largest distance of a mask's values from whole numbers.

Labels up to 10 that a library scaled to the 255 steps of uint8 (`scl_slope`) lie at most half a step, 0.0196, away.
"""

_GZIP = b"\x1f\x8b"
_LONGEST_HEADER = 540
_PACKED_HEADER = 1 << 16
_MOST_BEHIND = 64_000_000
"""Bytes that a compressed file may have behind its voxels, and any before them."""

_Numbers = np.ndarray[Any, np.dtype[Any]]

_SECOND_VERSION = (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
"""The length of its header, 540, in either byte order."""

_MM = {1: 1000.0, 3: 0.001}
"""Millimetres of the units that are not: metre and micrometre, as the first three bits of `xyzt_units` name them."""


@dataclass(frozen=True)
class NiftiDecoder(Decoder):
    """One file a volume, three axes or a fourth of channels, or a file a channel; the mask a file on the same grid."""

    key: str = "nifti-3"

    def extent(self, entry: Entry, heads: Sequence[bytes], num_bytes: int) -> Extent:
        """See `Decoder`. A header that does not hold is refused when the file is decoded, before it is unpacked."""
        del entry, num_bytes
        values, voxel_mm3 = 0, None
        for head in heads:
            try:
                header, _ = _header_of(head)
                values += math.prod(_shape_of(header))
                affine = _affine_of(header)
                own = float(np.prod(np.linalg.norm(affine[:3, :3], axis=0)))
                voxel_mm3 = own if 0 < own < math.inf else None
            except Exception:  # as in read_nifti
                continue
        return Extent(values, voxel_mm3)

    def decode(self, entry: Entry, contents: Sequence[bytes], masks: Sequence[bytes], hint: Hint | None) -> Raw:
        """See `Decoder`."""
        del entry, hint
        values, affine, padding = read_nifti(contents[0])
        others = [read_nifti(content) for content in contents[1:]]
        if not all(v.shape[1:] == values.shape[1:] and np.allclose(a, affine, atol=1e-2) for v, a, _ in others):
            raise DataError("the channels of a volume must lie on one grid, these do not. Resample them.")
        values = np.concatenate([values, *(channel for channel, _, _ in others)]) if others else values
        for _, _, of_channel in others:  # what any channel has measured is no padding
            padding = None if padding is None or of_channel is None else padding & of_channel
        if not masks:
            return Raw(values, None, affine, padding)
        classes, of_mask = _read(masks[0], is_mask=True)
        if classes.shape != (1, *values.shape[1:]) or not np.allclose(affine, of_mask, atol=1e-2):
            raise DataError(
                f"a mask must lie on its volume's grid, {values.shape[1:]}, got {classes.shape[1:]} or another "
                "orientation. Replace one of them."
            )
        return Raw(values, _classes_of(classes[0]), affine, padding)


NIFTI = NiftiDecoder()


def read_nifti(data: bytes) -> tuple[np.ndarray[Any, np.dtype[np.float32]], Affine, Padding | None]:
    """Returns values, float32 (channel, x, y, z) with axes nearest to RAS+, the affine from voxels to mm, and padding.

    Raises:
        DataError: not a NIfTI file, damaged, too large, or without three axes (and a fourth of channels).
        MissingExtra: nibabel is not installed.
    """
    values, affine = _read(data, is_mask=False)
    values, padding = _finite(values)
    return np.ascontiguousarray(values, dtype=np.float32), affine, padding


def _finite(values: _Numbers) -> tuple[_Numbers, Padding | None]:
    """Returns values, (channel, x, y, z), the smallest number for all that are none, and the voxels without any."""
    finite = np.isfinite(values)
    if finite.all():
        return values, None
    padding = None if finite.any(axis=0).all() else np.logical_not(finite.any(axis=0))
    return np.where(finite, values, values[finite].min() if finite.any() else np.float32(0)), padding


def _classes_of(values: _Numbers) -> Mask:
    """Returns the class of every voxel, (x, y, z); raises `DataError` where values are no whole numbers of a byte."""
    is_whole = True
    if values.dtype.kind == "f":
        values, _ = _finite(values[None])
        near = np.rint(values)
        is_whole, values = np.abs(near - values).max() <= OFF_CLASS, near[0]
    if not is_whole or values.min() < 0 or values.max() > 255:
        raise DataError(
            "a mask must hold whole numbers from 0 to 255, this one holds others, as an interpolated one does. "
            "Save it again as uint8."
        )
    return np.ascontiguousarray(values, dtype=np.uint8)


def _read(data: bytes, *, is_mask: bool) -> tuple[_Numbers, Affine]:
    """Returns values, (channel, x, y, z), and the affine of `read_nifti`; whole numbers of a mask keep their type."""
    with needed("volumes", "A NIfTI volume"):
        from nibabel.orientations import apply_orientation, inv_ornt_aff
    try:
        header, kind = _header_of(data)
        unpacked = _unpacked(data, _needed_bytes(header))
        header.check_fix()  # as the library does when it opens an image, which parses the header three times
        proxy = kind.ImageArrayProxy(io.BytesIO(unpacked), header)
        affine = _affine_of(header)
        turn = _turn_of(affine)
        # Whole numbers as they are stored; scaled ones, and floats of twice the size, are rounded as a volume's are.
        is_plain = is_mask and proxy.dtype.kind in "iu" and (proxy.slope, proxy.inter) == (1.0, 0.0)
        dtype = None if is_plain else np.float32
        if turn is None:
            values = np.asarray(proxy, dtype=dtype)
        else:
            values = np.asarray(apply_orientation(np.asarray(proxy), turn), dtype=dtype)  # type: ignore[no-untyped-call]
            affine = affine @ inv_ornt_aff(turn, proxy.shape)  # type: ignore[no-untyped-call]
        del proxy, unpacked  # before the values are copied into their order
    except DataError:
        raise
    except Exception:  # a damaged header comes out of nibabel as anything from KeyError to OrientationError
        raise DataError("a NIfTI file must be whole; this one is damaged. Export it again.") from None
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError("a NIfTI file must state its spacing and orientation; this one's affine is singular.")
    values = values.reshape(*values.shape[:3], -1)  # axes beyond the fourth have length one
    return np.moveaxis(values, 3, 0), affine


def _turn_of(affine: Affine) -> Any:
    """Returns nibabel's turn of a volume to axes nearest to RAS+; None where they lie so, of most without an SVD."""
    from nibabel.orientations import io_orientation

    steps = affine[:3, :3]
    if np.isfinite(affine).all() and (steps.diagonal() > 0).all() and np.count_nonzero(steps) == 3:
        return None
    turn = io_orientation(affine)  # type: ignore[no-untyped-call]
    return None if np.array_equal(turn, [[0, 1], [1, 1], [2, 1]]) else turn


def spacing_of(path: Path) -> tuple[float, float, float] | None:
    """Millimetres between voxels along the axes nearest to right, front and head; None where no header says so.

    Reads the header alone, of a compressed file no more than its beginning.
    """
    if not path.name.lower().endswith(ENDINGS):
        return None
    try:
        with path.open("rb") as file:
            header, _ = _header_of(file.read(_PACKED_HEADER))
        affine = _affine_of(header)
        return _spacing(affine)
    except Exception:  # whether it decodes is not asked here
        return None


def _spacing(affine: Affine) -> tuple[float, float, float] | None:
    """Returns mm between voxels along the axes nearest to right, front and head."""
    from nibabel.orientations import io_orientation

    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    axes = io_orientation(affine)[:3, 0].astype(int)  # type: ignore[no-untyped-call]
    if not np.isfinite(lengths).all() or lengths.min() <= 0 or sorted(axes) != [0, 1, 2]:
        return None
    x, y, z = (float(lengths[list(axes).index(axis)]) for axis in range(3))
    return x, y, z


def _affine_of(header: Any) -> Affine:
    """Returns the affine from voxels to mm, of a file in metres or micrometres too, as ITK takes it."""
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= _MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def _header_of(data: bytes) -> tuple[Any, Any]:
    """Returns the header of a file, from its first bytes, and nibabel's class of its images."""
    import nibabel

    begin = data[:_LONGEST_HEADER]
    if data.startswith(_GZIP):
        try:
            begin = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data[:_PACKED_HEADER], _LONGEST_HEADER)
        except zlib.error:
            raise DataError(_TORN) from None
    kind = nibabel.Nifti2Image if begin[:4] in _SECOND_VERSION else nibabel.Nifti1Image
    header = kind.header_class
    return header(begin[: header.template_dtype.itemsize], check=False), kind  # type: ignore[no-untyped-call]


def _unpacked(data: bytes, num_bytes: int) -> bytes:
    """Returns the first bytes of a file, unpacked; a compressed one is read to its end, where its checksum is."""
    if not data.startswith(_GZIP):
        if len(data) < num_bytes:
            raise DataError(_SHORT)
        return data
    whole = _in_one_piece(data, num_bytes)
    if whole is not None:
        return whole
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            unpacked = stream.read(num_bytes)
            rest = 0
            while more := stream.read(1 << 20):
                rest += len(more)
                if rest > _MOST_BEHIND:
                    raise DataError(
                        "a compressed volume must end where its header says; this one goes on. Export it again."
                    )
    except (OSError, EOFError, zlib.error, MemoryError):
        raise DataError(_TORN) from None
    if len(unpacked) < num_bytes:
        raise DataError(_SHORT)
    return unpacked


def _in_one_piece(data: bytes, num_bytes: int) -> bytes | None:
    """Returns the content of a file that was packed as one piece, of this length; None of any other, or a torn one."""
    piece = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        unpacked = piece.decompress(data, num_bytes)
        more = piece.decompress(piece.unconsumed_tail, 1)
    except zlib.error:
        return None
    return unpacked if len(unpacked) == num_bytes and piece.eof and not (more or piece.unused_data) else None


_TORN = "a compressed volume must unpack to its end; this one is damaged."
_SHORT = "a NIfTI file must be whole; this one's header promises more voxels than came."


def _shape_of(header: Any) -> tuple[int, ...]:
    """Returns the axes x, y, z and, where there are channels, theirs."""
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:  # the standard's own place for channels: x, y, z, no time, values
        shape = (*shape[:3], shape[4])
    return shape


def _needed_bytes(header: Any) -> int:
    """Returns the length of a file as its header has it; refuses shapes that are not decoded."""
    magic = bytes(header["magic"])[:3]
    if magic not in (b"n+1", b"n+2"):
        raise DataError("a volume must be one NIfTI file (.nii or .nii.gz); this is none, or a header alone.")
    shape = _shape_of(header)
    if len(shape) not in (3, 4) or min(shape) < 1 or (len(shape) == 4 and shape[3] > MAX_CHANNELS):
        raise DataError(
            f"a volume must have the axes x, y, z, and at most {MAX_CHANNELS} channels, got shape {shape}. "
            + (
                "Save it with a third axis of length 1."
                if len(shape) == 2
                else "Save each picture of a series as a file of its own."
            )
        )
    dtype = header.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "iuf":
        raise DataError(f"a volume must hold plain numbers, got {dtype}. Convert it to int16 or float32.")
    if math.prod(shape) > MAX_VOXELS:
        raise DataError(
            f"a volume must have at most {MAX_VOXELS:,} voxels, got {math.prod(shape):,}. Crop it, or resample it."
        )
    begin = int(header["vox_offset"])
    if not 0 <= begin <= _MOST_BEHIND:
        raise DataError("a NIfTI file must be whole; its voxels must begin behind its header. Export it again.")
    return math.prod(shape) * int(dtype.itemsize) + begin
