"""The courier over FLARE, as processes on this machine: a server, and a client for each hospital of a consortium."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.transport.consortium import NAMES

ROOT = Path(__file__).resolve().parents[2]
COURIER = ROOT / "couriers" / "flare"
READY_S = 120
JOBS = ("runner_process", "worker_process")


def courier_python(make_folder):
    """The interpreter of the courier's environment: a given one, the house's, or one that is made; else skips."""
    given = os.environ.get("WARDROUND_COURIER", ROOT / ".venv" / "courier" / "bin" / "python")
    if Path(given).exists():
        return Path(given)
    folder = make_folder()
    requirements = COURIER / "requirements.txt"
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
        subprocess.run(
            [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--requirement", requirements],
            check=True,
            capture_output=True,
            timeout=300,
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"the courier's environment cannot be made here: {error}")
    return folder / "bin" / "python"


class Flare:
    """The courier of a consortium. Hospitals' agents are reached by links, so that one courier serves many tests."""

    def __init__(self, folder, python):
        self.folder, self.python = folder, python
        self.sockets = folder / "sockets"
        self.up = {}

    def command(self, *arguments):
        return [self.python, "-m", "wardround_flare", *map(str, arguments)]

    @property
    def environment(self):
        return os.environ | {"PYTHONPATH": str(COURIER), "OMP_NUM_THREADS": "1"}

    def make_kits(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        sites = [part for name in NAMES for part in ("--site", name)]
        self.call("kits", self.folder / "kits", "--server", "localhost", "--port", port, *sites)

    def call(self, *arguments):
        done = subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *names):
        """Starts sides of the courier, all of them by default."""
        for name in names or ("coordinator", *NAMES):
            where = ("--sockets", self.sockets) if name == "coordinator" else ("--agent", self.link(name))
            with (self.folder / f"{name}.txt").open("ab") as log:
                self.up[name] = subprocess.Popen(
                    self.command("up", self.folder / "kits" / name, *where),
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def link(self, name):
        return self.folder / f"{name}.agent"

    def lead_to(self, home):
        """Leads to the agents of a consortium, by the homes of its hospitals."""
        for name in NAMES:
            self.link(name).unlink(missing_ok=True)
            self.link(name).symlink_to(home(name) / "agent.sock")

    def socket_of(self, name):
        return self.sockets / f"{name}.sock"

    def wait(self):
        """Waits until every hospital's socket answers a connection, and each side has its processes."""
        end = time.monotonic() + READY_S
        while not all(answers(self.socket_of(name)) for name in NAMES) or not self.is_whole():
            assert time.monotonic() < end, "the courier is not up"
            assert all(process.poll() is None for process in self.up.values()), "a side of the courier has ended"
            time.sleep(0.2)

    def processes(self, name):
        """FLARE's processes of one side: its parent and its job, where they are there."""
        found = {}
        for process in self.below(name):
            with suppress(psutil.NoSuchProcess):  # or a zombie
                line = " ".join(process.cmdline())
                found["job" if any(job in line for job in JOBS) else "parent"] = process
        return found

    def is_whole(self):
        """True where each side has one parent and one job, and no other process below it."""
        return all(len(self.below(name)) == len(self.processes(name)) == 2 for name in self.up)

    def kill(self, name, which):
        """Kills one of FLARE's processes without a warning."""
        self.processes(name)[which].kill()

    def end(self):
        """Ends all; nothing that was started is left."""
        below = [process for name in self.up for process in self.below(name)]
        for process in self.up.values():
            process.send_signal(signal.SIGTERM)
        codes = {name: process.wait(60) for name, process in self.up.items()}
        assert not [process for process in below if process.is_running()]
        return codes

    def below(self, name):
        try:
            return psutil.Process(self.up[name].pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def answers(path):
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(str(path))
        except OSError:
            return False
    return True
