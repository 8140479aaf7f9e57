"""`wardround verify`: the keys that a record may be signed with, and the checks on a screen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.text import tell
from wardround.cli.keys import AsJson

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
PinsPath = Annotated[
    Path | None,
    typer.Option(
        "--pins", help="Pinned keys beside one's own: a file, or the folder of a coordinator or hospital."
    ),
]
LedgerPath = Annotated[
    Path | None, typer.Option("--ledger", help="The ledger that it was charged to; default: as the run says.")
]


def trusted(key: Path | None, pins: Path | None) -> Mapping[str, bytes]:
    """Returns the keys that a record may be signed with: one's own, and those of pins and of a key file.

    Raises:
        FederationError: a file holds no such keys.
    """
    from wardround.secure_aggregation.keys.identity import SigningKey
    from wardround.secure_aggregation.keys.pins import Pins
    from wardround.simulation.own_key import own_pin

    found = own_pin() if key is None else {f"the key in {key}": SigningKey.read(key).public}
    if pins is None:
        return found
    return {**found, **(_of_folder(pins) if pins.is_dir() else Pins.read(pins).keys)}


def _of_folder(folder: Path) -> dict[str, bytes]:
    """Returns the keys of a coordinator's or a hospital's folder by name: its own, and those that it has pinned."""
    from wardround.config.site import read_site
    from wardround.secure_aggregation.keys.enrolment import COORDINATORS, HOSPITALS, IDENTITY
    from wardround.secure_aggregation.keys.identity import SigningKey
    from wardround.secure_aggregation.keys.pins import Pins

    site = folder / "site.toml"
    name = str(read_site(site).hospital.name) if site.is_file() else f"the coordinator of {folder}"
    found = {name: SigningKey.read(folder / IDENTITY).public}
    for file in (COORDINATORS, HOSPITALS):
        if (folder / file).is_file():
            found |= Pins.read(folder / file).keys
    return found


def verify(
    path: RunPath,
    key: Annotated[Path | None, typer.Option("--key", help="The key file that signed the run.")] = None,
    pins: PinsPath = None,
    ledger: LedgerPath = None,
    as_json: AsJson = False,
) -> None:
    """Check the files of a run against each other and a key.

    These are rounds, checkpoints, model, certificate and ledger; the key is one's own or a pinned one.
    """
    from wardround.secure_aggregation.keys.identity import SigningKey, spoken_fingerprint
    from wardround.simulation.own_key import own_key, own_pin
    from wardround.simulation.verification import verify_run

    keys = trusted(key, pins)
    private = SigningKey.read(key) if key is not None else own_key() if own_pin() else None
    found = verify_run(path, keys, key=private, ledger=ledger)
    state = "finished" if found.signed.is_finished else "not finished: go on with wardround resume"
    tell(
        as_json, found.to_json(), f"The run in {path} holds ({state}).",
        f"fingerprint: {spoken_fingerprint(found.signed.public_key)}",
        *(f"  holds        {line}" for line in found.checks), *(f"  not checked  {line}" for line in found.unchecked),
    )  # fmt: skip
