"""`wardround keys`: a hospital's own signing key, and the keys of the others that it trusts."""

from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.text import tell

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

keys_app = typer.Typer(help="Signing keys: one's own, and pinned ones of others.", no_args_is_help=True)


@keys_app.command("new")
def new(
    path: Annotated[Path, typer.Argument(metavar="KEY", help="The key file to make; it must not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """Make this hospital's signing key, in a file that only its owner can open."""
    from wardround.secure_aggregation.keys.identity import SigningKey
    from wardround.secure_aggregation.keys.secret import system_entropy

    key = SigningKey.new(system_entropy)
    key.write(path)
    then = f"The private key is in {path}. Send the public key to the others, and read them the fingerprint."
    _show(key.public, as_json, then)


@keys_app.command("show")
def show(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A key file, or a file of pinned keys.")],
    as_json: AsJson = False,
) -> None:
    """Print a public key and its fingerprint, or all that are pinned."""
    from wardround.secure_aggregation.keys.identity import SigningKey, spoken_fingerprint
    from wardround.secure_aggregation.keys.key_files import is_private_key
    from wardround.secure_aggregation.keys.pins import Pins

    if is_private_key(path):
        _show(SigningKey.read(path).public, as_json)
        return
    pins = Pins.read(path)
    listed = {
        hospital: {"public_key": public.hex(), "fingerprint": spoken_fingerprint(public)}
        | {"compared": hospital in pins.compared}
        for hospital, public in pins.keys.items()
    }
    tell(as_json, listed, *(
        f"{hospital}: {one['fingerprint']}{'' if one['compared'] else '  (not compared)'}"
        for hospital, one in sorted(listed.items())
    ))  # fmt: skip


@keys_app.command("pin")
def pin(
    pins: Annotated[Path, typer.Argument(metavar="PINS", help="The file of pinned keys; made when missing.")],
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL", help="The other hospital's name.")],
    public_key: Annotated[str, typer.Argument(metavar="PUBLIC_KEY", help="Its public key, 64 digits.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="As it was read aloud; anything else is refused. Spaces do not count.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Trust a hospital's public key, after its fingerprint was compared by telephone or in person."""
    from wardround.secure_aggregation.keys.pins import Pins, check_fingerprint, parse_public

    public = parse_public(public_key, hospital)
    if fingerprint is not None:
        check_fingerprint(public, fingerprint, hospital)
    known = Pins.read(pins) if pins.exists() else Pins()
    pinned = known.with_pin(hospital, public, compared=fingerprint is not None)
    pinned.write(pins)
    said = "The fingerprint was compared."
    if hospital not in pinned.compared:
        said = "The fingerprint was NOT compared: have it read to you before a round, and give --fingerprint."
    _show(public, as_json, f"Pinned as {hospital} in {pins}. {said}")


def _show(public: bytes, as_json: bool, *then: str) -> None:
    from wardround.secure_aggregation.keys.identity import spoken_fingerprint

    found = {"public_key": public.hex(), "fingerprint": spoken_fingerprint(public)}
    tell(as_json, found, *(f"{name.replace('_', ' ')}: {value}" for name, value in found.items()), *then)
