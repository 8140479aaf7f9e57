"""Hostile files and records by kind: each is one change of a valid neighbour, which the same operation must read."""

import csv
import io
import json
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

HUGE = 10**12


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Args:
        name: for messages.
        operation: what the worker does with it, and its arguments.
        neighbour: the same for the valid input that it was made from.
    """

    name: str
    operation: list[Any]
    neighbour: list[Any]


def changed(content, generator, count):
    """The content cut, lengthened, with bytes turned, and with the fields of a header set to extremes."""
    for number in range(count):
        data = bytearray(content)
        match number % 6:
            case 0:
                data = data[: generator.integers(0, len(data))]
            case 1:
                for at in generator.integers(0, min(len(data), 200), 3):
                    data[at] = generator.integers(0, 256)
            case 2:
                for at in generator.integers(0, len(data), 20):
                    data[at] = generator.integers(0, 256)
            case 3:
                at = int(generator.integers(0, max(1, min(len(data), 400) - 4)))
                data[at : at + 4] = b"\xff\xff\xff\x7f"
            case 4:
                at = int(generator.integers(0, max(1, min(len(data), 400) - 4)))
                data[at : at + 4] = bytes(4)
            case 5:
                at = int(generator.integers(0, len(data)))
                data[at:at] = generator.bytes(int(generator.integers(1, 5000)))
        yield f"change {number}", bytes(data)


def special(path):
    """Things in the place of a file that are no files."""

    def pipe(place):
        os.mkfifo(place)

    def device(place):
        place.symlink_to("/dev/zero")

    def sparse(place):
        with place.open("wb") as file:
            file.truncate(1 << 40)

    def loop(place):
        place.symlink_to(place.name)

    def folder(place):
        place.mkdir()

    for make in (pipe, device, sparse, loop, folder):
        place = path.with_name(f"{make.__name__}-{path.name}")
        make(place)
        yield make.__name__, place


STUDY_LINES = {
    "dotted": ".".join(["a"] * 50_000) + " = 1",
    "dotted in quotes": ".".join(['"a"'] * 20_000) + " = 1",
    "nested": "x = " + "[" * 50_000,
    "nested and closed": "x = " + "[" * 400 + "]" * 400,
    "inline": "x = " + "{a=" * 400 + "1" + "}" * 400,
    "digits": "seed = " + "9" * 6000,
    "65 bits": f"seed = {2**70}",
    "hexadecimal": "seed = 0x" + "f" * 5000,
    "many keys": "\n".join(f"k{i} = 1" for i in range(50_000)),
    "many tables": "\n".join(f"[t{i}.a.b]" for i in range(40_000)),
    "long key": "a" * 500_000 + " = 1",
    "long text": f'description = "{"a" * 900_000}"',
    "too long": "#" * 2_000_000,
    "escape": 'description = "\\u001b[2J"\n"\\u001b" = 1',
    "direction": '"\\u202e" = 1',
    "null": 'name = "a\\u0000b"',
    "surrogate": 'name = "\\ud800"',
    "date": "seed = 2026-02-31",
    "not closed": 'name = "' + '\\"' * 200_000,
}


def studies(root, text):
    """Study files: the bytes, the tables, and every number of the tables at an extreme."""
    root.mkdir()
    good = root / "good.toml"
    good.write_text(text)

    def case(name, content):
        path = root / f"{len(list(root.iterdir()))}.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Case(f"study: {name}", ["command", "check", str(path)], ["command", "check", str(good)])

    for name, line in STUDY_LINES.items():
        yield case(name, text.replace("[study]\n", f"[study]\n{line}\n", 1))
    for name, content in changed(text.encode(), np.random.default_rng(1), 12):
        yield case(name, content)
    for name, path in special(root / "special.toml"):
        yield Case(f"study: {name}", ["command", "check", str(path)], ["command", "check", str(good)])
    lines = text.split("\n")
    for number, line in enumerate(lines):
        key, _, value = line.partition(" = ")
        if value and (value[0].isdigit() or value[0] in '"['):
            for hostile in (str(HUGE), "-1", '"\\u001b[31m"', "[[1]]"):
                if value[0] == '"' and hostile[0] not in '["':
                    continue
                yield case(
                    f"{key} = {hostile}", "\n".join([*lines[:number], f"{key} = {hostile}", *lines[number + 1 :]])
                )


def sweeps(root, text):
    """Sweeps of too many runs, and of wrong lists."""
    root.mkdir()
    good = root / "good.toml"
    good.write_text(text + '\n[sweep]\n"federation.rounds" = [2, 3]\n')
    many = list(range(1, 1001))
    for name, lines in {
        "repeats": f"repeats = {HUGE}",
        "repeats of text": 'repeats = "two"',
        "product": f'"federation.rounds" = {many}\n"hospitals.count" = {many}\n"data.image_size" = {many}',
        "long list": f'"federation.rounds" = {list(range(1, 150_000))}',
        "equal": '"federation.rounds" = [1, 1]',
        "nested": '"federation.rounds" = [[[1]]]',
        "tables": '"federation.rounds" = [{a = 1}]',
        "empty": '"federation.rounds" = []',
        "unknown": '"\\u001b.x" = [1]',
        "section": '"federation" = [1]',
        "control": '"study.seed" = ["\\u001b"]',
        "huge": f'"hospitals.count" = [{HUGE}]',
    }.items():
        path = root / f"{name}.toml"
        path.write_text(f"{text}\n[sweep]\n{lines}\n")
        yield Case(f"sweep: {name}", ["sweep", str(path)], ["sweep", str(good)])
    for name, content in changed(good.read_bytes(), np.random.default_rng(2), 12):
        path = root / f"{name}.toml"
        path.write_bytes(content)
        yield Case(f"sweep: {name}", ["sweep", str(path)], ["sweep", str(good)])


def own_files(root):
    """Site files, policies, pinned keys and key files."""
    from wardround.secure_aggregation.keys.identity import SigningKey
    from wardround.secure_aggregation.keys.pins import Pins
    from wardround.secure_aggregation.keys.secret import system_entropy

    root.mkdir()
    key = SigningKey.new(system_entropy)
    (root / "site.toml").write_text('[hospital]\nname = "north"\n[site]\nlayout = "phantom"\n')
    (root / "policy.toml").write_text("[policy]\nepsilon_limit = 8.0\ndelta = 1e-5\n")
    Pins({"north": key.public}).write(root / "pins.toml")
    key.write(root / "key.pem")
    for good in ("site.toml", "policy.toml", "pins.toml", "key.pem"):
        reading = ["command", "keys", "show"] if good[0] in "pk" and good != "policy.toml" else ["site"]
        inputs = list(changed((root / good).read_bytes(), np.random.default_rng(3), 8))
        if good.endswith("toml"):
            inputs += [(n, STUDY_LINES[n].encode()) for n in ("dotted", "nested", "digits", "escape", "many keys")]
        for name, content in inputs:
            path = root / f"{name}-{good}"
            path.write_bytes(content)
            path.chmod(0o600)
            yield Case(f"{good}: {name}", [*reading, str(path)], [*reading, str(root / good)])
        for name, path in special(root / good):
            yield Case(f"{good}: {name}", [*reading, str(path)], [*reading, str(root / good)])
    for name, public in {
        "0": bytes(32),
        "1": b"\1" + bytes(31),
        "-1": (2**255 - 20).to_bytes(32, "little"),
    }.items():
        path = root / f"small-{name}.toml"
        path.write_text(f'north = "{public.hex()}"\n')
        yield Case(f"pins: order of {name}", ["command", "keys", "show", str(path)],
                   ["command", "keys", "show", str(root / "pins.toml")])  # fmt: skip


def _picture(generator):
    return Image.fromarray(generator.integers(0, 256, (32, 32), dtype=np.uint8))


def _png(width, height, *, chunk=b""):
    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk + part(b"IDAT", zlib.compress(bytes(100))) + part(b"IEND", b"")


def _check(root, layout, *options):
    return ["command", "data", "check", str(root), "--layout", layout, "--json", *options]


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
            inputs += [("bomb", _png(60_000, 60_000)), ("empty", _png(0, 0)), ("no rows", _png(2**31 - 1, 1))]
            text = zlib.compress(bytes(100_000_000))
            ztxt = b"zTXt" + b"k\0\0" + text
            inputs += [
                (
                    "text bomb",
                    _png(
                        32, 32, chunk=struct.pack(">I", len(ztxt) - 4) + ztxt + struct.pack(">I", zlib.crc32(ztxt))
                    ),
                )
            ]
        for name, data in inputs:
            place = root / f"{form}-{name}"
            shutil.copytree(base, place)
            (place / "ill" / "p9").mkdir()
            (place / "ill" / "p9" / f"a.{ending}").write_bytes(data)
            yield Case(f"{form}: {name}", _check(place, "folder"), _check(base, "folder"))


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
        yield Case(f"table: {name}", _check(place, "folder"), _check(base, "folder"))


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
            yield Case(f"{kind}: {name}", _check(path, "folder"), _check(good, "folder"))


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
        yield Case(f"{file}: {name}", _check(place, "decathlon", *options), _check(base, "decathlon", *options))


def weights(root):
    """Weights files: damaged, of other networks, and of values that a network cannot take."""
    import torch
    from safetensors.torch import save

    from wardround.models.catalogue import build

    root.mkdir()
    network = build(
        "small_cnn", size=(16, 16), channels=1, num_classes=2, init_generator=torch.Generator().manual_seed(1)
    )
    assert network.parts is not None
    tensors = {name: value.clone() for name, value in network.parts.body.state_dict().items()}
    good = root / "good.safetensors"
    good.write_bytes(save(tensors))
    first, *_, last = tensors
    values = {
        "nothing matching": {"other.weight": torch.ones(3)},
        "no tensor": {},
        "NaN": tensors | {first: torch.full_like(tensors[first], torch.nan)},
        "NaN in the head": tensors | {last: torch.full_like(tensors[last], torch.nan)},
        "integers": {name: value.to(torch.int64) for name, value in tensors.items()},
        "integers in the head": tensors | {last: tensors[last].to(torch.int32)},
        "overflow": tensors | {first: torch.full(tensors[first].shape, 1e300, dtype=torch.float64)},
        "overflow in the head": tensors | {last: torch.full(tensors[last].shape, 1e39, dtype=torch.float64)},
        "a misspelt head": {n if n != last else f"x{n}": value for n, value in tensors.items()},
        "a body of another shape": tensors | {first: torch.ones(7, 7)},
        "bool": {name: value > 0 for name, value in tensors.items()},
    }
    inputs = [(name, save(content)) for name, content in values.items()]
    inputs += list(changed(good.read_bytes(), np.random.default_rng(5), 18))
    inputs += [
        ("a long header", struct.pack("<Q", 2**62) + b"{}"),
        ("nested", struct.pack("<Q", 100_000) + b"[" * 100_000),
    ]
    for name, content in inputs:
        path = root / f"{name}.safetensors"
        path.write_bytes(content)
        yield Case(f"weights: {name}", ["weights", str(path)], ["weights", str(good)])
    for name, path in special(good):
        yield Case(f"weights: {name}", ["weights", str(path)], ["weights", str(good)])


MUST_REFUSE = {
    "nothing matching", "no tensor", "NaN", "NaN in the head", "integers", "integers in the head", "overflow",
    "overflow in the head", "a misspelt head", "a body of another shape", "bool",
}  # fmt: skip
"""Weights that would be read wrong if they were read."""


def checkpoints(root, finished):
    """Run folders whose checkpoint lies, lacks arrays, or has others."""
    from wardround.records.arrays import arrays_from_file, arrays_to_bytes

    path = next((finished / "checkpoints").glob("*.safetensors"))
    arrays = arrays_from_file(path)
    size = len(arrays["state:weights"])
    lacking = {f"no {n}": {k: v for k, v in arrays.items() if k != n} for n in arrays if "state:" in n}
    other: dict[str, Any] = {
        "short": arrays | {"state:weights": arrays["state:weights"][:-1]},
        "scalar": arrays | {"state:velocity": np.float32(1).reshape(())},
        "integers": arrays | {"state:weights": arrays["state:weights"].astype(np.int64)},
        "empty": {},
    }
    inputs = [
        (name, path.name, arrays_to_bytes(content, "round 4")) for name, content in {**lacking, **other}.items()
    ]
    inputs += [(f"named {name}", name, path.read_bytes()) for name in
               ("round-000009.safetensors", "round-000001.safetensors", "round-999999.safetensors")]  # fmt: skip
    inputs += [("sealed as 9", "round-000009.safetensors", arrays_to_bytes(arrays, "round 9"))]
    inputs += [(name, path.name, data) for name, data in changed(path.read_bytes(), np.random.default_rng(6), 12)]
    for name, file, content in inputs:
        place = root / f"run-{name}"
        shutil.copytree(finished, place)
        (place / "checkpoints" / path.name).unlink()
        (place / "checkpoints" / file).write_bytes(content)
        operation = ["checkpoint", str(place), 4, size]
        yield Case(f"checkpoint: {name}", operation, ["checkpoint", str(finished), 4, size])
    for name, lines in {"no round": "{}", "text": '{"round": "x"}', "list": "[1]", "nested": "[" * 100_000,
                        "float": '{"round": 1e999}', "digits": '{"round": ' + "9" * 6000 + "}"}.items():  # fmt: skip
        place = root / f"lines-{name}"
        shutil.copytree(finished, place)
        (place / "rounds.jsonl").write_text(f"{lines}\n{lines}\n")
        yield Case(
            f"rounds.jsonl: {name}", ["checkpoint", str(place), 4, size], ["checkpoint", str(finished), 4, size]
        )


WRONG: tuple[Any, ...] = (None, [], {}, "\x1b[2J", -1, 2**63, 1e308, True, [[[]]])


def records(root, finished, generator):
    """Records of a finished run with values of other types, and files that are damaged."""
    root.mkdir()
    good = ["command", "report", str(root / "good"), "--json"]
    shutil.copytree(finished, root / "good")
    count = 0

    def case(name, file, content):
        nonlocal count
        count += 1
        place = root / f"{count}"
        shutil.copytree(finished, place)
        (place / file).write_bytes(content)
        return Case(f"{file}: {name}", ["command", "report", str(place), "--json"], good)

    for file in ("results.json", "certificate.json", "environment.json"):
        content = json.loads((finished / file).read_text())
        for number, key in enumerate(content):
            for wrong in (WRONG[number % len(WRONG)], WRONG[(number + 4) % len(WRONG)]):
                yield case(f"{key} = {wrong!r}", file, json.dumps(content | {key: wrong}).encode())
        for name, text in {"nested": "[" * 100_000, "closed": '{"a": ' + "[" * 500 + "]" * 500 + "}",
                           "digits": '{"a": ' + "9" * 6000 + "}", "NaN": '{"a": NaN}', "list": "[]",
                           "large": " " * 20_000_000 + "{}"}.items():  # fmt: skip
            yield case(name, file, text.encode())
        for name, data in changed((finished / file).read_bytes(), generator, 6):
            yield case(name, file, data)
    for name, data in changed((finished / "study.toml").read_bytes(), generator, 6):
        yield case(name, "study.toml", data)
    for name in ("dotted", "nested", "digits"):
        yield case(name, "study.toml", STUDY_LINES[name].encode())


def notes(root):
    """A hospital's notes, and the model card."""
    from wardround.hospital.notes import Notes
    from wardround.hospital.replies import Replies

    root.mkdir()
    good = root / "good"
    good.mkdir()
    Notes().write(good / "notes.json")
    replies = Replies(good)
    replies.note("1/gradient-sum", 1, b"asked")
    replies.keep(b"asked", b"reply")
    for file in ("notes.json", "asked.json"):
        inputs = {
            "nested": b"[" * 100_000,
            "digits": b'{"a": ' + b"9" * 6000 + b"}",
            "list": b"[]",
            "text": b'"a"',
        }
        inputs |= dict(changed((good / file).read_bytes(), np.random.default_rng(8), 12))
        for name, content in inputs.items():
            place = root / f"{file}-{name}"
            shutil.copytree(good, place)
            (place / file).write_bytes(content)
            yield Case(f"{file}: {name}", ["notes", str(place)], ["notes", str(good)])


def cards(root, finished):
    """Model cards."""
    root.mkdir()
    good = finished / "model.json"
    content = json.loads(good.read_text())
    inputs = {f"{key} = {WRONG[n % len(WRONG)]!r}": json.dumps(content | {key: WRONG[n % len(WRONG)]}).encode()
              for n, key in enumerate(content)}  # fmt: skip
    inputs |= {"nested": b"[" * 100_000, "digits": b'{"version": ' + b"9" * 6000 + b"}"}
    for number, (name, data) in enumerate(inputs.items()):
        path = root / f"{number}.json"
        path.write_bytes(data)
        yield Case(f"card: {name}", ["card", str(path)], ["card", str(good)])


def every_case(root, finished, study):
    """All hostile inputs, written below `root`."""
    generator = np.random.default_rng(0)
    yield from studies(root / "studies", study)
    yield from sweeps(root / "sweeps", study)
    yield from own_files(root / "own")
    for make in (pictures, tables, archives, volumes):
        place = root / make.__name__
        place.mkdir()
        yield from make(place, generator)
    yield from weights(root / "weights")
    yield from checkpoints(root, finished)
    yield from records(root / "records", finished, generator)
    yield from notes(root / "notes")
    yield from cards(root / "cards", finished)
