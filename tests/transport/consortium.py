"""A consortium on one machine: a study of phantoms, and three hospitals' agents, each a process with its folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardround.cli.main import main
from wardround.config import Study, parse_study
from wardround.config.site import read_policy, read_site
from wardround.coordinator.observer import Silent
from wardround.coordinator.run import coordinate
from wardround.federation.wire.signatures import CoordinatorKeys
from wardround.hospital.accepted import accept
from wardround.records.folder import RunRecord
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.simulation.materials import gather
from wardround.transport.unix import SocketChannel
from wardround.types import HospitalName

NAMES = tuple(map(HospitalName, ("site-1", "site-2", "site-3")))
PHANTOM = {"patients": 48, "sites": 3, "image_size": 32, "max_images": 2, "seed": 4}
MASKED = {"plan": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-3, "sum": "masked", "num_patients": 36}
ALONE = {"plan": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-3, "trust": "nobody", "num_patients": 36}


def study_of(
    cache: Path,
    privacy: dict[str, Any],
    federation: dict[str, Any],
    *,
    seed: int | None = 7,
    evaluation: dict[str, Any] | None = None,
) -> Study:
    """A study whose simulation deals each site's patients to the hospital of that name."""
    return parse_study(
        {
            "study": {"name": "consortium", **({} if seed is None else {"seed": seed})},
            "site": {"layout": "phantom", "phantom": PHANTOM},
            "data": {"image_size": 32, "classes": ["clear", "lesion"]},
            "hospitals": {"count": 3, "names": list(NAMES), "scheme": "site"},
            "model": {"name": "linear"},
            "privacy": privacy,
            "federation": {"evaluate_every": 100, **federation},
            "evaluation": evaluation or {"level": "none"},
            "performance": {"threads": 1, "cache": str(cache)},
        }
    )


class Forked:
    """A process of the command line that begins with this one's imports, and shares nothing else."""

    def __init__(self, arguments: list[str], first: Callable[[], None] = lambda: None) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.dup2(writing, 1)
                sys.stdout = os.fdopen(1, "w", closefd=False)
                sys.argv = ["wardround", *arguments]
                first()
                main()
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                os._exit(code)
        os.close(writing)
        self.stdout = os.fdopen(reading)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise subprocess.TimeoutExpired("wardround", timeout)


def command_line(arguments: list[str]) -> "subprocess.Popen[str]":
    """A process that begins with nothing."""
    return subprocess.Popen([sys.executable, "-m", "wardround", *arguments], stdout=subprocess.PIPE, text=True)


@dataclass
class Consortium:
    """Three homes in a folder, and their agents.

    `begin` makes an agent's process: `Forked`, which is soon there, or `command_line`.
    """

    folder: Path
    study: Study
    begin: Callable[[list[str]], Any] = Forked
    agents: dict[HospitalName, Any] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    coordinator: SigningKey = field(default_factory=lambda: SigningKey.new(system_entropy))

    def __post_init__(self) -> None:
        keys = {name: SigningKey.new(system_entropy) for name in NAMES}
        self.keys = {name: key.public for name, key in keys.items()}
        split = gather(self.study, Silent()).split
        options = ", ".join(f"{key} = {value}" for key, value in PHANTOM.items())
        for name in NAMES:
            home = self.home(name)
            home.mkdir()
            tested = [patient for patient in split.test if patient.images[0].site == name]
            cohort = [patient.id for patient in (*split.hospitals[name], *tested)]
            (home / "cohort.txt").write_text("".join(f"{patient}\n" for patient in cohort))
            (home / "site.toml").write_text(
                f'[hospital]\nname = "{name}"\ncohort = "cohort.txt"\n[site]\nlayout = "phantom"\n'
                f"phantom = {{ {options} }}\n"
            )
            (home / "policy.toml").write_text("[policy]\nepsilon_limit = 50.0\ndelta = 1e-3\n")
            keys[name].write(home / "identity.pem")
            Pins({other: public for other, public in self.keys.items() if other != name}).write(home / "pins.toml")
            Pins({"the coordinator": self.coordinator.public}).write(home / "coordinators.toml")

    def home(self, name: HospitalName) -> Path:
        return self.folder / name

    def accept(self) -> None:
        for name in NAMES:
            home = self.home(name)
            site, policy = read_site(home / "site.toml"), read_policy(home / "policy.toml")
            accept(home, site, policy, self.study, by="a person")

    def start(self, *names: HospitalName, **options: Any) -> None:
        """Starts agents, all of them by default; returns when each is waiting."""
        for name in names or NAMES:
            self.agents[name] = self.begin(["agent", "--home", str(self.home(name))], **options)
        for name in names or NAMES:
            assert "accepted, waiting at" in self.agents[name].stdout.readline()

    def kill(self, name: HospitalName) -> None:
        """Ends an agent without a warning."""
        self.agents[name].send_signal(signal.SIGKILL)
        assert self.ended(name) == -signal.SIGKILL

    def stop(self) -> None:
        """Ends all agents as an operating system does; each must end by itself."""
        for agent in self.agents.values():
            agent.send_signal(signal.SIGTERM)
        assert {name: self.ended(name) for name in list(self.agents)} == dict.fromkeys(NAMES, 0)

    def ended(self, name: HospitalName) -> int:
        """Waits for an agent; returns its exit code."""
        agent = self.agents.pop(name)
        agent.stdout.close()
        code: int = agent.wait(60)
        return code

    def end(self) -> None:
        """Kills what a failed test has left."""
        for name in list(self.agents):
            self.kill(name)

    def receipts(self) -> Any:
        """The receipts of the finished run, by hospital."""
        return json.loads((self.folder / "run" / "receipts.json").read_text())

    def run(
        self,
        watched: Callable[[SocketChannel], Any] = lambda channel: channel,
        *,
        key: SigningKey | None = None,
        over: Callable[[HospitalName], Path] | None = None,
    ) -> RunRecord:
        """Runs the coordinator's program over agents' sockets or a courier's, or over a channel that watches them."""
        keys = CoordinatorKeys(self.coordinator, self.keys)
        paths = {name: over(name) if over else self.home(name) / "agent.sock" for name in NAMES}
        patience_s = 60.0 if over is None else 240.0  # FLARE may take minutes to let a site in again
        channel = SocketChannel(paths, keys, patience_s=patience_s)
        try:
            return coordinate(
                self.study, watched(channel), self.keys, key or self.coordinator, self.folder / "run", Silent()
            )
        finally:
            channel.close()


def children_of() -> list[str]:
    """Agents and coordinators of this process that still run, by their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.append((path.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended
            continue
    return found
