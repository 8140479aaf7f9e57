"""Hostile weights, checkpoints, records, notes and model cards."""

import json
import shutil
import struct
from typing import Any

import numpy as np
from tests.thorough.hostile.case import Case, changed, special
from tests.thorough.hostile.documents import STUDY_LINES


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
        yield Case(f"weights: {name}", ["weights", str(path)], ["weights", str(good)], name in MUST_REFUSE)
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
    from wardround.hospital.kept.notes import Notes
    from wardround.hospital.kept.replies import Replies

    root.mkdir()
    good = root / "good"
    good.mkdir()
    Notes().write(good / "notes.json")
    replies = Replies(good)
    replies.note("1/gradient-sum", 1, b"asked")
    replies.keep(bytes(32), b"reply", 64 * "0")
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
