"""The process whose files fail, and a run in it: what it was charged, what it released, what is left in its folder."""

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.charges import charges_in

ONCE, FROM_THEN_ON, HALF_A_WRITE, KILLED, TERMINATED = range(1, 6)
CAUSES = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.ESTALE, errno.ENOTCONN, errno.EMFILE,
)  # fmt: skip


def built(folder):
    """The layer, compiled."""
    library = folder / "layer.so"
    source = Path(__file__).with_name("layer.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


class Machine:
    """A process in which commands meet faults."""

    def __init__(self, library, study):
        environment = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "tests.thorough.faults.worker", study], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        self._commands, self._outcomes = process.stdin, process.stdout

    def close(self):
        self._commands.close()
        self._process.wait()
        self._outcomes.close()

    def command(self, folder, *arguments, background=False, at=0, error=0, kind=0, reads=False, clock=0, memory=0):
        """The code of a command, what it said, and the operations it took below a folder; its log lies beside.

        Of one in the background, its process.
        """
        return self._answer({
            "arguments": [*map(str, arguments)], "folder": str(folder), "at": at, "error": error, "kind": kind,
            "reads": reads, "clock": clock, "memory": memory, "log": f"{folder}.log", "background": background,
            "environment": {"XDG_STATE_HOME": str(folder / "state")},
        })  # fmt: skip

    def ended(self, pid):
        """The end of a command in the background, once it has ended."""
        return self._answer({"ended": pid})

    def _answer(self, command):
        self._commands.write(json.dumps(command) + "\n")
        self._commands.flush()
        return json.loads(self._outcomes.readline())


NEVER = 1 << 40
"""An operation that no command reaches: the layer counts, and fails nothing."""


def released_to(folder, is_seeded):
    """The releases of each hospital, by round, as a folder's coordinator got them; of a seeded run, one of each.

    The same bytes once more are the same release.
    """
    log = Path(f"{folder}.log")
    found: dict[str, Counter[int]] = {}
    for hospital, round, _ in (
        {tuple(json.loads(line)) for line in log.read_text().splitlines()} if log.exists() else ()
    ):
        found.setdefault(hospital, Counter())[round] += 1
    return {name: Counter(set(rounds)) if is_seeded else rounds for name, rounds in found.items()}


def charged_in(ledger):
    """The charges of each hospital in a ledger, by round."""
    if not ledger.exists():
        return {}
    return {
        hospital: Counter(int(charge.release.split("/")[0]) for charge in charges)
        for hospital, charges in charges_in(ledger).items()
    }


def uncharged(released, charged):
    """Yields each hospital that released more than it was charged for."""
    for hospital, rounds in released.items():
        if not rounds <= charged.get(hospital, Counter()):
            yield f"{hospital} released {rounds} and was charged {charged.get(hospital)}"


def faults(number, operations, generator):
    """Faults at operations spread over a command: the kinds and the causes in turn."""
    for index in range(number):
        at = 1 + index * operations // number + int(generator.integers(0, max(1, operations // number)))
        kind, error = (ONCE, FROM_THEN_ON, HALF_A_WRITE)[index % 3], CAUSES[index // 3 % len(CAUSES)]
        # A mount that is gone can neither be written nor read.
        yield {"at": at, "kind": kind, "error": error, "reads": kind == FROM_THEN_ON and index % 2 == 0}


def ill_said(ended, fault, folder):
    """Yields what is wrong in the end of a command that met a fault."""
    said = [line for line in ended["said"].splitlines() if line.startswith("wardround: ")]
    if ended["code"] == 0 and fault["kind"] == ONCE:
        return  # tried again, or not needed
    if ended["code"] != 2 or len(said) != 1 or "Traceback" in ended["said"]:
        yield f"code {ended['code']}: {ended['said'][-2000:]}"
        return
    # SQLite does not say why a disk refuses, and finding out takes one that still does.
    causes = [os.strerror(fault["error"]), *(["Input/output error", "SQLite"] if fault["kind"] == ONCE else [])]
    if not any(cause in said[0] for cause in causes) or str(folder) not in said[0]:
        yield f"not the cause: {said[0]}"


class Run:
    """A run below a folder in which everything may fail: its record, its ledger, the picture cache and the keys."""

    def __init__(self, machine, study, folder):
        self.machine, self.study, self.folder = machine, study, folder
        (folder / "state").mkdir(parents=True)
        self.out = folder / "run"
        self.is_seeded = "seed" in study["study"]
        self.path = folder / "study.toml"

    def write(self, text):
        self.path.write_text(text)

    def start(self, **fault):
        return self.machine.command(self.folder, "run", self.path, "--out", self.out, **fault)

    def go_on(self, **fault):
        """Goes on as a person does: resumes a run that began, else gives the same command again."""
        if (self.out / "study.toml").exists():
            return self.machine.command(self.folder, "resume", self.out, **fault)
        return self.start(**fault)

    def charged(self):
        """The charges of each hospital in the ledger, by round."""
        return charged_in(self.out / "ledger.sqlite")

    def released(self):
        """The releases of each hospital, by round, as the coordinator got them; of a seeded run, one of each."""
        return released_to(self.folder, self.is_seeded)

    def weights(self):
        return (self.out / "model.safetensors").read_bytes()

    def wrong(self):
        """Yields what does not hold of the run at any moment."""
        yield from uncharged(self.released(), self.charged())

    def wrong_at_the_end(self, whole):
        yield from wrong_at_the_end(self, whole)


def wrong_at_the_end(run, whole, *options):
    """Yields what does not hold of a finished run, beside another that met no fault; `options` are of `verify`."""
    yield from run.wrong()
    verified = run.machine.command(run.folder, "verify", run.out, *options)
    if verified["code"]:
        yield f"it does not verify: {verified['said']}"
    yield from (f"half a file is left: {path}" for path in run.out.rglob(".*.tmp"))
    if run.is_seeded and (run.weights(), run.charged()) != (whole.weights(), whole.charged()):
        yield "weights or charges are others"
