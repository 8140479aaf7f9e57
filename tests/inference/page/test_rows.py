"""The page's own decoders and recipe, run by node, against `wardround predict`: equal rows, bit for bit."""

import base64
import io
import json
import shutil
import struct
import subprocess
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.images.png_files import MARK, chunk
from tests.inference.saved import drawn, picture_input, save
from tests.simulation import layouts

from wardround.inference.model import Model, load
from wardround.inference.page.languages import languages_of
from wardround.inference.reading import Ready

ASSETS = Path(str(files("wardround.inference.page"))) / "assets"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(NODE is None, reason="the page's modules are run by node, which is not installed"),
]

RECIPES = {
    "grey": picture_input(image_size=64),
    "grey-pad": picture_input(image_size=33, fit="pad"),
    "grey-stretch": picture_input(image_size=20, fit="stretch", bits=12),
    "rgb": picture_input(image_size=48, colour="rgb"),
    "rgb-circle": picture_input(image_size=40, colour="rgb", circle_crop=True),
    "rgb-enlarged": picture_input(image_size=300, colour="rgb", fit="pad"),
}


def smooth(number, shape):
    """A picture with soft and hard edges, and some noise, uint8 (height, width, 3)."""
    generator = np.random.default_rng(number)
    rows, columns = np.indices(shape)
    waves = [
        np.sin(rows / generator.uniform(3, 40)) + np.cos(columns / generator.uniform(3, 40)) for _ in range(3)
    ]
    made = 128 + 50 * np.stack(waves, axis=-1) + generator.normal(0, 8, (*shape, 3))
    made[shape[0] // 3 : shape[0] // 2, shape[1] // 4 : shape[1] // 3] = 250
    return np.clip(made, 0, 255).astype(np.uint8)


def saved_as(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def jpegs():
    grey = Image.fromarray(smooth(0, (611, 803))[..., 0])
    colour = Image.fromarray(smooth(1, (437, 522)))
    yield "grey", saved_as(grey, format="JPEG", quality=90)
    yield "grey-progressive", saved_as(grey, format="JPEG", quality=60, progressive=True)
    yield "small", saved_as(grey.resize((45, 37)), format="JPEG", quality=80)
    yield "restart", saved_as(colour, format="JPEG", restart_marker_blocks=5)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            options = {"subsampling": subsampling, "progressive": progressive, "quality": 85}
            yield f"colour-{subsampling}-{progressive}", saved_as(colour, format="JPEG", **options)
    yield "tiny", saved_as(colour.resize((9, 3)), format="JPEG", subsampling="4:2:0")
    yield "rgb", saved_as(colour, format="JPEG", keep_rgb=True)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield f"turned-{turn}", saved_as(colour, format="JPEG", exif=exif)


def pngs():
    colour = Image.fromarray(smooth(2, (130, 171)))
    grey = colour.convert("L")
    clear = Image.fromarray(np.random.default_rng(0).integers(0, 256, (130, 171), dtype=np.uint8))
    yield "l", saved_as(grey, format="PNG")
    yield "rgb", saved_as(colour, format="PNG")
    yield "1", saved_as(grey.convert("1"), format="PNG")
    yield "palette", saved_as(colour.quantize(50), format="PNG")
    yield "palette-4", saved_as(colour.quantize(9), format="PNG", bits=4)
    yield "palette-clear", saved_as(colour.quantize(50), format="PNG", transparency=3)
    yield "l-clear", saved_as(grey, format="PNG", transparency=int(np.asarray(grey)[0, 0]))
    yield "rgb-clear", saved_as(colour, format="PNG", transparency=tuple(map(int, np.asarray(colour)[0, 0])))
    for mode in ("LA", "RGBA"):
        image = colour.convert(mode)
        image.putalpha(clear)
        yield mode.lower(), saved_as(image, format="PNG")
    deep = (np.asarray(grey).astype(np.uint16) * 16 + 3).astype(np.uint16)
    yield "16", saved_as(Image.fromarray(deep), format="PNG")
    for name, size in {"wide": (900, 40), "tall": (90, 150), "high": (40, 900), "square": (150, 150)}.items():
        yield name, saved_as(grey.resize(size), format="PNG")
    yield "one", saved_as(grey.resize((1, 1)), format="PNG")
    yield from every_png()


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def encoded_png(values, kind, depth, *, interlaced=False, clear=None, filters=5):
    """A PNG of any kind, of (height, width, sample), whose rows take all filters in turn.

    Source: W3C PNG Specification, third edition, https://www.w3.org/TR/png-3/.
    """

    data = b""
    for left, top, across, down in PASSES if interlaced else [(0, 0, 1, 1)]:
        part = values[top::down, left::across]
        if not part.size:
            continue
        bits = (part[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(len(part), -1).astype(np.uint8), axis=1).astype(int)
        step = max(1, SAMPLES[kind] * depth // 8)
        before = np.pad(rows, ((0, 0), (step, 0)))[:, : rows.shape[1]]
        above = np.pad(rows, ((1, 0), (0, 0)))[:-1]
        corner = np.pad(above, ((0, 0), (step, 0)))[:, : rows.shape[1]]
        guess = before + above - corner
        distances = [np.abs(guess - one) for one in (before, above, corner)]
        paeth = np.where(
            (distances[0] <= distances[1]) & (distances[0] <= distances[2]), before,
            np.where(distances[1] <= distances[2], above, corner),
        )  # fmt: skip
        guesses = [np.zeros_like(rows), before, above, (before + above) // 2, paeth]
        for number in range(len(rows)):
            filtered = (rows[number] - guesses[number % filters][number]) % 256
            data += bytes([number % filters]) + filtered.astype(np.uint8).tobytes()
    height, width = values.shape[:2]
    made = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced))
    if kind == 3:
        made += chunk(b"PLTE", np.random.default_rng(1).integers(0, 256, 3 << depth, dtype=np.uint8).tobytes())
    if clear is not None:
        made += chunk(b"tRNS", clear)
    return MARK + made + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def every_png():
    """Every kind and depth, in order and interlaced, with and without a transparent colour."""
    for kind, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items():
        for depth in depths:
            picture = smooth(kind + depth, (45, 53)).astype(int)
            values = np.concatenate([picture, picture[..., :1]], axis=2)[..., : SAMPLES[kind]]
            values = (values << 8 | values[::-1]) >> (16 - depth)
            clears: list[bytes | None] = [None]
            if kind == 3:
                clears.append(bytes(range(0, 256, max(1, 256 >> depth)))[: 1 << depth])
            elif kind in (0, 2):
                colours = (values[20, 20], np.full(SAMPLES[kind], (1 << depth) - 1))
                clears += [struct.pack(f">{len(one)}H", *map(int, one)) for one in colours]
            for interlaced in (False, True):
                for number, clear in enumerate(clears):
                    name = f"{kind}-{depth}-{'interlaced' if interlaced else 'plain'}-{number}"
                    yield name, encoded_png(values, kind, depth, interlaced=interlaced, clear=clear)


def dicoms():
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        generate_uid,
    )

    def file(values, syntax=ExplicitVRLittleEndian, **fields):
        found = pydicom.Dataset()
        found.file_meta = pydicom.dataset.FileMetaDataset()
        found.file_meta.TransferSyntaxUID = syntax
        found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
        found.Modality, found.PatientID, found.SeriesInstanceUID = "DX", "1", generate_uid()
        found.Rows, found.Columns = values.shape[:2]
        found.SamplesPerPixel = 1 if values.ndim == 2 else 3
        found.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
        if values.ndim == 3:
            found.PlanarConfiguration = 0
        found.BitsAllocated = found.BitsStored = 8 * values.dtype.itemsize
        found.HighBit = found.BitsStored - 1
        found.PixelRepresentation = int(values.dtype.kind == "i")
        for name, value in fields.items():
            setattr(found, name, value)
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        found.PixelData = values.astype(values.dtype.newbyteorder(order)).tobytes()
        found["PixelData"].VR = "OW" if values.dtype.itemsize == 2 else "OB"
        made = io.BytesIO()
        pydicom.dcmwrite(made, found, enforce_file_format=True)
        return made.getvalue()

    def table(bits, data, first):
        item = pydicom.Dataset()
        item.LUTDescriptor, item.LUTData = [len(data), first, bits], np.asarray(data, dtype=np.uint16).tobytes()
        return pydicom.Sequence([item])

    picture = smooth(3, (140, 190))
    deep = picture[..., 0].astype(np.uint16) * 16
    signed = deep.astype(np.int16) - 1500
    ramp = (np.linspace(0, 1, 3000) ** 2 * 4095).astype(int)
    yield "8", file(picture[..., 0])
    yield "16", file(deep, BitsStored=12, HighBit=11)
    yield (
        "implicit",
        file(deep, ImplicitVRLittleEndian, BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=1500),
    )
    yield "big", file(deep, ExplicitVRBigEndian, BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=1500)
    yield "deflated", file(deep, DeflatedExplicitVRLittleEndian, BitsStored=12, HighBit=11)
    yield (
        "inverted",
        file(deep, PhotometricInterpretation="MONOCHROME1", WindowCenter=[2000, 3], WindowWidth=[900, 4]),
    )
    yield "signed", file(signed, RescaleSlope="0.5", RescaleIntercept="-20", PixelPaddingValue=-1500)
    yield "exact", file(signed, WindowCenter=0, WindowWidth=700, VOILUTFunction="LINEAR_EXACT")
    yield "sigmoid", file(signed, WindowCenter=0, WindowWidth=700, VOILUTFunction="SIGMOID")
    yield "table", file(deep, VOILUTSequence=table(12, ramp, 100), BitsStored=12, HighBit=11)
    yield "modality-table", file(deep, ModalityLUTSequence=table(16, ramp, 100), BitsStored=12, HighBit=11)
    yield "shifted", file(deep, BitsStored=12, HighBit=15)
    yield "rgb", file(picture)
    yield (
        "planes",
        file(np.ascontiguousarray(picture.transpose(2, 0, 1)), Rows=140, Columns=190, PlanarConfiguration=1),
    )
    yield "oblong", file(deep, PixelSpacing=[0.3, 0.2])
    yield "burned", file(deep, BurnedInAnnotation="YES", PixelAspectRatio=[1, 2])
    regions = pydicom.Dataset()
    regions.RegionLocationMinX0, regions.RegionLocationMinY0 = 20, 10
    regions.RegionLocationMaxX1, regions.RegionLocationMaxY1 = 150, 120
    yield "regions", file(picture[..., 0], Modality="US", SequenceOfUltrasoundRegions=pydicom.Sequence([regions]))


FILES = {"jpg": jpegs, "png": pngs, "dcm": dicoms}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    made: dict[str, list[Path]] = {}
    for ending, several in FILES.items():
        made[ending] = []
        for name, content in several():
            path = place / f"{name}.{ending}"
            path.write_bytes(content)
            made[ending].append(path)
    return made


def broken(content, generator):
    """A file cut off, or with a few bytes of its first half changed."""
    if generator.random() < 0.3:
        return content[: generator.integers(len(content))]
    made = bytearray(content)
    for place in generator.integers(0, max(1, len(content) // 2), generator.integers(1, 6)):
        made[place] = generator.integers(256)
    return bytes(made)


def in_node(model: Model, paths):
    """What the page makes of each file."""
    given = json.dumps({"card": model.card.to_json(), "files": list(map(str, paths))})
    assert NODE is not None
    command = [NODE, str(Path(__file__).with_name("rows.mjs")), str(ASSETS)]
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_are_those_of_predict(kind, recipe, pictures, tmp_path):
    given = RECIPES[recipe]
    model = load(save(tmp_path / "run", drawn("linear", given, 2), given))
    paths = pictures[kind]
    for path, mine in zip(paths, in_node(model, paths), strict=True):
        (theirs,) = model.read([path])
        if not isinstance(theirs, Ready):
            assert "fault" in mine, (path.name, theirs)
            continue
        assert "fault" not in mine, (path.name, mine)
        rows = np.frombuffer(base64.b64decode(mine["rows"]), np.uint8).reshape(theirs.rows.shape)
        different = np.abs(rows.astype(int) - theirs.rows).max()
        assert different == 0, (path.name, different)
        assert len(mine["findings"]) == len(theirs.findings), (path.name, mine["findings"], theirs.findings)


@pytest.mark.parametrize("layout", ["folder", "chest_xray", "aptos", "manifest", "dicom"])
def test_rows_of_every_layout_of_pictures_are_those_of_predict(layout, tmp_path):
    layouts.write(layout, tmp_path / "data", [layouts.Person(number) for number in range(6)])
    given = RECIPES["grey"]
    model = load(save(tmp_path / "run", drawn("linear", given, 2), given))
    ready = [one for one in model.read([tmp_path / "data"]) if isinstance(one, Ready)]
    found = in_node(model, [tmp_path / "data" / one.name for one in ready])
    for mine, theirs in zip(found, ready, strict=True):
        assert base64.b64decode(mine["rows"]) == theirs.rows.tobytes()
    assert len(ready) > 6


@pytest.mark.parametrize("kind", FILES)
def test_broken_files_are_read_or_have_a_sentence(kind, pictures, tmp_path):
    given = RECIPES["grey"]
    model = load(save(tmp_path / "run", drawn("linear", given, 2), given))
    generator, paths = np.random.default_rng(0), []
    for number in range(200):
        content = pictures[kind][number % len(pictures[kind])].read_bytes()
        paths.append(tmp_path / f"{number}.{kind}")
        paths[-1].write_bytes(broken(content, generator))
    words = languages_of(None, ())["en"]["words"]
    found = in_node(model, paths)
    assert len(found) == len(paths)
    assert {one["fault"] for one in found if "fault" in one} <= set(words)
    assert any("fault" in one for one in found)
