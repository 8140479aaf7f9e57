"""Frames of one file: parsed once, and each as it is read alone."""

import io

import numpy as np
import pytest
from tests.images.dicom.write import write_picture

from wardround.errors import DataError
from wardround.images.dicom import decoder, parse
from wardround.images.dicom.decoder import DicomDecoder
from wardround.images.entries import Entry

pydicom = pytest.importorskip("pydicom")

PICTURES = DicomDecoder(volumes=False)


def as_bytes(found):
    stream = io.BytesIO()
    found.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["plain", "rle", "high bit", "cut off"])
def test_a_file_is_parsed_once_for_its_frames(tmp_path, monkeypatch, kind):
    stored = np.random.default_rng(1).integers(0, 4096, (5, 6, 7)).astype(np.uint16)
    found = pydicom.dcmread(write_picture(np.zeros((1, 6, 7), np.uint8), tmp_path / "a", patient_id="x"))
    found.NumberOfFrames, found.BitsAllocated, found.BitsStored, found.HighBit = 5, 16, 16, 15
    found.PixelData = (stored << (4 if kind == "high bit" else 0)).tobytes()[: -70 if kind == "cut off" else None]
    if kind == "high bit":
        found.BitsStored, found.HighBit = 12, 15
    if kind == "rle":
        found.compress(pydicom.uid.RLELossless)
    content = [as_bytes(found)]
    entries, alone = [Entry("a", 0, "p", frame=frame) for frame in (3, 0, 4, 1, 9, 0)], []
    for entry in entries:
        try:
            alone.append(PICTURES.decode(entry, content, [], None).values.tolist())
        except DataError as error:
            alone.append(str(error))
    parsed = []

    def counted(data):
        parsed.append(1)
        return parse.whole(data)

    monkeypatch.setattr(decoder, "whole", counted)
    each = PICTURES.decode_each(entries, content, [], None)
    assert [str(one) if isinstance(one, DataError) else one.values.tolist() for one in each] == alone
    assert len(parsed) == 1
    assert "Restore the file" in alone[4]
