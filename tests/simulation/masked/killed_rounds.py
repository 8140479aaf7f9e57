"""Commands in processes of their own, killed at a named step of a masked round; driven by test_killed_rounds.

A study is looked at once, so that all it needs is imported, then every command is a fork: standard input holds one
JSON object a line, standard output answers each with the fork's exit code, minus the signal where one ended it. The
steps are wrapped from outside, and the kill is SIGKILL: nothing is flushed, nothing is caught and no `finally` runs.

Each upload is written to the wire log, synced, before the coordinator gets it: what stands there has left.
"""

import hashlib
import io
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from wardround.cli.main import main as wardround
from wardround.config import read_study
from wardround.coordinator import recording
from wardround.federation.masked import MaskedAggregator
from wardround.hospital.kept.notes import Notes
from wardround.hospital.masked import MaskedRounds
from wardround.records.folder import RunFolder
from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.upload import Upload
from wardround.simulation.estimate import estimate

STEPS = {
    "before the first announcement": (1, "announce", 0, "before"),
    "after the first announcement": (1, "announce", 0, "after"),
    "before the confirmations": (1, "confirm", 0, "before"),
    "after the confirmations": (1, "confirm", -1, "after"),
    "before the first charge": (1, "admit", 0, "before"),
    "while a sum is received": (2, "receive", 0, "after"),
    "between two charges": (2, "admit", 1, "before"),
    "before the charges are committed": (2, "admit", -1, "after"),
    "after the charges": (2, "upload", 0, "before"),
    "while notes are written": (2, "notes", 1, "half"),
    "before the first upload leaves": (3, "leave", 0, "before"),
    "after the first upload has left": (3, "leave", 0, "after"),
    "before the sum": (3, "add", -1, "before"),
    "during the sum": (3, "add", 1, "after"),
    "after the opening": (3, "total", 0, "after"),
    "after the checkpoint": (3, "checkpoint", 0, "after"),
    "before the checkpoint": (4, "checkpoint", 0, "before"),
    "while the checkpoint is written": (4, "checkpoint", 0, "half"),
    "while the last sum is received": (4, "receive last", 0, "after"),
}
"""In which round, what is called, for which hospital of the attempt in order (-1 the last), and when in that call the
process is killed. In this order a run can be killed at one after another."""
UNPAID = tuple(STEPS)[:8]
"""Steps before any charge of the attempt is on disk."""
DONE = ("after the checkpoint", "while the last sum is received")
"""Steps after the round is remembered: it is not repeated."""


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Watch:
    """Counts the calls of an attempt, and kills its process at one of them."""

    step: tuple[int, str, int, str] | None
    wire: str
    attempt: tuple[int, int, int] = (0, 0, 0)  # round, attempt, hospitals
    calls: Counter[str] = field(default_factory=Counter)
    halves_writes: bool = False
    receiving: str = "receive"

    def begin(self, *attempt):
        if attempt != self.attempt:
            self.attempt, self.calls = attempt, Counter()

    def passes(self, call, do, *, round=None):
        """Does it, unless the process is to end before, in or after it."""
        position, hospitals = self.calls[call], self.attempt[2]
        self.calls[call] += 1
        when = None
        if self.step is not None and (self.attempt[0] if round is None else round) == self.step[0]:
            is_there = self.step[1:3] in ((call, position), (call, position - hospitals))
            when = self.step[3] if is_there else None
        if when == "before":
            die()
        self.halves_writes = when == "half"
        answer = do()
        if when == "after":
            die()
        return answer

    def leave(self, sent):
        """Writes down what has left, whether or not anybody will read it."""
        round, attempt, _ = self.attempt
        line = {
            "round": round, "attempt": attempt, "hospital": Upload.from_bytes(sent).hospital,
            "sha256": hashlib.sha256(sent).hexdigest(),
        }  # fmt: skip
        with open(self.wire, "a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


class HalfAFile:
    """Whoever writes to it gets half of it to the file system, and dies."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        die()


def wrap(owner, name, around):
    inner = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: around(lambda: inner(*args, **kwargs), *args))


def watch(step, wire):
    """Wraps the steps of a masked round in this process."""
    watched = Watch(STEPS[step] if step else None, wire)

    def announce(do, _, request, work):
        watched.begin(request.round, work.attempt, work.hospitals)
        return watched.passes("announce", do)

    def upload(do, *_):
        sent = watched.passes("upload", do)
        watched.passes("leave", lambda: watched.leave(sent))
        return sent

    def close(do, *_, **__):
        watched.receiving = "receive last"
        do()

    def opened(do, file, mode="r", *_):
        is_writing = watched.halves_writes and "w" in mode
        return HalfAFile(do()) if is_writing else do()

    wrap(MaskedRounds, "announce", announce)
    wrap(MaskedRounds, "receive", lambda do, *_: watched.passes(watched.receiving, do))
    wrap(MaskedRounds, "upload", upload)
    wrap(MaskedAggregator, "close", close)
    for owner, name in (
        (MaskedRounds, "confirm"),
        (MaskedRounds, "admit"),
        (MaskedSum, "add"),
        (MaskedSum, "total"),
    ):
        wrap(owner, name, lambda do, *_, call=name: watched.passes(call, do))
    wrap(Notes, "write", lambda do, *_: watched.passes("notes", do))
    wrap(RunFolder, "write_checkpoint", lambda do, _, round, *__: checkpointed(do, round))
    wrap(io, "open", opened)  # of `Path.open` and `os.fdopen`

    def checkpointed(do, round):
        watched.calls["checkpoint"] = 0
        return watched.passes("checkpoint", do, round=round)


def run(command):
    """One command in this process; it does not come back."""
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    wrap(recording, "write_report", lambda do, record, key: record.path / "report.html")  # it takes longest
    watch(command["step"], command["wire"])
    sys.argv = ["wardround", *command["arguments"]]
    wardround()


def main(study):
    estimate(read_study(study))
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                run(json.loads(line))
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(int(end.code or 0))
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(70)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
