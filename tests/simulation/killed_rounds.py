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

from wardround.run import stages

from wardround import cli
from wardround.config import read_study
from wardround.hospital.masked import MaskedHospital
from wardround.hospital.notes import Notes
from wardround.records.folder import RunFolder
from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.upload import Upload
from wardround.simulation.estimate import estimate

STEPS = {
    "before the first charge": ("admit", 0, "before"),
    "between two charges": ("admit", 1, "before"),
    "before the charges are committed": ("admit", -1, "after"),
    "after the charges": ("upload", 0, "before"),
    "while notes are written": ("notes", 1, "half"),
    "before the first upload leaves": ("leave", 0, "before"),
    "after the first upload has left": ("leave", 0, "after"),
    "before the sum": ("add", -1, "before"),
    "during the sum": ("add", 1, "after"),
    "after the opening": ("total", 0, "after"),
    "while the sum is received": ("receive", 0, "after"),
    "before the checkpoint": ("checkpoint", 0, "before"),
    "while the checkpoint is written": ("checkpoint", 0, "half"),
    "after the checkpoint": ("checkpoint", 0, "after"),
}
"""What is called, for which hospital of the attempt in order (-1 the last), and when in that call it is killed."""
UNPAID = tuple(STEPS)[:3]
"""Steps before any charge of the attempt is on disk."""


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Watch:
    """Counts the calls of an attempt, and kills its process at one of them."""

    step: tuple[str, int, str] | None
    at_round: int | None
    wire: str
    attempt: tuple[int, int, int] = (0, 0, 0)  # round, attempt, hospitals
    calls: Counter[str] = field(default_factory=Counter)
    halves_writes: bool = False

    def begin(self, *attempt):
        if attempt != self.attempt:
            self.attempt, self.calls = attempt, Counter()

    def passes(self, call, do, *, round=None):
        """Does it, unless the process is to end before, in or after it."""
        position, hospitals = self.calls[call], self.attempt[2]
        self.calls[call] += 1
        when = None
        if self.step is not None and (self.attempt[0] if round is None else round) == self.at_round:
            is_there = self.step[:2] in ((call, position), (call, position - hospitals))
            when = self.step[2] if is_there else None
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


def watch(step, at_round, wire):
    """Wraps the steps of a masked round in this process."""
    watched = Watch(STEPS[step] if step else None, at_round, wire)

    def announce(do, hospital, request, attempt, hospitals):
        watched.begin(request.round, attempt, hospitals)
        return do()

    def upload(do, *_):
        sent = watched.passes("upload", do)
        watched.passes("leave", lambda: watched.leave(sent))
        return sent

    def opened(do, file, mode="r", *_):
        is_writing = watched.halves_writes and "w" in mode
        return HalfAFile(do()) if is_writing else do()

    wrap(MaskedHospital, "announce", announce)
    wrap(MaskedHospital, "upload", upload)
    for owner, name in (
        (MaskedHospital, "admit"),
        (MaskedHospital, "receive"),
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
    wrap(stages, "write_report", lambda do, record: record.path / "report.html")  # it takes longest
    watch(command["step"], command["round"], command["wire"])
    sys.argv = ["wardround", *command["arguments"]]
    cli.main()


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
