"""`wardround keys`: what it prints, what it leaves, and what it refuses."""

import json
import stat
import subprocess
import sys

from wardround.secure_aggregation.keys.identity import SigningKey, spoken_fingerprint
from wardround.secure_aggregation.keys.pins import Pins


def new_key(wardround, path):
    ended = wardround("keys", "new", path, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_help_names_the_three_commands(wardround):
    ended = wardround("keys", "--help")
    assert ended.code == 0
    for command in ("new", "show", "pin"):
        assert f"\n  {command} " in ended.out
    assert "\n  keys " in wardround("--help").out


def test_a_new_key_is_shown_and_closed_to_others(wardround, tmp_path):
    made = new_key(wardround, tmp_path / "north.pem")
    assert stat.S_IMODE((tmp_path / "north.pem").stat().st_mode) == 0o600
    public = SigningKey.read(tmp_path / "north.pem").public
    assert made == {"public_key": public.hex(), "fingerprint": spoken_fingerprint(public)}
    assert json.loads(wardround("keys", "show", tmp_path / "north.pem", "--json").out) == made


def test_no_private_key_is_ever_printed(wardround, tmp_path):
    path = tmp_path / "north.pem"
    said = wardround("keys", "new", path).out + wardround("keys", "show", path).out
    private = SigningKey.read(path)._key.private_bytes_raw()
    assert private.hex() not in said
    assert path.read_text().splitlines()[1] not in said
    assert said.count("public key: ") == said.count("fingerprint: ") == 2


def test_a_key_file_is_never_replaced(wardround, tmp_path):
    made = new_key(wardround, tmp_path / "north.pem")
    ended = wardround("keys", "new", tmp_path / "north.pem")
    assert ended.code == 2
    assert ended.err.startswith("wardround: ")
    assert "must not exist yet" in ended.err
    assert json.loads(wardround("keys", "show", tmp_path / "north.pem", "--json").out) == made


def test_keys_are_pinned_and_listed(wardround, tmp_path):
    pins = tmp_path / "pins.toml"
    made = {name: new_key(wardround, tmp_path / f"{name}.pem") for name in ("north", "south")}
    for name, one in made.items():
        heard = ("--fingerprint", one["fingerprint"]) if name == "north" else ()
        ended = wardround("keys", "pin", pins, name, one["public_key"], *heard)
        assert ended.code == 0, ended.err
        assert one["fingerprint"] in ended.out
    assert Pins.read(pins).keys == {name: bytes.fromhex(one["public_key"]) for name, one in made.items()}
    assert json.loads(wardround("keys", "show", pins, "--json").out) == {
        name: one | {"compared": name == "north"} for name, one in made.items()
    }
    listed = wardround("keys", "show", pins).out.splitlines()
    assert listed == [
        f"north: {made['north']['fingerprint']}",
        f"south: {made['south']['fingerprint']}  (not compared)",
    ]
    same = wardround("keys", "pin", pins, "north", made["north"]["public_key"], "--json")
    assert json.loads(same.out) == made["north"]


def test_a_changed_key_is_refused_with_both_fingerprints(wardround, tmp_path):
    pins = tmp_path / "pins.toml"
    one, other = (new_key(wardround, tmp_path / f"{name}.pem") for name in ("one", "other"))
    wardround("keys", "pin", pins, "north", one["public_key"])
    before = pins.read_bytes()
    ended = wardround("keys", "pin", pins, "north", other["public_key"])
    assert ended.code == 2
    assert one["fingerprint"] in ended.err
    assert other["fingerprint"] in ended.err
    assert pins.read_bytes() == before


def test_a_key_that_is_not_the_one_read_aloud_is_not_pinned(wardround, tmp_path):
    one, other = (new_key(wardround, tmp_path / f"{name}.pem") for name in ("one", "other"))
    asked = ("keys", "pin", tmp_path / "pins.toml", "north", one["public_key"])
    ended = wardround(*asked, "--fingerprint", other["fingerprint"])
    assert ended.code == 2
    assert "nothing was pinned" in ended.err
    assert not (tmp_path / "pins.toml").exists()


def test_what_is_no_key_is_refused_with_a_sentence(wardround, tmp_path):
    (tmp_path / "text").write_text("something else")
    for arguments in (
        ("pin", tmp_path / "pins.toml", "north", "abcd"),
        ("pin", tmp_path / "text", "north", "ab" * 32),
        ("show", tmp_path / "text"),
        ("show", tmp_path / "missing"),
        ("new", tmp_path / "missing" / "north.pem"),
    ):
        ended = wardround("keys", *arguments)
        assert ended.code == 2
        assert ended.err.startswith("wardround: ")
        assert ended.err.count("\n") == 1


def test_keys_need_neither_torch_nor_pydantic(tmp_path):
    script = (
        "import sys\n"
        "from wardround.cli.main import main\n"
        f"sys.argv = ['wardround', 'keys', 'new', {str(tmp_path / 'north.pem')!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'pydantic', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
