"""Commands in forks of one process, each with a file layer that fails below a folder; driven by test_faults.

The process is started with the layer preloaded and a study that it looks at once, so that all which a run needs is
imported. Standard input holds one JSON object a line, standard output answers each with the fork's exit code, what it
printed, and the number of operations that the layer counted. Of a command in the background the answer is its process,
and `{"ended": process}` waits for its end.

Each release is noted in a log outside the folder, synced, once the coordinator has it.
"""

import ctypes
import hashlib
import importlib
import json
import os
import resource
import sys
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from wardround.cli.main import main as wardround
from wardround.config import read_study
from wardround.federation.channel import InProcessChannel
from wardround.federation.messages import Answer, Uploaded
from wardround.federation.wire.tables import encode_reply
from wardround.report import page
from wardround.simulation.estimate import estimate
from wardround.simulation.union import JointSum
from wardround.transport.unix import SocketChannel

LAYER = ctypes.CDLL(None)


def noted_releases(log):
    """Notes releases as they reach the coordinator, from whichever kind of hospital, and by what they are the same."""

    def note(requests, found):
        lines = [json.dumps([name, requests[name].round, same]) for name, same in found.items()]
        with open(log, "a") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    answered = JointSum._answered

    def noted(ask):
        def asked(self, requests, deadline_s):
            replies, failures = ask(self, requests, deadline_s)
            released = {name: reply for name, reply in replies.items() if isinstance(reply, Answer | Uploaded)}
            note(
                requests,
                {name: hashlib.sha256(encode_reply(reply)).hexdigest() for name, reply in released.items()},
            )
            return replies, failures

        return asked

    def summed(self, requests):
        total = answered(self, requests)
        note(requests, {name: uuid.uuid4().hex for name in total.events})
        return total

    wrapped: list[tuple[type, str, object]] = [
        (InProcessChannel, "ask", noted(InProcessChannel.ask)),
        (SocketChannel, "ask", noted(SocketChannel.ask)),
        (JointSum, "_answered", summed),
    ]
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


@dataclass(frozen=True)
class Begun:
    """A command in a fork, its output, and the file with the number of its operations."""

    pid: int
    output: IO[bytes]
    counted: IO[bytes]

    def ended(self):
        """Waits for its end."""
        with self.output, self.counted:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.counted.seek(0)
            self.output.seek(0)
            said, count = self.output.read().decode("utf-8", "replace"), int(self.counted.read() or 0)
        return {"code": code, "said": said, "count": count}


def begin(command):
    begun = Begun(0, tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115  # `ended` closes them
    child = os.fork()
    if child:
        return replace(begun, pid=child)
    code = 70
    try:
        run(command, begun.output.fileno())
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    LAYER.count.restype = ctypes.c_long
    seen = LAYER.count()
    LAYER.arm(b"", ctypes.c_long(0), 0, 0, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(begun.counted.fileno(), str(seen).encode())
    os._exit(code)


def main(study):
    for name in (
        "sklearn.metrics", "wardround.simulation.run", "wardround.simulation.verification",
        "wardround.hospital.desk", "wardround.coordinator.run",
    ):  # fmt: skip
        importlib.import_module(name)  # commands do so when they need them, and memory may have ended by then
    estimate(read_study(Path(study)))
    background: dict[int, Begun] = {}
    for line in sys.stdin:
        command = json.loads(line)
        if "ended" in command:
            answer = background.pop(command["ended"]).ended()
        elif command["background"]:
            begun = begin(command)
            background[begun.pid] = begun
            answer = {"pid": begun.pid}
        else:
            answer = begin(command).ended()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
