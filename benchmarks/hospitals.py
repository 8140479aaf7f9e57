"""Hospitals of a benchmark on this machine: folders that trust each other's keys, and processes that end with it."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wardround.config import Study
from wardround.config.site import read_policy, read_site
from wardround.errors import FederationError
from wardround.federation.wire.signatures import CoordinatorKeys
from wardround.hospital.accepted import accept
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.types import HospitalName

ROOT = Path(__file__).parents[1]
COURIER = ROOT / "couriers" / "flare"
READY_S = 900.0
"""Seconds for processes to be there, pictures read; generous, as no figure has them."""


def make_homes(
    folder: Path, study: Study, sites: Mapping[HospitalName, str], policy: str
) -> tuple[dict[HospitalName, Path], CoordinatorKeys]:
    """Makes a folder for each hospital, which has accepted the study; returns them and the coordinator's keys.

    Args:
        folder: in which they are made.
        study: which they accept.
        sites: the lines of each `site.toml` that follow its name.
        policy: the lines of each `policy.toml`.
    """
    coordinator = SigningKey.new(secrets.token_bytes)
    keys = {name: SigningKey.new(secrets.token_bytes) for name in sites}
    for name, key in keys.items():
        home = folder / name
        home.mkdir(mode=0o700)
        (home / "site.toml").write_text(f'[hospital]\nname = "{name}"\n{sites[name]}')
        (home / "policy.toml").write_text(f"[policy]\n{policy}")
        key.write(home / "identity.pem")
        Pins({other: one.public for other, one in keys.items() if other != name}).write(home / "pins.toml")
        Pins({"the coordinator": coordinator.public}).write(home / "coordinators.toml")
        accept(home, read_site(home / "site.toml"), read_policy(home / "policy.toml"), study, by="a benchmark")
    public = {str(name): key.public for name, key in keys.items()}
    return {name: folder / name for name in keys}, CoordinatorKeys(coordinator, public)


def start_agents(stack: ExitStack, homes: Mapping[HospitalName, Path], folder: Path) -> dict[HospitalName, Path]:
    """Starts the agent of each hospital; returns their sockets, which are there later."""
    for name, home in homes.items():
        command = (sys.executable, "-m", "wardround", "agent", "--home", home)
        stack.enter_context(running(command, folder / f"agent-{name}.txt"))
    return {name: home / "agent.sock" for name, home in homes.items()}


def start_courier(
    stack: ExitStack,
    folder: Path,
    names: Sequence[str],
    courier: Path | None,
    command: Callable[[str, Path], Sequence[object]],
) -> None:
    """Makes the courier's kits in `folder / "kits"`, and starts each party's command.

    Args:
        stack: ends them.
        folder: of kits and output.
        names: of the hospitals.
        courier: the interpreter of its environment.
        command: returns that of a hospital, or of "coordinator", by its name and kit.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kits, parties = folder / "kits", ("coordinator", *names)
    sites = [part for name in names for part in ("--site", name)]
    made = (courier, "-m", "wardround_flare", "kits", kits, "--server", "localhost", "--port", port, *sites)
    with running(made, folder / "kits.txt"):
        wait_for([kits / name / "kit.json" for name in parties])
    for name in parties:
        stack.enter_context(running(command(name, kits / name), folder / f"courier-{name}.txt"))


@contextmanager
def running(command: Sequence[object], log: Path) -> Iterator[None]:
    """A process that ends with the block."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{COURIER}:{ROOT}"}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(each) for each in command], stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def wait_for(paths: Sequence[Path]) -> None:
    """Waits until files are there."""
    end = time.monotonic() + READY_S
    while missing := [path for path in paths if not path.exists()]:
        if time.monotonic() > end:
            raise FederationError(f"A benchmark waited {READY_S:.0f} s for {missing[0]}; see the files beside it.")
        time.sleep(0.1)
