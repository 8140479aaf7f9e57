"""Damaged and hostile files: a count, or the one exception, and never more memory than the limits allow."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest

from wardround.errors import DataError
from wardround.images.dicom.decoder import DicomDecoder
from wardround.images.entries import Entry
from wardround.images.listing import Listing

pydicom = pytest.importorskip("pydicom")

SAMPLES = (
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "image_dfl.dcm",
)
ENTRY = Entry("p", 0, "p")


def sample(name):
    from pydicom.data import get_testdata_file

    return Path(str(get_testdata_file(name, download=False))).read_bytes()


@pytest.mark.parametrize("name", SAMPLES)
def test_no_damage_gets_past_the_one_exception(dicom, tmp_path, name):
    generator = np.random.default_rng(len(name))
    whole = sample(name)
    dicom.labels(tmp_path, "label,patient_id", "ill,4MR1", "well,x")
    decoders = DicomDecoder(volumes=True), DicomDecoder(volumes=False)
    for _ in range(25):
        damaged = bytearray(whole[: generator.integers(1, len(whole) + 1)] if generator.random() < 0.3 else whole)
        # Headers are short beside pixels: most damage is done there.
        for place in generator.integers(0, min(len(damaged), 2500), 4):
            damaged[place] = generator.integers(0, 256)
        for place in generator.integers(0, len(damaged), 4):
            damaged[place] = generator.integers(0, 256)
        (tmp_path / "damaged").write_bytes(damaged)
        with contextlib.suppress(DataError):
            assert isinstance(dicom.read(tmp_path, reviewed=True), Listing)
        for decoder in decoders:
            with contextlib.suppress(DataError):
                assert decoder.decode(ENTRY, [bytes(damaged)], [], None).values.size < 1e6


def with_codestream(dicom, tmp_path, syntax, stream, **elements):
    path = dicom.picture(tmp_path, "x", "ann")
    found = pydicom.dcmread(path)
    found.PixelData = pydicom.encaps.encapsulate([stream])
    found["PixelData"].is_undefined_length = True
    found.file_meta.TransferSyntaxUID = syntax
    for keyword, value in elements.items():
        setattr(found, keyword, value)
    found.save_as(path)
    return path.read_bytes()


def jpeg(rows, columns, marker=0xC0):
    return b"\xff\xd8\xff" + struct.pack(">BHBHHB", marker, 11, 8, rows, columns, 1) + b"\x01\x11\x00\xff\xd9"


def jpeg_2000(rows, columns, components=1):
    return b"\xff\x4f\xff\x51" + struct.pack(">HH8IH", 41, 0, columns, rows, 0, 0, columns, rows, 0, 0, components)


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (pydicom.uid.JPEGBaseline8Bit, jpeg(60_000, 60_000)),
        (pydicom.uid.JPEGBaseline8Bit, jpeg(6, 7, marker=0xC2)),
        (pydicom.uid.JPEGBaseline8Bit, jpeg(6, 7)[:-2] + jpeg(60_000, 60_000)[2:]),
        (pydicom.uid.JPEGLSLossless, jpeg(60_000, 60_000, marker=0xF7)),
        (pydicom.uid.JPEG2000, jpeg_2000(60_000, 60_000)),
        (pydicom.uid.JPEG2000, jpeg_2000(6, 7, components=16_384)),
        (pydicom.uid.RLELossless, bytes(100_000)),
        (pydicom.uid.JPEG2000, bytes(4)),
    ],
)
def test_a_codestream_larger_than_its_header_says_never_meets_a_decoder(
    dicom, tmp_path, monkeypatch, syntax, stream
):
    from pydicom.pixels.decoders.base import Decoder

    content = with_codestream(dicom, tmp_path, syntax, stream)
    asked = []
    monkeypatch.setattr(Decoder, "as_array", lambda *_, **__: asked.append(1))
    with pytest.raises(DataError, match=r"size that its header gives|damaged"):
        DicomDecoder(volumes=False).decode(ENTRY, [content], [], None)
    assert not asked


@pytest.mark.parametrize("frames", ["2000000000", "-1", "20001"])
def test_a_number_of_frames_costs_no_memory(dicom, tmp_path, frames):
    dicom.picture(tmp_path, "x", "ann", NumberOfFrames=frames)
    dicom.labels(tmp_path, "label,patient_id", "ill,ann")
    with pytest.raises(DataError, match=r"damaged DICOM files \(1"):
        dicom.read(tmp_path)


def test_sequences_nested_without_end_are_damaged(dicom, tmp_path):
    content = dicom.picture(tmp_path, "x", "ann").read_bytes()
    at = content.index(b"\x08\x00\x60\x00CS")
    nested = (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 5000
    (tmp_path / "x").write_bytes(content[:at] + nested + content[at:])
    dicom.labels(tmp_path, "label,patient_id", "ill,ann")
    with pytest.raises(DataError, match=r"damaged DICOM files \(1"):
        dicom.read(tmp_path)
