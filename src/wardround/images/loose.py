"""Pictures and volumes without labels and patients, as they are predicted: files, a folder, an archive, an .npz.

Each is read by the decoder that training reads it with. A series of CT, MR or PT is one volume, wherever its slices
lie; files named CASE_0000.nii.gz, CASE_0001.nii.gz, ... are the channels of one volume, as nnU-Net names them. In a
folder or an archive, files that are no pictures are passed over; a file that was named itself is said.
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from wardround.errors import DataError
from wardround.images.arrays import ENDING
from wardround.images.decode.nifti import ENDINGS as VOLUME_ENDINGS
from wardround.images.decode.nifti import NIFTI
from wardround.images.decode.pillow import PILLOW
from wardround.images.decode.quiet import require_pydicom
from wardround.images.decode.raw import Decoder
from wardround.images.dicom.decoder import DicomDecoder
from wardround.images.dicom.headers import Header, Kind, read_header
from wardround.images.dicom.parse import is_dicom
from wardround.images.dicom.pseudonyms import KEY_BYTES, pseudonym
from wardround.images.dicom.series import pictures, volumes, without_repeats
from wardround.images.entries import PICTURE_ENDINGS, Entry
from wardround.images.layouts.medmnist import ArrayDecoder
from wardround.images.store import Source, Store

_CHANNEL = re.compile(r"(.+)_(\d{4})(\.nii(?:\.gz)?)")
_MARK_BYTES = 132
NO_PICTURE = "a picture must be JPEG, PNG, TIFF, BMP, DICOM or NIfTI; this file is none of them"


@dataclass(frozen=True)
class Unlabelled:
    """One picture or volume that can be decoded.

    Args:
        name: as the store names its first file, with `#3` for the third frame of a file with many.
        entry: its files.
        decoder: the one that training has for such files.
        modality: as a DICOM header says it; empty elsewhere.
        caution: the reason for which training leaves it out until somebody has looked at it; None where there is none.
    """

    name: str
    entry: Entry
    decoder: Decoder
    modality: str = ""
    caution: str | None = None


@dataclass(frozen=True)
class Unread:
    """One picture or volume that cannot be read, and one sentence that says why, without a name."""

    name: str
    reason: str


@dataclass(frozen=True)
class Wanted:
    """The input of a model: volumes or pictures, and the channels of each."""

    volumes: bool
    channels: int


class _Given(Source):
    """Files that were named one by one, which together are a store; the name of each is its path as it was given."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.sizes = {str(path): path.stat().st_size for path in paths}

    def read(self, name: str, limit: int) -> bytes:
        with open(name, "rb") as file:
            return file.read(min(limit, os.fstat(file.fileno()).st_size + 1))


def open_given(paths: Sequence[Path]) -> Store:
    """Returns the store of some files; each must be a file."""
    return Store(Path(), _Given(paths))


def is_container(path: Path) -> bool:
    """Returns True for a folder, and for a file whose name is that of an archive."""
    return path.is_dir() or path.name.lower().endswith((".zip", ".tar", ENDING))


def unlabelled(store: Store, wanted: Wanted, *, given: bool) -> list[Unlabelled | Unread]:
    """Returns the pictures or volumes of a store in the order of their names.

    Args:
        store: files that were named one by one (`given`), or those of a folder or an archive.
        wanted: of the model; slices of a volume are one unreadable unit where pictures are wanted.
        given: a file that is no picture is said instead of passed over.

    Raises:
        MissingExtra: DICOM files are there, and pydicom or one of its decoders is not installed.
    """
    found: list[Unlabelled | Unread] = []
    headers: list[Header] = []
    channels: dict[tuple[str, str], list[str]] = defaultdict(list)
    name_for = partial(pseudonym, os.urandom(KEY_BYTES))
    for name in store.names():
        lower = name.lower()
        match = _CHANNEL.fullmatch(name) if wanted.channels > 1 else None
        if match is not None:
            channels[match[1], match[3]].append(name)
        elif lower.endswith(VOLUME_ENDINGS):
            found.append(Unlabelled(name, Entry(name, 0, None), NIFTI))
        elif lower.endswith(PICTURE_ENDINGS):
            found.append(Unlabelled(name, Entry(name, 0, None), PILLOW))
        elif lower.endswith(".npy") and store.root.name.lower().endswith(ENDING):
            found.append(Unlabelled(name, Entry(name, 0, None), ArrayDecoder()))
        else:
            header = _header(store, name, name_for)
            if isinstance(header, Header) and header.kind in (Kind.PICTURE, Kind.SLICE):
                headers.append(header)
            elif isinstance(header, Unread) and (given or header.reason != NO_PICTURE):
                found.append(header)
            elif isinstance(header, Header) and given:
                found.append(Unread(name, f"a picture is read, and this file is of {header.kind.value}"))
    found += [_channels(names, wanted.channels) for names in channels.values()]
    found += _of_dicom(store, headers, wanted)
    return sorted(found, key=lambda one: one.name)


def _header(store: Store, name: str, name_for: partial[str]) -> Header | Unread:
    alias = store.alias(name)  # which sentences quote in place of a name
    try:
        if not is_dicom(store.head(alias, _MARK_BYTES)):
            return Unread(name, NO_PICTURE)
        require_pydicom()
        return read_header(store, alias, name_for)
    except DataError as error:
        return Unread(name, str(error).replace(alias, "this file").rstrip("."))


def _channels(names: list[str], channels: int) -> Unlabelled | Unread:
    names = sorted(names)
    if len(names) != channels:
        return Unread(names[0], f"a volume must have {channels} files, one a channel, this one has {len(names)}")
    return Unlabelled(names[0], Entry(names[0], 0, None, sources=tuple(names)), NIFTI)


def _of_dicom(store: Store, headers: list[Header], wanted: Wanted) -> list[Unlabelled | Unread]:
    if not headers:
        return []
    real = {store.alias(name): name for name in store.names()}

    def name_of(several: Sequence[Header]) -> str:
        return min(real[header.source] for header in several)

    # Without a label nobody has to be told apart but by the series.
    headers = [replace(header, patient=header.patient or "nobody") for header in headers]
    found: list[Unlabelled | Unread] = []
    for unit in pictures([header for header in headers if header.kind is Kind.PICTURE]):
        name, header = real[unit.headers[0].source], unit.headers[0]
        name = name if unit.frame is None else f"{name}#{unit.frame + 1}"
        entry = Entry(name, 0, None, sources=(real[header.source],), frame=unit.frame)
        found.append(Unlabelled(name, entry, DicomDecoder(False), header.modality, header.refusal))
    slices, _ = without_repeats(store, [header for header in headers if header.kind is Kind.SLICE])
    units, left_out = volumes(slices)
    for unit in units:
        name, first = name_of(unit.headers), unit.headers[0]
        if wanted.volumes:
            entry = Entry(name, 0, None, sources=tuple(real[header.source] for header in unit.headers))
            found.append(Unlabelled(name, entry, DicomDecoder(True), first.modality, first.refusal))
        else:
            found.append(Unread(name, f"the model reads pictures, this is a series of {first.modality} slices"))
    return found + [Unread(name_of(unit.headers), f"the series makes no volume: {why}") for unit, why in left_out]


def stem_of(name: str) -> str:
    """Returns the name of a file without folders and its ending, for the files that are written about it.

    >>> stem_of("a/b.nii.gz"), stem_of("a/b.dcm#3")
    ('b', 'b.dcm-3')
    """
    last = PurePosixPath(name).name.replace("#", "-")
    ending = next((e for e in (*VOLUME_ENDINGS[::-1], *PICTURE_ENDINGS, ".dcm") if last.lower().endswith(e)), "")
    return last[: len(last) - len(ending)] or last
