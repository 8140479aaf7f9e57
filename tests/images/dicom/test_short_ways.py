"""Short ways through a header and its pixels against pydicom's own, which they must equal wherever they are taken."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import examples
from tests.images.dicom.write import write_picture

from wardround.images.decode.quiet import QUIET
from wardround.images.dicom.parse import _usual, whole
from wardround.images.dicom.pixels import _decoded, _viewed
from wardround.images.dicom.values import value_of

pydicom = pytest.importorskip("pydicom")


PIXELS = 0x7FE00010
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def samples():
    for path in sorted(SAMPLES.glob("*.dcm")):
        content = path.read_bytes()
        if content[128:132] == b"DICM":
            yield path.name, content


def never(tag, vr, length):
    return False


def plainly(content):
    from pydicom.filereader import read_partial

    with QUIET:
        return read_partial(io.BytesIO(content), never)


def test_the_short_way_through_a_header_gives_what_the_library_gives():
    taken = 0
    for name, content in samples():
        with QUIET:
            found = _usual(content, never, None)
        if found is None:
            continue
        expected = plainly(content)
        with QUIET:
            assert found.keys() == expected.keys(), name
            assert all(found[tag] == expected[tag] for tag in expected.keys()), name  # noqa: SIM118 (a data set's keys)
            assert found.file_meta == expected.file_meta, name
        assert found.original_character_set == expected.original_character_set, name
        taken += 1
    assert taken >= 40


@pytest.mark.parametrize(
    "name", ["ExplVR_BigEnd.dcm", "image_dfl.dcm", "meta_missing_tsyntax.dcm", "no_meta_group_length.dcm"]
)
def test_a_header_that_must_be_guessed_at_goes_the_long_way(name):
    content = (SAMPLES / name).read_bytes()
    with QUIET:
        assert _usual(content, never, None) is None


@pytest.mark.parametrize("behind", [b"", b"\0", b"\0\0\0\0\4\0\0\0\0\0\0\0"])
def test_command_elements_and_an_end_behind_the_meta_group_go_the_long_way(tmp_path, behind):
    content = write_picture(np.zeros((1, 2, 2), np.uint8), tmp_path / "a", patient_id="x").read_bytes()
    end = 144 + int.from_bytes(content[140:144], "little")
    with QUIET:
        assert _usual(content[:end] + behind, never, None) is None
        assert _usual(content, never, None) is not None


@pytest.mark.parametrize("second", [b"\2\0\0\0UL\4\0\1\0\0\0", b"\2\0\0\0UL\2\0\1\0", b"\2\0\0\0SH\2\0\1\0"])
def test_a_second_length_of_the_meta_group_goes_the_long_way(tmp_path, second):
    content = write_picture(np.zeros((1, 2, 2), np.uint8), tmp_path / "a", patient_id="x").read_bytes()
    with QUIET:
        assert _usual(content[:144] + second + content[144:], never, None) is None


def test_every_value_is_the_librarys():
    from pydicom.datadict import keyword_for_tag, tag_for_keyword

    def compared(read, other):
        count = 0
        for tag in [tag for tag in other.keys() if tag <= PIXELS]:  # noqa: SIM118
            keyword = keyword_for_tag(tag)
            expected = other[tag].value
            if expected.__class__ is pydicom.Sequence:
                count += sum(compared(*both) for both in zip(read[tag].value, expected, strict=True))
            elif tag_for_keyword(keyword) == tag:
                value = value_of(read, keyword)
                assert (value, type(value)) == (expected, type(expected)), keyword
                count += 1
        return count

    counts = []
    for _, content in samples():
        try:
            with QUIET:
                counts.append(compared(whole(content), plainly(content)))
        except NotImplementedError:  # a VR that does not exist, for both
            continue
    assert sum(counts) > 2000


def test_a_text_is_read_in_the_character_set_of_its_file(tmp_path):
    path = write_picture(np.zeros((1, 2, 2), np.uint8), tmp_path / "a", patient_id="Jürgen")
    assert value_of(whole(path.read_bytes()), "PatientID") == "Jürgen"


@given(
    st.sampled_from([8, 16]),
    st.integers(1, 16),
    st.sampled_from([0, 1]),
    st.integers(1, 3),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 99),
)
@examples(60)
def test_uncompressed_cells_are_viewed_as_the_library_decodes_them(cell, bits, sign, frames, rows, implicit, seed):
    found = picture(cell, min(bits, cell), sign, frames, (rows, 3), seed)
    found.file_meta.TransferSyntaxUID = (
        pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
    )
    stream = io.BytesIO()
    with QUIET:
        pydicom.dcmwrite(stream, found, enforce_file_format=True)
        for frame in (None, *range(frames)):
            viewed, decoded = _viewed(whole(stream.getvalue()), frame, frames), _decoded(found, frame)
            assert viewed is not None
            assert viewed.dtype == decoded.dtype
            np.testing.assert_array_equal(viewed, decoded)


def picture(cell=16, bits=12, sign=0, frames=1, shape=(2, 3), seed=0):
    """A data set of random cells, all their bits in use."""
    from pydicom.dataset import FileMetaDataset

    found = pydicom.Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    found.SOPClassUID, found.SOPInstanceUID = pydicom.uid.DigitalXRayImageStorageForPresentation, "1.2"
    found.Rows, found.Columns = shape
    found.NumberOfFrames, found.SamplesPerPixel, found.PhotometricInterpretation = frames, 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = cell, bits, bits - 1, sign
    content = np.random.default_rng(seed).bytes(frames * shape[0] * shape[1] * cell // 8)
    found.PixelData = content + b"\0" * (len(content) % 2)
    found["PixelData"].VR = "OW" if cell == 16 else "OB"
    return found


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "RGB"},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"SamplesPerPixel": 3},
        {"PixelData": bytes(14)},
        {"PixelData": bytes(10)},
        {"BitsAllocated": 32},
        {"BitsStored": 0},
        {"BitsStored": 17, "HighBit": 16},
        {"HighBit": 15},
        {"PixelRepresentation": 2},
        {"PixelRepresentation": None},
        {"Rows": [2, 2]},
        {"NumberOfFrames": [1, 1]},
        {"FloatPixelData": bytes(24)},
    ],
)
def test_in_doubt_pixels_go_the_long_way(elements):
    found = picture()
    assert _viewed(found, 0, 1) is not None
    for keyword, value in elements.items():
        setattr(found, keyword, value)
    assert _viewed(found, 0, 1) is None


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99", "1.2.3"]
)
def test_pixels_of_another_transfer_syntax_go_the_long_way(syntax):
    found = picture()
    found.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    assert _viewed(found, 0, 1) is None
