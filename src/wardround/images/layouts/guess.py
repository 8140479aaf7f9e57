"""The layout that a folder most likely has, for commands that were not told."""

from pathlib import Path

from wardround.images.decode.nifti import ENDINGS
from wardround.images.dicom.parse import is_dicom
from wardround.images.layouts import aptos, chest_xray, decathlon, manifest
from wardround.images.store import Store
from wardround.images.table import METADATA, files_in

_TRIED = 20


def guess_layout(store: Store, table: Path | None = None) -> str:
    """Returns the name of a layout: by the file that only it has, by folders, by DICOM's mark; else `folder`.

    A `table` that lies elsewhere is taken for the layout whose name it has, and under another name for a manifest.
    """
    for name, file in (
        ("decathlon", decathlon.DESCRIPTION),
        ("manifest", manifest.MANIFEST),
        ("aptos", aptos.TABLE),
    ):
        if file in store or (table is not None and table.name == file):
            return name
    tops = {tuple(name.split("/")[:2]) for name in files_in(store)[0] if name.count("/") >= 2}
    classes = {folder for part, folder in tops if part in chest_xray.SPLITS}
    if classes and classes <= {*chest_xray.FOLDERS}:  # other classes are another set's
        return "chest_xray"
    if (
        METADATA not in store
        and not files_in(store)[0]
        and any(not name.endswith(ENDINGS) and is_dicom(store.read(name)) for name in store.names()[:_TRIED])
    ):
        return "dicom"
    return "folder" if table is None or table.name == METADATA else "manifest"
