"""Array to DICOM to array; slices in any order; series that make no volume are left out with a reason."""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround.errors import DataError
from wardround.images.dicom import geometry
from wardround.images.dicom.decoder import DicomDecoder
from wardround.images.entries import Entry

pydicom = pytest.importorskip("pydicom")

ENTRY = Entry("p/s", 0, "p")
VOLUMES = DicomDecoder(volumes=True)


def turned_affine(order, flips, spacing, angles, origin):
    """Axes in any order and direction, turned a little about two of them."""
    a, b = angles
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.eye(3)[:, list(order)] * np.where(flips, -1, 1) * spacing
    affine[:3, 3] = origin
    return affine


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(3)),
    flips=st.lists(st.booleans(), min_size=3, max_size=3),
    spacing=st.lists(st.floats(0.3, 7), min_size=3, max_size=3),
    angles=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    slope=st.sampled_from([1.0, 0.5, 2.25]),
    intercept=st.sampled_from([0.0, -1024.0, 7.5]),
    seed=st.integers(0, 1000),
)
def test_array_to_dicom_to_array(dicom, tmp_path_factory, order, flips, spacing, angles, slope, intercept, seed):
    root = tmp_path_factory.mktemp("series")
    affine = turned_affine(order, flips, spacing, angles, (-90.0, 30.5, 12.25))
    generator = np.random.default_rng(seed)
    values = slope * generator.integers(-2000, 2000, (3, 4, 5)) + intercept
    from tests.images.dicom.write import write_dicom

    paths = write_dicom(values, affine, root, patient_id="x", slope=slope, intercept=intercept)
    contents = [path.read_bytes() for path in paths]
    generator.shuffle(contents)
    raw = VOLUMES.decode(ENTRY, contents, [], None)

    # The axes are nearest to RAS+, and every voxel is where it was.
    assert raw.affine is not None
    cosines = raw.affine[:3, :3] / np.linalg.norm(raw.affine[:3, :3], axis=0)
    assert (np.abs(cosines).argmax(axis=0) == np.arange(3)).all()
    assert (np.diag(raw.affine)[:3] > 0).all()
    np.testing.assert_allclose(sorted(np.linalg.norm(raw.affine[:3, :3], axis=0)), sorted(spacing), rtol=1e-5)
    indices = np.vstack([np.indices(raw.values.shape[1:]).reshape(3, -1), np.ones(60)])
    places = np.linalg.inv(affine) @ raw.affine @ indices
    i, j, k = np.rint(places[:3]).astype(int)
    np.testing.assert_allclose(places[:3], [i, j, k], atol=1e-3)
    np.testing.assert_array_equal(raw.values[0].ravel(), values[i, j, k].astype(np.float32))
    assert raw.values.dtype == np.float32
    shutil.rmtree(root)


def test_a_standard_axial_series_is_turned_to_ras(dicom, tmp_path):
    # Rows run to the left, columns to the back: the third axis to the head is the only one that stays.
    paths, values = dicom.volume(tmp_path, "a", "x", affine=np.diag([-2.0, -3.0, 4.0, 1.0]))
    assert pydicom.dcmread(paths[0]).ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    raw = VOLUMES.decode(ENTRY, [path.read_bytes() for path in paths], [], None)
    assert raw.affine is not None
    np.testing.assert_array_equal(raw.values[0], values[::-1, ::-1])
    np.testing.assert_allclose(raw.affine, [[2, 0, 0, -6], [0, 3, 0, -12], [0, 0, 4, 0], [0, 0, 0, 1]])


def test_each_slice_has_its_own_rescaling(dicom, tmp_path):
    paths, values = dicom.volume(tmp_path, "a", "x", modality="PT")
    for number, path in enumerate(paths, start=1):
        dicom.edit(path, RescaleSlope=number, RescaleIntercept=-number)
    raw = VOLUMES.decode(ENTRY, [path.read_bytes() for path in paths], [], None)
    numbers = np.arange(1, 7)
    np.testing.assert_array_equal(raw.values[0], values * numbers - numbers)


def spoil_gap(dicom, paths):
    paths[2].unlink()


def spoil_repeat(dicom, paths):
    shutil.copy(paths[2], paths[2].with_name("again"))
    dicom.edit(paths[2].with_name("again"), SOPInstanceUID=pydicom.uid.generate_uid())


def spoil_orientation(dicom, paths):
    dicom.edit(paths[2], ImageOrientationPatient=[0, 1, 0, 0, 0, 1])


def spoil_spacing(dicom, paths):
    dicom.edit(paths[2], PixelSpacing=[1, 1])


def spoil_position(dicom, paths):
    dicom.edit(paths[2], ImagePositionPatient=None)


def spoil_tilt(dicom, paths):
    for number, path in enumerate(paths):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        dicom.edit(path, ImagePositionPatient=[x, y + 2 * number, z])


def spoil_patient(dicom, paths):
    dicom.edit(paths[2], PatientID="somebody else")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_gap, geometry.UNEVEN),
        (spoil_repeat, geometry.REPEATED),
        (spoil_orientation, geometry.MIXED),
        (spoil_spacing, geometry.MIXED),
        (spoil_position, geometry.UNPLACED),
        (spoil_tilt, geometry.TILTED),
        (spoil_patient, geometry.UNEVEN),
    ],
)
def test_a_series_that_is_no_even_stack_is_left_out_and_the_others_stay(dicom, tmp_path, spoil, reason):
    for number in range(3):
        paths, _ = dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number)
    spoil(dicom, paths)
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")
    listing = dicom.read(tmp_path)
    assert len(listing.entries) == 2
    assert any(note == f"series left out: {reason} (1)" for note in listing.notes)


def test_positions_rounded_to_a_tenth_are_even(dicom, tmp_path):
    paths, _ = dicom.volume(tmp_path, "a", "x", shape=(3, 3, 20), affine=np.diag([1, 1, 0.625, 1.0]))
    for path in paths:
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        dicom.edit(path, ImagePositionPatient=[x, y, round(float(z), 1)])
    raw = VOLUMES.decode(ENTRY, [path.read_bytes() for path in paths], [], None)
    assert raw.affine is not None
    assert np.linalg.norm(raw.affine[:3, 2]) == pytest.approx(0.625, abs=0.01)


def test_a_file_that_comes_twice_counts_once(dicom, tmp_path):
    for number in range(2):
        dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number)
    shutil.copytree(tmp_path / "s0", tmp_path / "copy of s0")
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")
    listing = dicom.read(tmp_path)
    assert [len(entry.sources) for entry in listing.entries] == [6, 6]
    assert any(note.startswith("passed over: 6 files with an image") for note in listing.notes)


def test_a_localizer_is_passed_over(dicom, tmp_path):
    for number in range(2):
        paths, _ = dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number)
    dicom.edit(shutil.copy(paths[0], tmp_path / "scout"), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], Rows=5)
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")
    assert len(dicom.read(tmp_path).entries) == 2


def test_pictures_and_volumes_in_one_folder_are_refused(dicom, tmp_path):
    for number in range(2):
        dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number)
        dicom.picture(tmp_path, f"x{number}", f"patient {number}")
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")
    with pytest.raises(DataError, match=r"pictures \(DX 2\) and slices of volumes \(MR 12\)"):
        dicom.read(tmp_path)
