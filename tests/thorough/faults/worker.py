"""Commands in forks of one process, each with a file layer that fails below a folder; driven by test_faults.

The process is started with the layer preloaded and a study that it looks at once, so that all which a run needs is
imported. Standard input holds one JSON object a line, standard output answers each with the fork's exit code, what it
printed, and the number of operations that the layer counted.

Each release is noted in a log outside the folder, synced, once the coordinator has it.
"""

import ctypes
import importlib
import json
import os
import resource
import sys
import tempfile
from pathlib import Path

from wardround.cli.main import main as wardround
from wardround.config import read_study
from wardround.federation.channel import InProcessChannel
from wardround.federation.messages import Answer, Uploaded
from wardround.report import page
from wardround.simulation.estimate import estimate
from wardround.simulation.union import JointSum

LAYER = ctypes.CDLL(None)


def noted_releases(log):
    """Notes releases as they reach the coordinator, from whichever kind of hospital."""

    def note(requests, names):
        lines = [json.dumps([name, requests[name].round]) for name in names]
        with open(log, "a") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    ask, answered = InProcessChannel.ask, JointSum._answered

    def asked(self, requests, deadline_s):
        replies, failures = ask(self, requests, deadline_s)
        note(requests, [name for name, reply in replies.items() if isinstance(reply, Answer | Uploaded)])
        return replies, failures

    def summed(self, requests):
        total = answered(self, requests)
        note(requests, list(total.events))
        return total

    wrapped: list[tuple[type, str, object]] = [(InProcessChannel, "ask", asked), (JointSum, "_answered", summed)]
    for owner, name, wrapper in wrapped:
        setattr(owner, name, wrapper)


def run(command, output):
    """One command in this process; it does not come back."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    page.render = lambda numbers: "a page"  # type: ignore[assignment]  # charts take longer than a run
    noted_releases(command["log"])
    os.environ.update(command["environment"])
    sys.argv = ["wardround", *command["arguments"]]
    LAYER.shift_clock(ctypes.c_long(command["clock"]))
    if command["memory"]:
        with open("/proc/self/statm") as statm:
            most = int(statm.read().split()[0]) * resource.getpagesize() + command["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    folder, at = command["folder"].encode(), ctypes.c_long(command["at"])
    LAYER.arm(folder, at, command["error"], command["kind"], int(command["reads"]))
    wardround()


def outcome(command):
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as counted:
        child = os.fork()
        if not child:
            code = 70
            try:
                run(command, output.fileno())
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            LAYER.count.restype = ctypes.c_long
            seen = LAYER.count()
            LAYER.arm(b"", ctypes.c_long(0), 0, 0, 0)
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(counted.fileno(), str(seen).encode())
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        counted.seek(0)
        output.seek(0)
        return {
            "code": code, "said": output.read().decode("utf-8", "replace"), "count": int(counted.read() or 0)
        }  # fmt: skip


def main(study):
    for name in ("sklearn.metrics", "wardround.simulation.run", "wardround.simulation.verification"):
        importlib.import_module(name)  # commands do so when they need them, and memory may have ended by then
    estimate(read_study(Path(study)))
    for line in sys.stdin:
        print(json.dumps(outcome(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
