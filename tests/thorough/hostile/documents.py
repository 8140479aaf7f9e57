"""Hostile study files, sweeps, site files, policies and keys."""

import numpy as np
from tests.thorough.hostile.case import HUGE, Case, changed, special

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
