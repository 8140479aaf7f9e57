"""From an export to entries: nesting, patients, labels, and counts of everything that was passed over."""

import contextlib
import io
import re
import zipfile

import numpy as np
import pytest
from tests.errors import raises_code

from wardround.errors import DataError
from wardround.images.dicom.pseudonyms import pseudonym
from wardround.images.entries import Target, Task
from wardround.images.listing import ReaderOptions
from wardround.images.load import list_entries
from wardround.images.store import open_store

pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def export(dicom, tmp_path):
    """Four pictures of three patients, at any depth and under any name."""
    for name, patient in (("a", "ann"), ("b/c/d.dcm", "ann"), ("b/IM0001", "bob"), ("b/IM0002", "cas")):
        dicom.picture(tmp_path, name, patient, level=len(name))
    return tmp_path


def test_files_at_any_depth_and_of_any_name_are_read(dicom, export):
    dicom.labels(export, "label,patient_id,site,split", "ill,ann,north,train", "well,bob,,test", "well,cas,south,")
    listing = dicom.read(export)
    assert listing.class_names == ("ill", "well")
    assert listing.target is Target.CLASSES
    ann = "p-" + pseudonym(dicom.key, "patient", "ann")
    assert [(e.site, e.split) for e in listing.entries if e.patient == ann] == [("north", "train")] * 2
    assert sorted(entry.label for entry in listing.entries) == [0, 0, 1, 1]
    levels = sorted(raw.values[0, 0, 0] for raw in dicom.decode(export, listing))
    assert levels == sorted(map(len, ("a", "b/c/d.dcm", "b/IM0001", "b/IM0002")))


def test_entries_are_called_by_pseudonyms_and_sources_are_counted(dicom, export):
    dicom.labels(export, "label,patient_id", "ill,ann", "well,bob", "well,cas")
    for entry in dicom.read(export).entries:
        patient, series, number = entry.file.split("/")
        assert patient == entry.patient
        assert len(patient) >= 18
        assert series.startswith("s-")
        assert number == "0001"
        assert all(source.startswith("file ") and source.endswith(" of 5") for source in entry.sources)


def test_an_archive_is_read_as_its_folder_is(dicom, export, tmp_path_factory):
    dicom.labels(export, "label,patient_id", "ill,ann", "well,bob", "well,cas")
    packed = tmp_path_factory.mktemp("packed") / "export.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in export.rglob("*"):
            archive.write(path, path.relative_to(export))
    assert dicom.read(packed) == dicom.read(export)
    for one, two in zip(*(dicom.decode(root, dicom.read(root)) for root in (packed, export)), strict=True):
        np.testing.assert_array_equal(one.values, two.values)


@pytest.mark.parametrize(
    ("column", "keyword"),
    [("study_uid", "StudyInstanceUID"), ("series_uid", "SeriesInstanceUID"), ("sop_uid", "SOPInstanceUID")],
)
def test_labels_may_name_studies_series_or_images(dicom, export, column, keyword):
    names = [str(pydicom.dcmread(export / file)[keyword].value) for file in ("a", "b/c/d.dcm", "b/IM0001")]
    dicom.labels(
        export, f"{column},label", f"{names[0]},x", f"{names[1]},y", f"{names[2]},y", "1.2.3,x", "1.2.4,y"
    )
    listing = dicom.read(export)
    assert sorted(entry.label for entry in listing.entries) == [0, 1, 1]
    assert "left out: pictures with no label (1)" in listing.notes
    assert "rows of the table of labels that match nothing that is read (2)" in listing.notes


def test_a_volume_is_labelled_by_any_of_its_slices_unless_they_disagree(dicom, tmp_path):
    uids = []
    for number in range(3):
        paths, _ = dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number)
        uids.append([str(pydicom.dcmread(path).SOPInstanceUID) for path in paths[:2]])
    dicom.labels(
        tmp_path, "sop_uid,label", f"{uids[0][0]},x", f"{uids[1][1]},y", f"{uids[2][0]},x", f"{uids[2][1]},y"
    )
    listing = dicom.read(tmp_path)
    assert len(listing.entries) == 2
    assert "left out: volumes with two labels (1)" in listing.notes


def test_a_table_that_lies_elsewhere_is_read_too(dicom, export, tmp_path_factory):
    table = tmp_path_factory.mktemp("elsewhere") / "t.csv"
    table.write_text("\ufefflabel,patient_id\n10,ann\n9,bob\n2,cas\n", encoding="utf-8")
    listing = dicom.read(export, Task.GRADING, labels=table)
    assert listing.class_names == ("2", "9", "10")
    assert listing.target is Target.GRADES


@pytest.mark.parametrize(
    "table",
    [
        "SMITH^JOHN,1970\nill,ann",
        "label,patient_id,study_uid\nill,ann,1",
        "label\nill",
        "label,patient_id\nill,SMITH^JOHN\nwell,SMITH^JOHN",
        "label,patient_id\n,SMITH^JOHN",
        'label,patient_id\nill,"SMITH^JOHN',
        "",
    ],
)
def test_a_table_that_does_not_hold_is_refused_without_quoting_it(dicom, export, table):
    (export / "labels.csv").write_text(table)
    with pytest.raises(DataError, match="table of labels") as caught:
        dicom.read(export)
    assert "SMITH" not in str(caught.value)
    assert caught.value.__context__ is None


def test_one_class_is_not_enough_and_binary_needs_two(dicom, export):
    for rows, code in ((("ill,ann",), "data-one-class"), (("ill,ann", "well,bob", "other,cas"), "data-binary")):
        dicom.labels(export, "label,patient_id", *rows)
        with raises_code(DataError, code):
            list_entries("dicom", open_store(export), Task.BINARY)


def test_another_task_or_no_table_is_an_error(dicom, export):
    with pytest.raises(DataError, match="table of labels"):
        dicom.read(export)
    with raises_code(DataError, "data-task"):
        list_entries("dicom", open_store(export), Task.SUBTYPE)
    with pytest.raises(DataError, match="series of CT, MR or PT"):
        dicom.read(export, Task.SEGMENTATION)


def test_everything_that_is_passed_over_is_counted(dicom, export):
    dicom.labels(export, "label,patient_id", "ill,ann", "well,bob", "well,cas")
    (export / "notes.txt").write_text("hello")
    (export / "b/empty").write_bytes(b"")
    (export / "damaged").write_bytes(bytes(128) + b"DICM" + b"\2\0\x10\0UI\x14\0" + bytes(3))
    dicom.picture(export, "report", "ann", Modality="SR")
    dicom.picture(export, "nobody", "  ")
    dicom.picture(export, "video", "ann")
    found = pydicom.dcmread(export / "video")
    found.PixelData = pydicom.encaps.encapsulate([b"\0\0\1\xb3"])
    found.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    found["PixelData"].is_undefined_length = True
    found.save_as(export / "video")
    listing = dicom.read(export)
    assert len(listing.entries) == 4
    for start in ("files that are not DICOM (2)", "DICOM files without pictures", "files without a PatientID"):
        assert any(note.startswith(f"passed over: {start}") for note in listing.notes), listing.notes
    assert any("such as video" in note for note in listing.notes)


def test_an_export_without_anything_of_use_is_an_error_with_counts(dicom, tmp_path):
    (tmp_path / "x").write_text("hello")
    dicom.labels(tmp_path, "label,patient_id", "ill,ann")
    with pytest.raises(DataError, match=r"got 1 file and nothing of use: files that are not DICOM \(1"):
        dicom.read(tmp_path)


def test_the_frames_of_a_file_are_pictures_of_one_patient(dicom, tmp_path):
    for number in range(2):
        path = dicom.picture(tmp_path, f"x{number}", f"patient {number}")
        frames = np.arange(3 * 42, dtype=np.uint8) + number
        dicom.edit(path, NumberOfFrames=3, PixelData=frames.tobytes())
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")
    listing = dicom.read(tmp_path)
    assert [entry.frame for entry in listing.entries] == [0, 1, 2] * 2
    assert len({entry.file for entry in listing.entries}) == 6
    found = {int(raw.values[0, 0, 0]) for raw in dicom.decode(tmp_path, listing)}
    assert found == {0, 42, 84, 1, 43, 85}


@pytest.mark.parametrize("gone", [(), (0, 2), (1,), (3,), (0, 1, 2)])
def test_the_name_of_a_patient_follows_no_other_ones_files_whatever_their_issuers(dicom, tmp_path, gone):
    def export(root, numbers):
        for number in numbers:
            dicom.picture(
                root, f"x{number}", "7", level=number, IssuerOfPatientID=("north", "south", "north", "")[number]
            )
        for person in "89":
            dicom.picture(root, f"y{person}", person, IssuerOfPatientID="north")
        return dicom.read(dicom.labels(root, "label,patient_id", "ill,7", "well,8", "well,9"))

    whole = export(tmp_path / "whole", range(4))
    some = export(tmp_path / "some", sorted(set(range(4)) - set(gone)))
    assert {entry.patient for entry in some.entries} <= {entry.patient for entry in whole.entries}
    assert len({entry.patient for entry in whole.entries}) == 3
    said = [note for note in some.notes if note.startswith("1 PatientID is of two issuers or more")]
    assert len(said) == (1 not in gone and not {0, 2} <= set(gone))


def test_a_table_tells_two_persons_of_one_number_apart(dicom, tmp_path):
    for number, issuer in enumerate(("north", "south")):
        dicom.picture(tmp_path, f"x{number}", "7", level=number, IssuerOfPatientID=issuer)
    dicom.picture(tmp_path, "y", "8")
    dicom.labels(tmp_path, "label,patient_id", "ill,7", "well,8")
    first = next(entry for entry in dicom.read(tmp_path).entries if entry.label == 0)
    (tmp_path / "patients.csv").write_text(f"picture,patient\n{first.file},another\n")
    options = ReaderOptions(key_file=tmp_path / "key")
    (tmp_path / "key").write_bytes(dicom.key)
    (tmp_path / "key").chmod(0o600)
    with contextlib.closing(open_store(tmp_path)) as store:
        listing = list_entries("dicom", store, None, options)
    assert len({entry.patient for entry in listing.entries}) == 3


@pytest.mark.parametrize(
    "without", [["SOPInstanceUID"], ["SeriesInstanceUID"], ["SOPInstanceUID", "SeriesInstanceUID"]]
)
def test_files_without_uids_keep_their_names_when_another_patient_leaves(dicom, tmp_path, without):
    def named():
        listing = dicom.read(tmp_path)
        levels = [int(raw.values[0, 0, 0]) for raw in dicom.decode(tmp_path, listing)]
        return {entry.file: level for entry, level in zip(listing.entries, levels, strict=True)}

    for person in "abc":
        for number in range(5):
            elements = {"InstanceNumber": 1, **dict.fromkeys(without)}
            dicom.picture(tmp_path, f"{person}{number}", person, level=40 * number + 9, **elements)
    dicom.labels(tmp_path, "label,patient_id", "ill,a", "well,b", "well,c")
    whole = named()
    for number in range(5):
        (tmp_path / f"a{number}").unlink()
    some = named()
    assert (len(whole), len(some)) == (15, 10)
    assert some.items() < whole.items()


@pytest.mark.parametrize("others", [["Bob"], ["bob"], []])
def test_ids_of_a_table_that_a_spreadsheet_changed_are_said(dicom, tmp_path, others):
    for number, person in enumerate(["007", "0042", *others]):
        dicom.picture(tmp_path, f"x{number}", person, level=number)
    dicom.labels(tmp_path, "label,patient_id", "ill,7", "well,42", "well,bob", "ill,gone")
    cause = "but for leading zeros, case or dashes"
    with contextlib.ExitStack() as stack:
        refused = stack.enter_context(raises_code(DataError, "data-nothing-left")) if others != ["bob"] else None
        listing = dicom.read(tmp_path)
    said = str(refused.value) if refused else "; ".join(listing.notes)
    assert cause in said
    assert not re.search(r"\b007\b", said), "pseudonyms may have these digits, an id of the export is a word"
    if not refused:
        assert {one.name: one.label for one in listing.left_out if cause in one.cause} == {
            "line 2": "ill",
            "line 3": "well",
        }


def test_a_study_under_two_patients_is_said(dicom, export):
    study = pydicom.dcmread(export / "a").StudyInstanceUID
    dicom.edit(export / "b/IM0001", StudyInstanceUID=study)
    dicom.labels(export, "label,patient_id", "ill,ann", "well,bob", "well,cas")
    assert any(note.startswith("1 study stands under two patients") for note in dicom.read(export).notes)


def test_another_key_gives_other_names_for_the_same_pictures(dicom, export):
    from wardround.images.dicom.reader import read_dicom
    from wardround.images.listing import ReaderOptions
    from wardround.images.store import open_store

    dicom.labels(export, "label,patient_id", "ill,ann", "well,bob", "well,cas")
    one = dicom.read(export)
    two = read_dicom(open_store(export), Task.CLASSIFICATION, key=bytes(32), options=ReaderOptions())
    assert not {entry.patient for entry in one.entries} & {entry.patient for entry in two.entries}
    assert sorted(entry.sources for entry in one.entries) == sorted(entry.sources for entry in two.entries)


@pytest.mark.parametrize("key", [b"", b"short", bytes(33)])
def test_a_key_of_another_size_is_refused(export, key):
    from wardround.images.dicom.reader import read_dicom
    from wardround.images.listing import ReaderOptions
    from wardround.images.store import open_store

    with pytest.raises(DataError, match="32 bytes"):
        read_dicom(open_store(export), Task.CLASSIFICATION, key=key, options=ReaderOptions())


def test_without_pydicom_the_sentence_says_what_to_install(dicom, export, monkeypatch):
    import sys

    from wardround.errors import MissingExtra

    dicom.labels(export, "label,patient_id", "ill,ann", "well,bob", "well,cas")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtra, match=r"pip install 'wardround\[dicom\]'"):
        dicom.read(export)


def test_without_a_decoder_the_sentence_says_what_to_install(dicom, export, monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    from wardround.errors import MissingExtra

    dicom.labels(export, "label,patient_id", "ill,ann", "well,bob", "well,cas")
    monkeypatch.setattr(Decoder, "is_available", False)
    with pytest.raises(MissingExtra, match=r"pip install 'wardround\[dicom\]'"):
        dicom.read(export)


def test_a_header_longer_than_the_limit_is_damaged(dicom, export, monkeypatch):
    from wardround.images.dicom import parse

    found = pydicom.dcmread(export / "a")
    found.add_new(0x00091001, "OB", bytes(200_000))
    found.save_as(export / "a")
    dicom.labels(export, "label,patient_id", "ill,ann", "well,bob", "well,cas")
    assert len(dicom.read(export).entries) == 4
    monkeypatch.setattr(parse, "MAX_HEADER_BYTES", 150_000)
    assert any(note.startswith("passed over: damaged DICOM files (1)") for note in dicom.read(export).notes)


def test_a_deflated_file_is_unpacked_no_further_than_the_limit(dicom, tmp_path, monkeypatch):
    from wardround.images.dicom import parse
    from wardround.images.dicom.decoder import DicomDecoder
    from wardround.images.entries import Entry

    path = dicom.picture(tmp_path, "x", "ann", level=7)
    found = pydicom.dcmread(path)
    found.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    packed = io.BytesIO()
    found.save_as(packed)
    pictures = DicomDecoder(volumes=False)
    assert (pictures.decode(Entry("x", 0, "p"), [packed.getvalue()], [], None).values == 7).all()
    monkeypatch.setattr(parse, "MAX_INFLATED_BYTES", 100)
    with pytest.raises(DataError, match="unpack to at most 100 bytes"):
        pictures.decode(Entry("x", 0, "p"), [packed.getvalue()], [], None)
