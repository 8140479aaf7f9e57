"""Commands in processes of their own, and their death without a warning."""

import os
import signal
import subprocess
import sys
import time


class Killed(BaseException):
    """The end of a process; nothing catches it."""


class KilledWrite:
    """Writers that are killed before or after one of their calls, counted together."""

    def __init__(self, moment, *, after):
        self.moment, self.after, self.calls = moment, after, 0

    def of(self, original):
        def write(*arguments, **options):
            self.calls += 1
            if self.calls == self.moment and not self.after:
                raise Killed
            original(*arguments, **options)
            if self.calls == self.moment:
                raise Killed

        return write


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
