"""One study twice: between three hospitals over FLARE with TLS, and in one process; both end with the same weights.

    python examples/federation/demo.py --courier PYTHON [--out FOLDER]

PYTHON is the interpreter of the courier's environment. Every hospital has a folder of mode 0700, an agent and a side of
the courier; the coordinator has FLARE's server. As root each hospital has a user id of its own, so that none can open
another's folder. The last line says `identical`; the exit code is 1 where the weights differ.
"""

import argparse
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from wardround.config import Study, read_study
from wardround.config.site import read_policy, read_site
from wardround.coordinator.observer import Silent
from wardround.errors import WardroundError
from wardround.hospital.accepted import accept
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.simulation.materials import gather

STUDY = Path(__file__).with_name("study.toml")
FIRST_UID = 61000
READY_S = 120


class DemoError(Exception):
    """The demo cannot go on; the sentence says why."""


class Demo:
    """The processes of one demo, each started with its folder's owner; all end with it."""

    def __init__(self, folder: Path, courier: Path) -> None:
        self.folder, self.courier = folder, courier
        self.running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """Prints one line of progress."""
        print(f"{time.monotonic() - self.began:5.0f} s  {text}", flush=True)

    def wardround(self, *arguments: object) -> None:
        """Runs one command of wardround to its end."""
        self._run([sys.executable, "-m", "wardround", *arguments])

    def kits(self, *arguments: object) -> None:
        """Makes the kits, with the courier's own program."""
        self._run([self.courier, "-m", "wardround_flare", "kits", *arguments])

    def start(self, name: str, program: Path, arguments: Sequence[object], user: int | None) -> None:
        """Starts a program that stays; its output goes into a file."""
        log = self.folder / "logs" / f"{name}.txt"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(each) for each in (program, *arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is this program's alone, and it ends the others in order
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                env=_environment(),
            )
        self.running.append((name, process))

    def wait_for(self, what: str, paths: Sequence[Path]) -> None:
        """Waits until files are there."""
        end = time.monotonic() + READY_S
        while not all(path.exists() for path in paths):
            for name, process in self.running:
                if process.poll() is not None:
                    raise DemoError(f"{name} has ended: {self._last_line(name)}")
            if time.monotonic() > end:
                missing = ", ".join(path.name for path in paths if not path.exists())
                raise DemoError(
                    f"{what} must be there within {READY_S} s, and {missing} is not; see {self.folder}/logs."
                )
            time.sleep(0.1)

    def end(self) -> None:
        """Ends every process, the last one first."""
        for _, process in reversed(self.running):
            process.terminate()
        for _, process in reversed(self.running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    def _last_line(self, name: str) -> str:
        lines = (self.folder / "logs" / f"{name}.txt").read_text().splitlines()
        return lines[-1] if lines else "it said nothing"

    @staticmethod
    def _run(command: Sequence[object]) -> None:
        done = subprocess.run(
            [str(each) for each in command], capture_output=True, text=True, env=_environment(), check=False
        )
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise DemoError(f"{' '.join(str(each) for each in command[1:5])} failed: {' '.join(last)}")


def run(demo: Demo) -> bool:
    """Runs both; returns whether the weights are the same."""
    study = read_study(STUDY)
    names = list(study.hospitals.names or ())
    users = dict(zip(names, _users(len(names)), strict=True))
    own = "a user id of its own" if all(users.values()) else "a folder of mode 0700, all of one user"
    demo.say(f"three hospitals, each with {own}; the coordinator has no picture, no ledger and no hospital's key")
    _make_homes(demo, study, users)
    port = _free_port()
    kits = demo.folder / "kits"
    demo.kits(
        kits, "--server", "localhost", "--port", port, *(part for name in names for part in ("--site", name))
    )
    demo.say("certificates are made; starting agents and the courier")
    homes = {name: demo.folder / name for name in names}
    for name in names:
        shutil.move(kits / name, homes[name] / "courier")
        _give(homes[name], users[name])
        demo.start(
            f"agent-{name}", Path(sys.executable), ["-m", "wardround", "agent", "--home", homes[name]], users[name]
        )
    sockets = demo.folder / "sockets"
    up = ["-m", "wardround_flare", "up"]
    demo.start("courier-coordinator", demo.courier, [*up, kits / "coordinator", "--sockets", sockets], None)
    for name in names:
        agent = ["--agent", homes[name] / "agent.sock"]
        demo.start(f"courier-{name}", demo.courier, [*up, homes[name] / "courier", *agent], users[name])
    demo.wait_for("agents", [home / "agent.sock" for home in homes.values()])
    demo.say("agents are waiting; FLARE connects them with TLS in both directions")
    reached = {name: sockets / f"{name}.sock" for name in names}
    demo.wait_for("FLARE's bridge", list(reached.values()))
    demo.say(f"the courier is up; training {study.rounds} rounds between hospitals")
    hospitals = [part for name, path in reached.items() for part in ("--hospital", f"{name}={path}")]
    demo.wardround(
        "coordinate", STUDY, *hospitals, "--home", demo.folder / "coordinator", "--out", demo.folder / "run"
    )
    demo.end()
    demo.say("trained between hospitals; the same study in one process")
    demo.wardround("run", STUDY, "--out", demo.folder / "simulated")
    between, simulated = (_hash(demo.folder / out / "model.safetensors") for out in ("run", "simulated"))
    demo.say(f"weights between hospitals  {between}")
    demo.say(f"weights in one process     {simulated}")
    demo.say(f"the report is {demo.folder / 'run' / 'report.html'}")
    return between == simulated


def _make_homes(demo: Demo, study: Study, users: Mapping[str, int | None]) -> None:
    """Makes each hospital's folder: key, pins, what it holds and what it allows; and its person accepts the study."""
    dealt = gather(study, Silent()).split.hospitals
    phantom = study.site.phantom.model_dump()
    options = ", ".join(f"{key} = {value}" for key, value in phantom.items())
    keys = {name: SigningKey.new(secrets.token_bytes) for name in users}
    public = {name: key.public for name, key in keys.items()}
    coordinator = SigningKey.new(secrets.token_bytes)
    (demo.folder / "coordinator").mkdir(mode=0o700)
    coordinator.write(demo.folder / "coordinator" / "identity.pem")
    Pins(public).write(demo.folder / "coordinator" / "pins.toml")
    for name, key in keys.items():
        home = demo.folder / name
        home.mkdir(mode=0o700)
        ids = next(patients for hospital, patients in dealt.items() if hospital == name)
        (home / "cohort.txt").write_text("".join(f"{patient.id}\n" for patient in ids))
        (home / "site.toml").write_text(
            f'[hospital]\nname = "{name}"\ncohort = "cohort.txt"\n\n[site]\nlayout = "phantom"\n'
            f"phantom = {{ {options} }}\n"
        )
        (home / "policy.toml").write_text(
            '[policy]\nepsilon_limit = 10.0\ndelta = 1e-5\nplans = ["dp-sgd"]\nleast_hospitals = 3\n'
        )
        key.write(home / "identity.pem")
        Pins({other: theirs for other, theirs in public.items() if other != name}).write(home / "pins.toml")
        Pins({"the coordinator": coordinator.public}).write(home / "coordinators.toml")
        site, policy = read_site(home / "site.toml"), read_policy(home / "policy.toml")
        accept(home, site, policy, study, by=f"a person of {name}")
    demo.say("keys are pinned, and a person of each hospital has accepted the study")


def _users(count: int) -> list[int | None]:
    """Returns a user id for each hospital as root, where such a user can run wardround; else none."""
    if os.geteuid():
        return [None] * count
    try:
        subprocess.run(
            [sys.executable, "-c", "import wardround"],
            user=FIRST_UID, group=FIRST_UID, extra_groups=[], env=_environment(), capture_output=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):  # the environment is in a folder of root's
        return [None] * count
    return [FIRST_UID + index for index in range(count)]


def _give(home: Path, user: int | None) -> None:
    for path in [home, *home.rglob("*")]:
        if user is not None:
            os.chown(path, user, user)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Returns the exit code: 0 identical, 1 different, 2 it could not run, 130 ended by Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--courier", type=Path, required=True, help="interpreter of the courier's environment")
    parser.add_argument("--out", type=Path, default=Path("runs/federation"))
    given = parser.parse_args()
    folder = given.out.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o711, parents=True)
    (folder / "logs").mkdir(mode=0o700)
    demo = Demo(folder, given.courier.absolute())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        same = run(demo)
    except (DemoError, WardroundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        demo.end()
        print("ended; all processes of the demo are stopped", file=sys.stderr)
        return 130
    finally:
        demo.end()
    print("identical" if same else "different: the weights of both runs must be the same")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
