"""One SeriesInstanceUID under two patients: a series of each, and a finding that names it."""

import pytest

from wardround.images.listing import ReaderOptions
from wardround.images.load import load_images
from wardround.images.quality.inspection import inspect
from wardround.images.rows.recipe import VolumeRecipe

pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def shared(dicom, tmp_path):
    """Three patients with a volume each, of whom the last has the first one's SeriesInstanceUID; its files."""
    root = tmp_path / "data"
    for number in range(3):
        paths, _ = dicom.volume(root, f"s{number}", f"patient {number}", seed=number)
    uid = pydicom.dcmread(next((root / "s0").iterdir())).SeriesInstanceUID
    for path in paths:
        dicom.edit(path, SeriesInstanceUID=uid)
    dicom.labels(root, "label,patient_id", "ill,patient 0", "well,patient 1", "well,patient 2")
    return root, paths


def test_no_patients_volume_depends_on_the_other_patient_of_its_series(dicom, shared):
    root, paths = shared
    with_both = {entry.file: entry.patient for entry in dicom.read(root).entries}
    assert len(with_both) == 3
    for path in paths:
        path.unlink()
    alone = dicom.read(root)
    assert {entry.file: entry.patient for entry in alone.entries}.items() < with_both.items()
    assert len(alone.entries) == 2
    assert alone.shared_series == ()


def test_the_series_and_its_patients_are_named(dicom, shared, tmp_path):
    root, _ = shared
    listing = dicom.read(root)
    [(series, *people)] = listing.shared_series
    assert people == sorted(entry.patient for entry in listing.entries if entry.file.endswith(series))
    assert f"series that stand under two patients: {series}: {' and '.join(people)}" in listing.noticed()
    options = ReaderOptions(key_file=tmp_path / "key")
    images = load_images("dicom", root, cache_dir=tmp_path, recipes=[VolumeRecipe((4, 4, 4))], options=options)
    [notice] = [notice for notice in inspect(images).notices if notice.code == "shared_series"]
    assert notice.count == images.findings.summary()["shared_series"] == 1
    assert notice.names[0].count("p-") == 2
