"""Commands in processes of their own, and their death without a warning."""

import os
import signal
import subprocess
import sys
import time


class Killed(BaseException):
    """The end of a process; nothing catches it."""


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def begun(*arguments):
    """A process of its own that runs a command."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "wardround", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip


def killed_after(process, out, lines):
    """Kills a process without a warning, once the history has so many lines; False if it ended before."""
    while process.poll() is None and lines_in(out / "rounds.jsonl") < lines:
        time.sleep(0.002)
    process.kill()
    return process.wait() == -signal.SIGKILL
