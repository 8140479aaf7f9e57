"""Hostile pictures, tables of pictures, archives and volumes."""

import csv
import io
import json
import shutil
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image
from tests.images.png_files import chunk, png_claiming
from tests.thorough.hostile.case import Case, changed, checked


def _picture(generator):
    return Image.fromarray(generator.integers(0, 256, (32, 32), dtype=np.uint8))


def pictures(root, generator):
    """A folder of four patients with a hostile fifth picture, of each format; the tables of such folders."""
    for form, ending in {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "BMP": "bmp"}.items():
        base = root / form
        for number in range(4):
            path = base / ("ill", "well")[number % 2] / f"p{number}" / f"a.{ending}"
            path.parent.mkdir(parents=True)
            _picture(generator).save(path, form)
        content = io.BytesIO()
        _picture(generator).save(content, form)
        inputs = list(changed(content.getvalue(), generator, 18))
        if form == "PNG":
            rows, text = bytes(100), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000)))
            inputs += [
                ("bomb", png_claiming(60_000, 60_000, rows=rows)),
                ("empty", png_claiming(0, 0, rows=rows)),
                ("no rows", png_claiming(2**31 - 1, 1, rows=rows)),
                ("text bomb", png_claiming(32, 32, rows=rows, beside=text)),
            ]
        for name, data in inputs:
            place = root / f"{form}-{name}"
            shutil.copytree(base, place)
            (place / "ill" / "p9").mkdir()
            (place / "ill" / "p9" / f"a.{ending}").write_bytes(data)
            yield Case(f"{form}: {name}", checked(place, "folder"), checked(base, "folder"))


TABLE = b"file,label,patient_id\n"
TABLES = {
    "empty": b"",
    "no UTF-8": b"\xff\xfe\xfd",
    "null": TABLE + b"\0,\0,\0\n",
    "one line": TABLE.rstrip(),
    "twice": b"file,file,label,patient_id\n",
    "quote": TABLE + b'"a',
    "control": TABLE + b"0.png,a\x1b[2J,p\n1.png,b,q\n",
    "direction": TABLE + "0.png,\u202eill,p\n1.png,b,q\n".encode(),
    "outside": TABLE + b"../../etc/passwd,a,b\n",
    "absolute": TABLE + b"/dev/zero,a,b\n",
    "long cell": TABLE + b"a" * 5_000_000 + b",b,c\n",
    "many columns": b"file,label,patient_id," + b"x," * 100_000 + b"\n",
    "many rows": TABLE + b"a,b,c\n" * 200_000,
    "long row": TABLE + b"," * 500_000 + b"\n",
}


def tables(root, generator):
    """`metadata.csv` beside pictures."""
    base = root / "tables"
    rows = [("file", "label", "patient_id")]
    for number in range(4):
        path = base / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        _picture(generator).save(path)
        rows.append((path.name, ("ill", "well")[number % 2], f"p{number}"))
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    (base / "metadata.csv").write_text(text.getvalue())
    for name, content in [*TABLES.items(), *changed(text.getvalue().encode(), generator, 12)]:
        place = root / f"table-{name}"
        shutil.copytree(base, place)
        (place / "metadata.csv").write_bytes(content)
        yield Case(f"table: {name}", checked(place, "folder"), checked(base, "folder"))


def archives(root, generator):
    """Zip and tar files of pictures."""
    base = root / "packed"
    for number in range(4):
        path = base / ("ill", "well")[number % 2] / f"p{number}" / "a.png"
        path.parent.mkdir(parents=True)
        _picture(generator).save(path)
    files = {str(p.relative_to(base)): p.read_bytes() for p in sorted(base.rglob("*.png"))}
    with zipfile.ZipFile(root / "good.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with tarfile.open(root / "good.tar", "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    for kind in ("zip", "tar"):
        good = root / f"good.{kind}"
        inputs = list(changed(good.read_bytes(), generator, 24))
        if kind == "tar":
            inputs += list(hostile_tars(good.read_bytes()))
        for name, content in inputs:
            path = root / f"{name.replace(' ', '-')}.{kind}"
            path.write_bytes(content)
            yield Case(f"{kind}: {name}", checked(path, "folder"), checked(good, "folder"))


def with_size(content, size):
    """A tar whose first member says another size, in base 256, with the right checksum of its header."""
    head = bytearray(content[:512])
    head[124:136] = (size % 2**96).to_bytes(12, "big")
    if size >= 0:
        head[124] = 0x80
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head) + content[512:]


def hostile_tars(content):
    """Tar members that overlap, have negative sizes, or end after the archive."""
    for size in (-1, -512, -1024, -(2**60), len(content), 2**62, 2**80):
        yield f"size {size}", with_size(content, size)


def volumes(root, generator):
    """NIfTI volumes of a Decathlon folder, and its dataset.json."""
    import nibabel

    base = root / "decathlon"
    (base / "imagesTr").mkdir(parents=True)
    (base / "labelsTr").mkdir()
    listed = []
    for number in range(3):
        values = generator.integers(0, 500, (8, 8, 6)).astype(np.int16)
        both = {"imagesTr": values, "labelsTr": (values > 250).astype(np.uint8)}
        for folder, array in both.items():
            nibabel.Nifti1Image(array, np.eye(4)).to_filename(base / folder / f"v{number}.nii")
        listed.append({"image": f"./imagesTr/v{number}.nii", "label": f"./labelsTr/v{number}.nii"})
    description = {"labels": {"0": "background", "1": "organ"}, "modality": {"0": "CT"}, "training": listed}
    (base / "dataset.json").write_text(json.dumps(description))
    good = (base / "imagesTr" / "v0.nii").read_bytes()
    options = ("--volume-size", "8", "8", "6")
    inputs = [("imagesTr/v0.nii", *pair) for pair in changed(good, generator, 24)]
    inputs += [("dataset.json", *pair) for pair in changed(json.dumps(description).encode(), generator, 10)]
    inputs += [("dataset.json", name, content.encode()) for name, content in {
        "nested": "[" * 100_000, "digits": '{"training": ' + "9" * 6000 + "}",
        "closed": "[" * 500 + "]" * 500,
        "empty lists": "[" + "[]," * 3_000_000 + "[]]",
        "names": json.dumps(description | {"labels": {"0": "\x1b[2J", "1": "a"}}),
        "classes": json.dumps(description | {"labels": {str(n): str(n) for n in range(300)}}),
    }.items()]  # fmt: skip
    for file, name, content in inputs:
        place = root / f"decathlon-{file.replace('/', '-')}-{name}"
        shutil.copytree(base, place)
        (place / file).write_bytes(content)
        yield Case(f"{file}: {name}", checked(place, "decathlon", *options), checked(base, "decathlon", *options))
