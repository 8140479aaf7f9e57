"""Names planted in every header element, private tags and file names of an export are found nowhere afterwards."""

import gc
import logging
import traceback
import warnings

import pytest
from tests.cases import family

from wardround.errors import DataError
from wardround.images.rows.cache import cache_key

pydicom = pytest.importorskip("pydicom")

CANARY = "CANARY"
LABELS = ("ill", "well")
VRS = (
    "AE",
    "AS",
    "CS",
    "DA",
    "DS",
    "DT",
    "IS",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "TM",
    "UC",
    "UI",
    "UN",
    "UR",
    "UT",
    "OB",
)
KEPT = {
    "SpecificCharacterSet", "SOPClassUID", "Modality", "ImageType", "ConversionType", "BurnedInAnnotation",
    "PhotometricInterpretation", "NumberOfFrames", "SegmentLabel",
}  # fmt: skip
"""What a file needs to be read at all. Segment labels are public names of classes."""

NUMBERS = (
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "InstanceNumber",
    "SpacingBetweenSlices",
)
"""Where a canary makes a file damaged, which another test is about."""


def plant(path, number):
    """A canary in every text-like element of the dictionary, where it stands; also as malformed values."""
    found = pydicom.dcmread(path)
    planted = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, (vr, _, _, _, keyword) in sorted(pydicom._dicom_dict.DicomDictionary.items()):
            if tag >> 16 not in range(0x0008, 0x5400) or keyword in KEPT or not keyword or vr not in VRS:
                continue
            if keyword in found and vr not in ("LO", "UI"):
                continue
            value = f"{CANARY}{number:03d}X{planted}".encode()
            raw = pydicom.dataelem.RawDataElement(
                pydicom.tag.BaseTag(tag),
                vr,
                len(value) + len(value) % 2,
                value + b" " * (len(value) % 2),
                0,
                False,
                True,
            )
            found._dict[raw.tag] = raw
            planted += 1
        block = found.private_block(0x0011, f"{CANARY} maker", create=True)
        block.add_new(1, "LO", f"{CANARY} private")
        block.add_new(2, "UN", f"{CANARY} unknown".encode())
        found.private_block(0x0099, f"{CANARY} other", create=True).add_new(1, "PN", f"{CANARY}^private")
        found.file_meta.ImplementationVersionName = f"{CANARY}"
        found.file_meta.SourceApplicationEntityTitle = f"{CANARY}"
        found.preamble = CANARY.encode().ljust(128, b"\0")
        found.save_as(path, enforce_file_format=False)
    assert planted > 800
    return path


def said(listing, raws, caplog, capsys, caught):
    """Everything that could leave: names, notes, errors with their chains, logs, streams, warnings, pictures."""
    streams = capsys.readouterr()
    parts = [
        repr(listing),
        *listing.notes,
        caplog.text,
        streams.out,
        streams.err,
        *(str(w.message) for w in caught),
    ]
    parts += [listing.decoder.key, cache_key((listing.decoder.key,), [entry.file for entry in listing.entries])]
    parts += [repr(vars(entry)) for entry in listing.entries]
    parts += [raw.values.tobytes().decode("latin-1") + repr(raw) for raw in raws]
    return "\n".join(parts)


def chain_of(error):
    seen = []
    while error is not None:
        seen += [str(error), repr(error), *traceback.format_exception(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(seen)


def planted_export(dicom, root, kind):
    """Two patients' pictures or volumes, full of canaries; what must be a number or agree is set right again."""
    rows = ["label,patient_id"]
    for number in range(2):
        name = f"{CANARY}-file-{number}/{CANARY}^{number}"
        if kind == "pictures":
            paths = [dicom.picture(root, name, "x", level=number)]
        else:
            paths = dicom.volume(root, name, "x", seed=number, modality="CT")[0]
        for place, path in enumerate(paths):
            plant(path, number)
            found = pydicom.dcmread(path)
            for keyword in NUMBERS:
                if str(found.get_item(keyword)).find(CANARY) >= 0:
                    del found[keyword]
            found.PatientID, found.IssuerOfPatientID = f"{CANARY} {number}", f"{CANARY} issuer"
            found.StudyInstanceUID, found.SeriesInstanceUID = f"{CANARY}.{number}", f"{CANARY}.{number}.1"
            found.SOPInstanceUID, found.FrameOfReferenceUID = f"{CANARY}.{number}.{place}", f"{CANARY}.9"
            found.save_as(path)
        rows.append(f"{LABELS[number]},{CANARY} {number}")
    (root / f"{CANARY}.txt").write_text(CANARY)
    (root / f"{CANARY}-damaged").write_bytes(bytes(128) + b"DICM" + CANARY.encode() * 50)
    dicom.labels(root, *rows, f"ill,{CANARY} unmatched")


@pytest.mark.parametrize("kind", family(["pictures", "volumes"]))
def test_no_planted_name_leaves(dicom, tmp_path, caplog, capsys, kind):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "pydicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planted_export(dicom, tmp_path, kind)
    caplog.clear()
    capsys.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        listing = dicom.read(tmp_path)
        raws = dicom.decode(tmp_path, listing)
        gc.collect()
    assert len(listing.entries) == 2
    assert CANARY not in said(listing, raws, caplog, capsys, caught)
    assert len({raw.values.tobytes() for raw in raws}) == 2


@pytest.mark.parametrize(
    "elements",
    [
        {"Rows": CANARY},
        {"PixelSpacing": CANARY},
        {"ImagePositionPatient": f"{CANARY}\\1\\2"},
        {"ImageOrientationPatient": CANARY},
        {"RescaleSlope": CANARY, "RescaleIntercept": CANARY},
        {"NumberOfFrames": CANARY},
        {"BitsStored": CANARY},
        {"PhotometricInterpretation": CANARY},
        {"InstanceNumber": CANARY},
        {"SpecificCharacterSet": CANARY},
    ],
)
def test_no_malformed_value_is_quoted(dicom, tmp_path, caplog, capsys, elements):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "pydicom")
    paths, _ = dicom.volume(tmp_path, "s", "ann", modality="CT", shape=(3, 3, 2))
    for path in paths:
        found = pydicom.dcmread(path)
        for keyword, text in elements.items():
            tag = pydicom.tag.Tag(keyword)
            value = text.encode() + b" " * (len(text) % 2)
            found._dict[tag] = pydicom.dataelem.RawDataElement(
                tag, pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.save_as(path)
    dicom.labels(tmp_path, "label,patient_id", "ill,ann")
    from wardround.images.dicom.decoder import DicomDecoder
    from wardround.images.entries import Entry

    caplog.clear()
    capsys.readouterr()
    said_so = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        contents = [path.read_bytes() for path in paths]
        for attempt in (
            lambda: dicom.read(tmp_path),
            lambda: DicomDecoder(volumes=True).decode(Entry("p", 0, "p"), contents, [], None),
            lambda: DicomDecoder(volumes=False).decode(Entry("p", 0, "p"), contents, [], None),
        ):
            try:
                said_so.append(repr(attempt()))
            except DataError as error:
                said_so.append(chain_of(error))
    streams = capsys.readouterr()
    everything = "\n".join([*said_so, caplog.text, streams.out, streams.err, *(str(w.message) for w in caught)])
    assert CANARY not in everything


def test_the_search_finds_what_is_there(dicom, tmp_path):
    # A search that cannot find anything would always pass.
    path = plant(dicom.picture(tmp_path, "x", "ann"), 1)
    content = path.read_bytes()
    assert content.count(CANARY.encode()) > 800
    with pytest.raises(ValueError, match=CANARY):
        float(pydicom.dcmread(path).get_item("RescaleSlope").value)
