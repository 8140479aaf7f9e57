"""Sentences on a folder in which a layout's reader finds nothing: what lies there, and what to do about it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from wardround.boundary.text import counted
from wardround.images.all_pictures import table_naming
from wardround.images.decode.nifti import ENDINGS
from wardround.images.findings import shortened
from wardround.images.layouts.manifest import MANIFEST
from wardround.images.layouts.readers import LAYOUTS
from wardround.images.store import Store
from wardround.images.table import files_in

_ARRAYS = (
    "arrays ({}) are not read: save pictures as .png and volumes as .nii.gz, or all as one .npz of MedMNIST's form "
    "(train_images, train_labels)"
)
_VOLUMES = (
    "volumes of the format {} are not read: save them as .nii.gz, as with SimpleITK: "
    "WriteImage(ReadImage(old), new)"
)
_FILMS = "films ({}) are not read: save frames as .png, and name the patient of each"
_SLIDES = "slides ({}) are not read: cut them into .png, and name the patient of each"
_PICTURES = "pictures of the format {} are not read: save them as .png"
_SENTENCES = {
    _VOLUMES: (".mhd", ".mha", ".nrrd", ".hdr", ".mgz", ".mgh", ".mnc"),
    _ARRAYS: (".h5", ".hdf5", ".npy", ".mat"),
    _FILMS: (".avi", ".mp4", ".mov", ".mkv"),
    _SLIDES: (".svs", ".ndpi", ".mrxs"),
    _PICTURES: (".webp", ".gif", ".heic", ".jp2"),
    "of several arrays ({}) one is read: give the file itself as the data folder": (".npz",),
}


def advice(layout: str, store: Store) -> str:
    """Returns sentences for the end of a refusal: what lies in the folder, and the way in which it is read."""
    tops = sorted({name.split("/", 1)[0] + "/" * ("/" in name) for name in store.names()})
    pictures, _ = files_in(store)
    volumes = [name for name in store.names() if name.lower().endswith(ENDINGS)]
    others = ", ".join(name for name in LAYOUTS if name != layout)
    what = f" ({counted(len(pictures), 'picture')})" if pictures else ""
    what += f" ({counted(len(volumes), 'volume')})" if volumes and not pictures else ""
    found = f"In {store.root} lies: {shortened(tops) or 'nothing'}{what}."
    if MANIFEST in store and layout != "manifest":
        return f"{found} Its {MANIFEST} is read by the layout manifest: choose it."
    if not pictures and not volumes and (unread := _formats(store.names())):
        return f"{found} Here {unread}."
    if table := table_naming(store, [*pictures, *volumes]):
        return (
            f"{found} {table} names the {'pictures' if pictures else 'volumes'}: choose the layout manifest, give the "
            "table as `[site] labels` (`--labels`), and call its columns image, patient and label where it calls them "
            "otherwise."
        )
    tables = [name for name in tops if name.lower().endswith((".csv", ".tsv"))]
    table_like = (
        f" A table such as {tables[0]} is read by the layout manifest, as `[site] labels`, if its columns are image, "
        "patient and label."
        if tables
        else ""
    )
    return (
        f"{found}{table_like} Correct the folder, or choose another layout ({others}); pictures and volumes in folders "
        f"of any names are read by a {MANIFEST} (image, patient, and label or mask)."
    )


def _formats(names: Sequence[str]) -> str:
    """Returns what to do with files in formats that are not read, the commonest first; empty where none is known."""
    counts = Counter(PurePosixPath(name).suffix.lower() for name in names)
    said = []
    for sentence, endings in _SENTENCES.items():
        if there := [ending for ending, _ in counts.most_common() if ending in endings]:
            said.append(sentence.format(", ".join(there)))
    return "; ".join(said)
