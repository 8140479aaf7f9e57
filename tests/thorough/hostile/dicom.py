"""Hostile DICOM files: each is one change of a picture or a slice in an export that is read without it."""

import shutil
import struct
import warnings
import zlib

import numpy as np
from tests.images.dicom.write import write_dicom, write_picture
from tests.thorough.hostile.case import Case, changed, checked

UNDEFINED = b"\xff\xff\xff\xff"
ITEM, END_OF_ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
PIXELS = b"\xe0\x7f\x10\x00"
SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "big endian": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99",
    "JPEG": "1.2.840.10008.1.2.4.50",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "RLE": "1.2.840.10008.1.2.5",
    "MPEG": "1.2.840.10008.1.2.4.100",
    "unknown": "1.2.3.4",
    "no UID": "KANARINSIDE",
}

ELEMENTS = {
    "rows and columns of 65535": {"Rows": 65535, "Columns": 65535},
    "no rows": {"Rows": 0},
    "rows of no length": {"Rows": None},
    "one row more": {"Rows": 33},
    "bits allocated 64": {"BitsAllocated": 64},
    "bits allocated 7": {"BitsAllocated": 7},
    "bits allocated 1": {"BitsAllocated": 1},
    "bits stored 32": {"BitsStored": 32},
    "bits stored 0": {"BitsStored": 0},
    "high bit 99": {"HighBit": 99},
    "1000 samples": {"SamplesPerPixel": 1000},
    "no samples": {"SamplesPerPixel": 0},
    "three samples of one": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1},
    "planar configuration 7": {"SamplesPerPixel": 3, "PlanarConfiguration": 7},
    "unsigned called signed": {"PixelRepresentation": 77},
    "frames of 10 digits": {"NumberOfFrames": "2000000000"},
    "a million frames of nothing": {"NumberOfFrames": "19999"},
    "no frames": {"NumberOfFrames": "0"},
    "unknown colours": {"PhotometricInterpretation": "PALETTE COLOR"},
    "colours of one sample": {"PhotometricInterpretation": "YBR_FULL_422"},
    "slope beyond floats": {"RescaleSlope": "1e308", "RescaleIntercept": "1e308"},
    "slope of no number": {"RescaleSlope": "nan", "RescaleIntercept": "inf"},
    "slope 0": {"RescaleSlope": "0", "RescaleIntercept": "0"},
    "window of no width": {"WindowCenter": "0", "WindowWidth": "0"},
    "window beyond floats": {"WindowCenter": "1e308", "WindowWidth": "1e-308"},
    "spacing 0": {"PixelSpacing": ["0", "0"]},
    "spacing of one": {"PixelSpacing": "1"},
    "spacing beyond floats": {"PixelSpacing": ["1e300", "1e-300"]},
    "padding beyond bits": {"PixelPaddingValue": 65535},
    "character set": {"SpecificCharacterSet": ["ISO 2022 IR 87", "no such set"]},
    "patient with control characters": {"PatientID": "a\x1b[2Jb"},
    "patient of 64 kB": {"PatientID": "a" * 60_000},
    "position beyond floats": {"ImagePositionPatient": ["1e308", "-1e308", "1e308"]},
    "position of two": {"ImagePositionPatient": ["1", "2"]},
    "orientation of zeros": {"ImageOrientationPatient": ["0"] * 6},
    "orientation of parallels": {"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]},
    "orientation of no numbers": {"ImageOrientationPatient": ["nan"] * 6},
}


def with_elements(content, elements):
    """The file with elements set to values that pydicom would not write by itself."""
    import io

    import pydicom

    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is planted
        found = pydicom.dcmread(io.BytesIO(content))
        for keyword, value in elements.items():
            if keyword == "PixelPaddingValue":  # its type is ambiguous
                found.add_new(keyword, "US", value)
            else:
                setattr(found, keyword, value)
        stream = io.BytesIO()
        found.save_as(stream)
    return stream.getvalue()


def with_syntax(content, uid):
    """The file under another transfer syntax than its bytes have."""
    at = content.index(b"\x02\x00\x10\x00UI")
    length = struct.unpack("<H", content[at + 6 : at + 8])[0]
    name = uid.encode() + b"\0" * (len(uid) % 2)
    changed_meta = content[: at + 6] + struct.pack("<H", len(name)) + name + content[at + 8 + length :]
    group = changed_meta.index(b"\x02\x00\x00\x00UL") + 8
    size = struct.unpack("<I", changed_meta[group : group + 4])[0] + len(name) - length
    return changed_meta[:group] + struct.pack("<I", size) + changed_meta[group + 4 :]


def before_pixels(content, element):
    at = content.rindex(PIXELS)
    return content[:at] + element + content[at:]


def at_modality(content, element):
    at = content.index(b"\x08\x00\x60\x00CS")
    return content[:at] + element + content[at:]


def nested(depth, *, closed, undefined):
    """A private sequence in itself, `depth` times."""
    made = b""
    if not undefined:
        for _ in range(depth):
            item = ITEM + struct.pack("<I", len(made)) + made
            made = b"\x09\x00\x10\x10SQ\0\0" + struct.pack("<I", len(item)) + item
        return made
    begin = b"\x09\x00\x10\x10SQ\0\0" + UNDEFINED + ITEM + UNDEFINED
    return begin * depth + (END_OF_ITEM + END) * depth * closed


def encapsulated(content, *items, closed=True):
    """The file with items in the place of its pixels: a table of offsets, and fragments."""
    at = content.rindex(PIXELS)
    fragments = b"".join(ITEM + struct.pack("<I", len(item)) + item for item in items)
    return content[:at] + PIXELS + b"OB\0\0" + UNDEFINED + fragments + END * closed


def pixels_of_length(content, length):
    at = content.rindex(PIXELS)
    return content[: at + 8] + struct.pack("<I", length) + content[at + 12 :]


def deflated(content, *, zeros):
    """The file with its data set deflated, and behind it an element of so many zeros."""
    marked = with_syntax(content, SYNTAXES["deflated"])
    at = 144 + struct.unpack("<I", marked[140:144])[0]
    pack = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    made = [pack.compress(marked[at : marked.rindex(PIXELS)])]
    made += [pack.compress(PIXELS + b"OW\0\0" + struct.pack("<I", min(zeros, 2**32 - 2)))]
    made += [pack.compress(bytes(10_000_000)) for _ in range(zeros // 10_000_000)]
    return marked[:at] + b"".join(made) + pack.flush()


def changes(content):
    """Names and contents of the hostile files that one valid file gives."""
    for name, elements in ELEMENTS.items():
        yield name, with_elements(content, elements)
    for name, uid in SYNTAXES.items():
        yield f"called {name}", with_syntax(content, uid)
    pixels = content.rindex(PIXELS)
    for share in (0, 6, 8, 11, 12, 13, 300):
        yield f"cut {share} bytes into the pixels", content[: pixels + share]
    for length in (0, 1, 2**31 - 1, 2**32 - 2, 2**32 - 1):
        yield f"pixels of length {length}", pixels_of_length(content, length)
    for vr in (b"ZZ\0\0", b"\xff\xff\0\0", b"UN\0\0", b"OB\0\0", b"UT\0\0", b"SQ\0\0"):
        for length in (8, 2**31, 2**32 - 2, 2**32 - 1):
            element = b"\x09\x00\x11\x10" + vr + struct.pack("<I", length) + b"KANARIEN"
            yield f"a private element {vr[:2]!r} of length {length}", at_modality(content, element)
    for depth in (50, 900, 50_000):
        yield f"{depth} sequences that end", at_modality(content, nested(depth, closed=True, undefined=True))
        yield f"{depth} sequences without end", at_modality(content, nested(depth, closed=False, undefined=True))
    yield "900 sequences of a length", at_modality(content, nested(900, closed=True, undefined=False))
    yield "many elements", at_modality(content, b"".join(
        struct.pack("<HH2sH", 9, 0x1000 + n, b"LO", 2) + b"ab" for n in range(50_000)))  # fmt: skip
    yield "elements in no order", before_pixels(content, b"\x08\x00\x60\x00CS\x02\x00XX" * 1000)
    for kind in ("JPEG", "JPEG 2000", "RLE", "JPEG-LS"):
        compressed = with_syntax(content, SYNTAXES[kind])
        yield f"{kind} without frames", encapsulated(compressed, b"")
        yield f"{kind} without end", encapsulated(compressed, b"", b"\xff\xd8" + bytes(50), closed=False)
        yield f"{kind} of zeros", encapsulated(compressed, b"", bytes(5000))
        yield f"{kind} of nothing at all", encapsulated(compressed)
        yield (
            f"{kind} of offsets that lie",
            encapsulated(compressed, struct.pack("<3I", 0, 2**31, 7), bytes(64), b""),
        )
        yield f"{kind} of many fragments", encapsulated(compressed, b"", *[b"ab"] * 50_000)
    yield "a deflated data set cut off", deflated(content, zeros=0)[:-20]
    yield "a deflated bomb", deflated(content, zeros=1_200_000_000)
    yield "a deflated bomb below the limit of a file", deflated(content, zeros=900_000_000)
    yield "no preamble", content[132:]
    yield "no meta header", content[:132] + content[144 + struct.unpack("<I", content[140:144])[0] :]
    yield "a meta header of 4 GB", content[:140] + b"\xff\xff\xff\xff" + content[144:]
    yield "a mark alone", content[:132]
    yield "a directory", with_syntax(content, SYNTAXES["implicit"])[:132] + bytes(10_000)


def exports(root, generator):
    """An export of pictures and one of volumes, each with a hostile picture or slice of one more patient."""
    base = root / "pictures"
    for number in range(5):
        picture = generator.integers(0, 256, (1, 32, 32), dtype=np.uint8)
        write_picture(picture, base / f"{number}.dcm", patient_id=f"p{number}", modality="CR")
    good = (base / "4.dcm").read_bytes()
    (base / "4.dcm").unlink()
    (base / "labels.csv").write_text("patient_id,label\n" + "".join(f"p{n},{'xy'[n % 2]}\n" for n in range(5)))
    inputs = [*changes(good), *changed(good, generator, 24)]
    for number, (name, content) in enumerate(inputs):
        place = root / f"picture-{number}"
        shutil.copytree(base, place)
        (place / "hostile").write_bytes(content)
        yield Case(f"DICOM: {name}", checked(place, "dicom"), checked(base, "dicom"))
    base = root / "volumes"
    for number in range(3):
        values = generator.integers(0, 900, (8, 8, 4)).astype(np.float64)
        paths = write_dicom(values, np.diag([1, 1, 2, 1.0]), base / f"{number}", patient_id=f"p{number}")
    (base / "labels.csv").write_text("patient_id,label\np0,x\np1,y\np2,y\n")
    good = paths[1].read_bytes()
    options = ("--volume-size", "8", "8", "4")
    inputs = [(name, with_elements(good, elements)) for name, elements in ELEMENTS.items()]
    inputs += list(changed(good, generator, 12))
    for number, (name, content) in enumerate(inputs):
        place = root / f"volume-{number}"
        shutil.copytree(base, place)
        (place / "2" / paths[1].name).write_bytes(content)
        yield Case(f"slice: {name}", checked(place, "dicom", *options), checked(base, "dicom", *options))
