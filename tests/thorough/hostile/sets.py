"""Hostile MedMNIST files, nnU-Net and BIDS folders: each is one change of a set that is read."""

import gzip
import io
import json
import pickle
import shutil
import struct
import warnings
import zipfile
from typing import Any

import numpy as np
from tests.images.nifti_files import nifti_bytes
from tests.thorough.hostile.case import Case, changed, checked

SIDE = 12


class Trap:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


def npy(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def header(shape, descr="'|u1'", order="False"):
    """A .npy file's header that says what it is told."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def packed(members, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method, compresslevel=1) as archive:
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


PICTURE_BYTES = 6 * SIDE * SIDE
REFUSED = {
    "a pickle": pickle.dumps([Trap()] * 6),
    "objects": header((6,), "'|O'") + pickle.dumps([Trap()] * 6),
    "an object in a structure": header((6,), "[('a', '|O')]") + bytes(48),
    "floats": npy(np.zeros((6, SIDE, SIDE))),
    "complex": npy(np.zeros((6, SIDE, SIDE), np.complex128)),
    "texts": npy(np.array(["a"] * 6)),
    "dates": npy(np.zeros((6, SIDE, SIDE), "M8[s]")),
    "bool": npy(np.zeros((6, SIDE, SIDE), bool)),
    "structures": npy(np.zeros(6, [("a", "u1"), ("b", "u1")])),
    "void": npy(np.zeros((6, SIDE), "V8")),
    "one picture more": header((7, SIDE, SIDE)) + bytes(PICTURE_BYTES),
    "a huge shape": header((10**12, 10**12, 10**12)) + bytes(PICTURE_BYTES),
    "a shape of 2^64": header((2**64, SIDE, SIDE)) + bytes(PICTURE_BYTES),
    "a negative shape": header((-1, SIDE, SIDE)) + bytes(PICTURE_BYTES),
    "a shape of floats": header((6.0, SIDE, SIDE)) + bytes(PICTURE_BYTES),
    "a thousand axes": header((1,) * 1000) + b"\0",
    "code": header("__import__('os').system('id')") + bytes(PICTURE_BYTES),
    "a header of names": header("a" * 60_000) + bytes(PICTURE_BYTES),
    "nested brackets": header("(" * 5000) + bytes(PICTURE_BYTES),
    "wrong type": header((6, SIDE, SIDE), "'<i8'") + bytes(PICTURE_BYTES),
    "no header": b"\x93NUMPY",
    "version 9": b"\x93NUMPY\x09\x00" + bytes(100),
    "nothing": b"",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "scalar": npy(np.uint8(3)),
}


def arrays(root, generator):
    """MedMNIST files, each with one member that lies, and archives around them."""
    labels = np.array([0, 1, 0, 1, 0, 1])
    good = {}
    for part in ("train", "val", "test"):
        good[f"{part}_images.npy"] = npy(generator.integers(0, 256, (6, SIDE, SIDE), dtype=np.uint8))
        good[f"{part}_labels.npy"] = npy(labels)
    (root / "good.npz").write_bytes(packed(good.items()))
    number = 0

    def case(name, content, *, must_refuse=False):
        nonlocal number
        number += 1
        path = root / f"{number}.npz"
        path.write_bytes(content)
        neighbour = checked(root / "good.npz", "medmnist")
        return Case(f"npz: {name}", checked(path, "medmnist"), neighbour, must_refuse)

    for member in ("train_images.npy", "val_labels.npy"):
        for name, content in REFUSED.items():
            yield case(f"{name} as {member}", packed((good | {member: content}).items()), must_refuse=True)
    for name, values in {
        "multi-label": np.zeros((6, 14), np.uint8), "labels of three axes": np.zeros((6, 1, 1), np.uint8),
        "a label too few": labels[:5], "labels as images": np.zeros((6, SIDE, SIDE), np.uint8),
    }.items():  # fmt: skip
        yield case(name, packed((good | {"val_labels.npy": npy(values)}).items()), must_refuse=True)
    for name, values in {
        "labels of 64 bits": labels * 2**62, "unsigned labels": labels.astype(np.uint64) * 2**63,
        "negative labels": -labels, "big-endian labels": labels.astype(">i4"),
        "Fortran order": np.asfortranarray(labels),
    }.items():  # fmt: skip
        yield case(name, packed((good | {"val_labels.npy": npy(values)}).items()))
    for name, values in {
        "no picture": np.zeros((0, SIDE, SIDE), np.uint8), "pictures of no side": np.zeros((6, 0, SIDE), np.uint8),
        "two channels": np.zeros((6, SIDE, SIDE, 2), np.uint8),
        "pictures of another size": np.zeros((6, 5, 9), np.uint8),
        "volumes beside pictures": np.zeros((6, SIDE, SIDE, SIDE), np.uint8),
        "one value a picture": np.zeros((6, 1, 1), np.uint8), "Fortran order": np.zeros((SIDE, SIDE, 6), np.uint8).T,
    }.items():  # fmt: skip
        yield case(f"images: {name}", packed((good | {"val_images.npy": npy(values)}).items()))
    many = header((900_000, 32, 32)) + bytes(900_000 * 32 * 32)
    bomb = packed({"train_images.npy": many, "train_labels.npy": npy(np.zeros(900_000, np.uint8))}.items())
    del many
    yield case("a bomb", bomb, must_refuse=True)
    yield case("stored", packed(good.items(), zipfile.ZIP_STORED))
    yield case("other members", packed({**good, "note.txt": b"x", "deep/train_images.npy": b"x"}.items()))
    yield case("many members", packed([*good.items(), *((f"{n}.npy", b"") for n in range(20_000))]))
    yield case("a member twice", packed([*good.items(), *good.items()]), must_refuse=True)
    yield case("a member outside", packed({**good, "../x.npy": b""}.items()), must_refuse=True)
    yield case("an npz in an npz", packed({"train_images.npy": packed(good.items())}.items()), must_refuse=True)
    yield case("an array alone", good["train_images.npy"], must_refuse=True)
    yield from (case(name, content) for name, content in changed(packed(good.items()), generator, 24))


def _volume(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_bytes(values, np.eye(4)))


def _zeros(num_bytes, num_slices):
    """A compressed NIfTI file that says so many slices of 1000 x 1000, and unpacks to so many bytes of zeros."""
    import nibabel

    head = nibabel.Nifti1Header()
    head.set_data_dtype(np.int16)
    head.set_data_shape((1000, 1000, num_slices))
    head.set_sform(np.eye(4), 1)
    head["vox_offset"], head["magic"] = 352, b"n+1"
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as file:
        file.write(head.binaryblock + bytes(4))
        for _ in range(num_bytes // 2_000_000):
            file.write(bytes(2_000_000))
    return stream.getvalue()


LABELS = {
    "none": {}, "a list": ["background"], "null": None, "no background": {"organ": 1},
    "background 1": {"background": 1},
    "a gap": {"background": 0, "organ": 2}, "one number twice": {"background": 0, "a": 1, "b": 1},
    "floats": {"background": 0.0, "organ": 1.0}, "texts": {"background": "0", "organ": "1"},
    "true": {"background": False, "organ": True}, "negative": {"background": 0, "organ": -1},
    "64 bits": {"background": 0, "organ": 2**63}, "an empty region": {"background": 0, "organ": []},
    "regions alone": {"background": 0, "all": [1, 2]}, "a region in a region": {"background": 0, "all": [[1], 2]},
    "300 labels": {("background" if not n else f"l{n}"): n for n in range(300)},
    "ignore": {"background": 0, "organ": 1, "ignore": 2}, "control": {"background": 0, "a\x1b[2J": 1},
    "a long name": {"background": 0, "a" * 500_000: 1},
}  # fmt: skip


_WRONG: tuple[Any, ...] = (None, [], {}, "", -1, 2**63, True, "\x1b", [[[]]])


def nnunet(root, generator):
    """nnU-Net folders with a wrong dataset.json, missing channels and volumes that are bombs."""
    base = root / "nnunet"
    for number in range(3):
        for channel in range(2):
            values = generator.integers(0, 500, (8, 8, 6)).astype(np.int16)
            _volume(base / "imagesTr" / f"c{number}_{channel:04d}.nii.gz", values)
        _volume(base / "labelsTr" / f"c{number}.nii.gz", generator.integers(0, 2, (8, 8, 6)).astype(np.uint8))
    good = {
        "channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1}, "numTraining": 3,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (base / "dataset.json").write_text(json.dumps(good))
    options, number = ("--volume-size", "8", "8", "6"), 0

    def case(name, change):
        nonlocal number
        number += 1
        place = root / f"nnunet-{number}"
        shutil.copytree(base, place)
        change(place)
        return Case(f"nnU-Net: {name}", checked(place, "nnunet", *options), checked(base, "nnunet", *options))

    def described(content):
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        data = text.encode() if isinstance(text, str) else text
        return lambda place: (place / "dataset.json").write_bytes(data)

    for name, labels in LABELS.items():
        yield case(f"labels: {name}", described(good | {"labels": labels}))
    for key in good:
        yield case(f"no {key}", described({k: v for k, v in good.items() if k != key}))
        for wrong in _WRONG:
            yield case(f"{key} = {wrong!r}", described(good | {key: wrong}))
    text = json.dumps(good)
    twice = text.replace('"organ": 1', '"organ": 1, "organ": 2')
    for name, content in {
        "a label twice": twice, "nested": "[" * 100_000, "digits": text.replace("3", "9" * 6000), "empty": "",
        "NaN": text.replace("3", "NaN"), "16 bits": text.encode("utf-16"), "a byte order mark": "\ufeff" + text,
        "null characters": "\0" * 1000, "channels": json.dumps(good | {"channel_names": {"0": "a", "7": "b"}}),
        "a thousand channels": json.dumps(good | {"channel_names": {str(n): "a" for n in range(1000)}}),
        "a list outside": json.dumps(good | {"dataset": {"c": {"images": ["../../etc/passwd"], "label": "/dev/zero"}}}),
        "a list of numbers": json.dumps(good | {"dataset": {"c": {"images": [1, 2], "label": {}}}}),
        "a list of nothing": json.dumps(good | {"dataset": {"c": {}}}),
    }.items():  # fmt: skip
        yield case(f"dataset.json: {name}", described(content))
    for file in ("imagesTr/c0_0001.nii.gz", "labelsTr/c0.nii.gz", "dataset.json"):
        yield case(f"no {file}", lambda place, file=file: (place / file).unlink())
    stray = "imagesTr/c9_0000.nii.gz"
    yield case("a channel alone", lambda place: shutil.copy(place / "imagesTr/c0_0000.nii.gz", place / stray))
    yield case(
        "channels from 1",
        lambda place: (place / "imagesTr/c0_0000.nii.gz").rename(place / "imagesTr/c0_0007.nii.gz"),
    )
    bombs = {
        "100 million voxels": _zeros(200_000_000, 100), "500 million voxels": _zeros(4_000_000, 500),
        "a gigabyte behind one slice": _zeros(1_000_000_000, 1), "30,000 slices of one": _zeros(2_000_000, 30_000),
    }  # fmt: skip
    for file in ("imagesTr/c0_0001.nii.gz", "labelsTr/c0.nii.gz"):
        content = (base / file).read_bytes()
        for name, bomb in bombs.items():
            yield case(f"{file}: {name}", lambda place, f=file, b=bomb: (place / f).write_bytes(b))
        for name, data in changed(content, generator, 12):
            yield case(f"{file}: {name}", lambda place, f=file, d=data: (place / f).write_bytes(d))
        for name, data in changed(gzip.decompress(content), generator, 12):
            packed_again = gzip.compress(data, 1)
            yield case(f"{file}: {name}, packed", lambda place, f=file, d=packed_again: (place / f).write_bytes(d))


PARTICIPANTS = "participant_id\tgroup\tsite\nsub-1\ta\tn\nsub-2\tb\tn\nsub-3\ta\ts\n"
TABLES = {
    "empty": "", "no rows": "participant_id\tgroup\n", "no labels": "participant_id\tage\nsub-1\t3\n",
    "twice": PARTICIPANTS.replace("site", "group"), "commas": PARTICIPANTS.replace("\t", ","),
    "contradicting": PARTICIPANTS + "sub-1\tb\tn\n", "ragged": PARTICIPANTS + "sub-4\ta\n",
    "missing": PARTICIPANTS.replace("b\tn", "n/a\tn"), "nobody": PARTICIPANTS.replace("sub-2", "n/a"),
    "control": PARTICIPANTS.replace("\tb", "\tb\x1b[2J"), "direction": PARTICIPANTS.replace("\tb", "\tb\u202e"),
    "null": PARTICIPANTS.replace("b", "\0"), "a quote": PARTICIPANTS + '"', "16 bits": PARTICIPANTS.encode("utf-16"),
    "Latin-1": PARTICIPANTS.replace("b", "\xe9").encode("latin-1"), "a workbook": b"PK\x03\x04" + bytes(100),
    "a long value": PARTICIPANTS + "sub-1\t" + "a" * 5_000_000 + "\tn\n",
    "many rows": PARTICIPANTS + "sub-1\ta\tn\n" * 300_000, "many columns": "participant_id\tgroup" + "\tx" * 200_000,
    "ids outside": PARTICIPANTS.replace("sub-3", "../../x"), "one class": PARTICIPANTS.replace("\tb", "\ta"),
    "unknown people": PARTICIPANTS.replace("sub-", "sub-9"),
    "a path as site": PARTICIPANTS.replace("\ts\n", "\t../..\n"),
}  # fmt: skip
NAMES = (
    "sub-1/anat/sub-2_T1w.nii.gz", "sub-/anat/sub-_T1w.nii.gz", "sub-1/anat/T1w.nii.gz", "sub-1/anat/sub-1_.nii.gz",
    "sub-1/anat/sub-1_T1w.nii.gz.nii.gz", "sub-1/anat/sub-1" + "_a-b" * 40 + "_T1w.nii.gz",
    "sub-\xe9/anat/sub-\xe9_T1w.nii.gz",
    "sub-1/ses-/anat/sub-1_ses-_T1w.nii.gz", "sub-1/anat/sub-1_T2w.nii.gz", "sub-1\x1b/anat/sub-1\x1b_T1w.nii.gz",
    "sub-1/anat/sub-1\u202e_T1w.nii.gz", "SUB-1/anat/SUB-1_T1w.nii.gz", "sub-9/anat/sub-9_T1w.nii.gz",
    "sub-1/anat/" + "sub-1_" + "a" * 200 + "_T1w.nii.gz", "sub-1/anat/sub-1_T1w.nii", "sub-01/anat/sub-01_T1w.nii.gz",
)  # fmt: skip
SEGMENTS = {
    "empty": "", "no names": "index\n1\n", "a gap": "index\tname\n1\ta\n7\tb\n", 
    "a huge index": "index\tname\n" + "9" * 6000 + "\ta\n",
    "negative": "index\tname\n-1\ta\n", "two names": "index\tname\n1\ta\n1\tb\n", "floats": "index\tname\n1.0\ta\n",
    "control": "index\tname\n1\ta\x1b[2J\n", "300 names": "index\tname\n" + "".join(f"{n}\tl{n}\n" for n in range(300)),
}  # fmt: skip


def bids(root, generator):
    """BIDS folders with faults in the table of participants, in names, in masks and their tables."""
    base = root / "bids"
    for number in range(1, 4):
        values = generator.integers(0, 500, (8, 8, 6)).astype(np.int16)
        _volume(base / f"sub-{number}/anat/sub-{number}_T1w.nii.gz", values)
        _volume(
            base / f"derivatives/x/sub-{number}/anat/sub-{number}_dseg.nii.gz", (values > 250).astype(np.uint8)
        )
    (base / "participants.tsv").write_text(PARTICIPANTS)
    (base / "derivatives/x/dseg.tsv").write_text("index\tname\n1\torgan\n")
    options, number = ("--volume-size", "8", "8", "6"), 0

    def case(name, file, content, *more):
        nonlocal number
        number += 1
        place = root / f"bids-{number}"
        shutil.copytree(base, place)
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(content.encode() if isinstance(content, str) else content)
        both = (checked(folder, "bids", *options, *more) for folder in (place, base))
        return Case(f"BIDS: {name}", *both)

    segmentation = ("--task", "segmentation")
    for name, content in TABLES.items():
        yield case(f"participants: {name}", "participants.tsv", content)
    for name, content in changed(PARTICIPANTS.encode(), generator, 12):
        yield case(f"participants: {name}", "participants.tsv", content)
    image = (base / "sub-1/anat/sub-1_T1w.nii.gz").read_bytes()
    for name in NAMES:
        yield case(f"name {name!r}", name, image)
        mask = "derivatives/x/" + name.replace("T1w", "dseg")
        yield case(f"mask {name!r}", mask, image, *segmentation)
    for name, content in SEGMENTS.items():
        yield case(f"dseg.tsv: {name}", "derivatives/x/dseg.tsv", content, *segmentation)
    mask = "derivatives/x/sub-1/anat/sub-1_dseg.nii.gz"
    for name, content in changed((base / mask).read_bytes(), generator, 12):
        yield case(f"mask: {name}", mask, content, *segmentation)
    yield case("a second mask", mask.replace("_dseg", "_desc-a_dseg"), image, *segmentation)
    yield case("a mask of other values", mask, image, *segmentation)
