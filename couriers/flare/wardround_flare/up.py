"""Up, state and down: one party's FLARE processes, kept running until they are told to end.

    coordinator    server, and under it the job's `Bridge`; a new job where that one has ended or a site has come
    site           client, and under it the job's `Forward`

Nothing is left behind: the processes end with this one, also where it is killed, and orphans of a killed process are
ended before another is started.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from wardround_flare.courier import AGENT, SOCKETS, write_job
from wardround_flare.errors import CourierError
from wardround_flare.exchange import open_locked
from wardround_flare.kit import LEAD, Kit
from wardround_flare.workspace import HEARTBEAT_S, write_workspace

WORK = "work"
_LOCK = "up.lock"
_AGAIN_AFTER_S = 2.0
_JOINED_S = 90.0
_STEADY_S = 2.0
"""Seconds for which the same sites must be connected before a job is made for them: a job takes no more in later."""
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}
"""glibc keeps freed parts for the next ones; 32 MiB is its most. To give 16 MiB back and have them again took 8 ms of
processor, and to use them again 0.2."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def up(kit: Path, *, sockets: Path | None = None, agent: Path | None = None) -> None:
    """Runs a party's side of the courier until SIGTERM or Ctrl-C.

    Args:
        kit: of the party.
        sockets: the coordinator's folder, mode 0700, in which a socket for each hospital appears.
        agent: the socket of a hospital's agent.

    Raises:
        CourierError: a setting or the kit is wrong, or this kit is up already.
    """
    os.umask(0o077)
    values = Kit.read(kit)
    if values.role == "coordinator" and sockets is not None and agent is None:
        sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.stat(sockets).st_mode & 0o077:
            raise CourierError(f"`--sockets` must be a folder of mode 0700, and {sockets} is not; run chmod 700.")
        environment = {SOCKETS: str(sockets.absolute())}
    elif values.role == "site" and agent is not None and sockets is None:
        environment = {AGENT: str(agent.absolute())}
    else:
        raise CourierError("A coordinator's kit needs `--sockets FOLDER`, and a site's kit `--agent SOCKET`.")
    with _alone(kit):
        work = (kit / WORK).resolve()
        write_workspace(kit, work)
        party = _Party(values, work, environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: party.stop())
        try:
            party.run(None if sockets is None else sockets.absolute())
        finally:
            party.end()


def state(kit: Path, sockets: Path | None = None) -> dict[str, Any]:
    """Returns whether a kit is up and, with the coordinator's folder of sockets, the sites that are served now."""
    found: dict[str, Any] = {"up": _holder(kit / _LOCK) is not None}
    if sockets is not None:
        found["sites"] = served(sockets) or []
    return found


def down(kit: Path) -> bool:
    """Ends what `up` of this kit started; returns whether there was anything."""
    pid = _holder(kit / _LOCK)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    while _holder(kit / _LOCK) == pid:
        time.sleep(0.1)
    return True


def served(sockets: Path) -> list[str] | None:
    """Returns the sites that a bridge serves now; None where there is no bridge, and [] while one is starting."""
    said = _held(sockets / "bridge.json")
    return None if said is None else json.loads(said or '{"sites": []}')["sites"]


class _Party:
    """The processes of one kit."""

    def __init__(self, values: Kit, work: Path, environment: dict[str, str]) -> None:
        self._values, self._work, self._environment = values, work, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._stopped = False

    def stop(self) -> None:
        """Ends `run` soon; may be called from a signal handler."""
        self._stopped = True

    def run(self, sockets: Path | None) -> None:
        """Keeps FLARE's process running, and at the coordinator its job."""
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        jobs = None if sockets is None else _Jobs(self._work / "lead", sockets)
        while not self._stopped:
            self._ensure()
            if jobs is not None:
                jobs.ensure(lambda: self._stopped)
            time.sleep(0.5)

    def end(self) -> None:
        """Ends every process."""
        _kill_children()
        if self._process is not None:
            self._process.wait()

    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            _reap(self._process.pid)
            return
        _kill_children()  # of a process that was killed
        if time.monotonic() < self._started + _AGAIN_AFTER_S:
            return
        self._started = time.monotonic()
        with open(self._work / "console.txt", "ab") as console:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                env=os.environ | _KEPT_MEMORY | self._environment,
                umask=0o077,
            )

    def _command(self) -> list[str]:
        kit = self._values
        side, name = ("server", "server") if kit.role == "coordinator" else ("client", kit.name)
        settings = ["secure_train=true", "org=wardround", "config_folder=config"]
        if side == "client":
            settings += [f"uid={name}", f"heart_beat_interval={HEARTBEAT_S}"]
        module = f"nvflare.private.fed.app.{side}.{side}_train"
        return [
            sys.executable, "-u", "-m", module, "-m", str(self._work), "-s", f"fed_{side}.json", "--set", *settings
        ]  # fmt: skip


class _Jobs:
    """The coordinator's jobs: one bridge to all sites that are connected."""

    def __init__(self, lead: Path, sockets: Path) -> None:
        self._lead, self._sockets = lead, sockets
        self._session: Any = None
        self._job = ""
        self._joins_until = self._ask_at = 0.0
        self._seen: list[str] = []
        self._seen_at = 0.0

    def ensure(self, is_stopped: Any) -> None:
        """Submits a job where no bridge is there, or where a site has come that it does not serve."""
        try:
            now = served(self._sockets)
            if now:
                self._joins_until = 0.0
            if is_stopped() or time.monotonic() < (self._ask_at if now else self._joins_until):
                return
            self._ask_at = time.monotonic() + _STEADY_S
            connected = self._connected()
            if connected != self._seen:
                self._seen, self._seen_at = connected, time.monotonic()
            is_steady = time.monotonic() > self._seen_at + _STEADY_S
            if connected and is_steady and (now is None or set(connected) - set(now)):
                self._submit(connected)
        except Exception as error:  # the server is away, or its session has ended: tried again
            print(f"courier: FLARE's server does not answer yet ({type(error).__name__})", flush=True)
            self._close()
            self._joins_until = 0.0
            time.sleep(1.0)

    def _connected(self) -> list[str]:
        """Returns the sites that FLARE's server has heard of lately."""
        from nvflare.fuel.flare_api.flare_api import new_secure_session

        if self._session is None:
            self._session = new_secure_session(LEAD, str(self._lead), timeout=5.0, auto_login_max_tries=1)
        clients = self._session.get_system_info().client_info
        heard = time.time() - 3 * HEARTBEAT_S
        return sorted(client.name for client in clients if client.last_connect_time > heard)

    def _submit(self, sites: list[str]) -> None:
        if self._job:
            with contextlib.suppress(Exception):
                self._session.abort_job(self._job)
        job = self._lead / "job"
        shutil.rmtree(job, ignore_errors=True)
        write_job(job, sites)
        self._job = self._session.submit_job(str(job))
        self._joins_until = time.monotonic() + _JOINED_S
        print(f"courier: a bridge to {', '.join(sites)} is started", flush=True)

    def _close(self) -> None:
        if self._session is not None:
            with contextlib.suppress(Exception):
                self._session.close()
        self._session = None


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_children() -> None:
    """Kills all processes below this one, and waits for them."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=5)
        _reap(0)


def _reap(own: int) -> None:
    """Takes note of the end of processes that became this one's children, `own` left out."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, options)) is not None and ended.si_pid != own:
            os.waitpid(ended.si_pid, 0)


@contextlib.contextmanager
def _alone(kit: Path) -> Iterator[None]:
    if _held(kit / _LOCK) is not None:
        raise CourierError(f"A kit must be up once, and {kit} is up already; end the other process first.")
    with open_locked(kit / _LOCK) as file:
        file.write(str(os.getpid()))
        file.flush()
        yield


def _holder(path: Path) -> int | None:
    said = _held(path)
    return int(said) if said else None


def _held(path: Path) -> str | None:
    """Returns the text of a file that a process holds; None where none does."""
    try:
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read()
            return None
    except FileNotFoundError:
        return None
