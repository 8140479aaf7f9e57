"""The layout that a folder most likely has, for commands that were not told."""

from pathlib import Path

from wardround.errors import DataError
from wardround.images.arrays import ENDING
from wardround.images.decode.nifti import ENDINGS
from wardround.images.dicom.parse import is_dicom
from wardround.images.layouts import aptos, bids, chest_xray, manifest
from wardround.images.layouts.dataset_json import DESCRIPTION, description_of
from wardround.images.layouts.nnunet import EXPECTED, is_nnunet
from wardround.images.store import Store
from wardround.images.table import METADATA, files_in

_TRIED = 20


def guess_layout(store: Store, table: Path | None = None) -> str:
    """Returns the name of a layout: by the file that only it has, by folders, by DICOM's mark; else `folder`.

    A `table` that lies elsewhere is taken for the layout whose name it has, and under another name for a manifest.
    """
    if store.root.name.lower().endswith(ENDING):
        return "medmnist"
    if found := _segmentation(store):
        return found
    for name, file, is_there in (
        ("bids", bids.PARTICIPANTS, True),
        ("manifest", manifest.MANIFEST, True),
        ("aptos", aptos.TABLE, aptos.is_aptos(store, table)),
    ):
        if (file in store and is_there) or (table is not None and table.name == file and is_there):
            return name
    tops = {tuple(name.split("/")[:2]) for name in files_in(store)[0] if name.count("/") >= 2}
    classes = {folder for part, folder in tops if part in chest_xray.SPLITS}
    if classes and classes <= {*chest_xray.FOLDERS}:  # other classes are another set's
        return "chest_xray"
    if not files_in(store)[0] and any(
        not name.endswith(ENDINGS) and is_dicom(store.head(name, 132)) for name in store.names()[:_TRIED]
    ):  # downloads of archives have a metadata.csv of their series
        return "dicom"
    return "folder" if table is None or table.name == METADATA else "manifest"


def _segmentation(store: Store) -> str | None:
    """Returns the layout of a set with a `dataset.json`; None where that is only a statement beside the data."""
    if DESCRIPTION not in store:
        return None
    try:
        description = description_of(store, "nnunet", EXPECTED)
    except DataError:  # a reader says what is wrong with it
        description = {}
    if is_nnunet(description):
        return "nnunet"
    has_volumes = any(name.startswith("imagesTr/") for name in store.names())
    return "decathlon" if "training" in description or has_volumes else None
