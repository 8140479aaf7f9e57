"""Tries hostile inputs, each in a child process of its own with a limit on memory and time.

Reads a JSON list of [operation, argument, ...] from standard input and writes a JSON list of outcomes. The children are
forked after the imports, so that a case costs what its input costs.
"""

import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

MOST_BYTES = 2_000_000_000
MOST_SECONDS = 60
"""Of the processor; a case that waits is ended after ten times as long, however busy the machine is."""


def _weights(path):
    import torch

    from wardround.models.catalogue import build

    generator = torch.Generator().manual_seed(0)
    build("small_cnn", size=(16, 16), channels=1, num_classes=2, init_generator=generator, weights=Path(path))


def _checkpoint(path, rounds, size):
    from wardround.coordinator.rounds import Position
    from wardround.records.folder import RunFolder

    folder = RunFolder.open(Path(path))
    found = folder.latest_checkpoint()
    assert found is not None
    position = Position.from_arrays(*found)
    position.check(rounds, size)
    for name in ("weights", "velocity", "num_patients"):
        position.state[name].sum()
    folder.close()


def _sweep(path):
    from wardround.config.sweep import read_sweep

    read_sweep(Path(path))


def _site(path):
    from wardround.config.site import read_policy, read_site

    (read_site if "site" in Path(path).name else read_policy)(Path(path))


def _notes(path):
    from wardround.hospital.kept.notes import Notes
    from wardround.hospital.kept.replies import Replies

    Notes.read(Path(path) / "notes.json")
    Replies(Path(path))


def _card(path):
    from wardround.models.card import read_card

    read_card(Path(path))


OPERATIONS: dict[str, Any] = {
    "weights": _weights, "checkpoint": _checkpoint, "sweep": _sweep, "site": _site, "notes": _notes, "card": _card,
}  # fmt: skip


def _run(operation, arguments):
    from wardround.boundary.text import say
    from wardround.cli.main import main
    from wardround.errors import WardroundError

    if operation == "command":
        sys.argv = ["wardround", *arguments]
        main()
    else:
        try:
            OPERATIONS[operation](*arguments)
        except WardroundError as error:
            say(f"wardround: {error}", error=True)
            raise SystemExit(2) from None


def _child(operation, arguments, output):
    os.dup2(output, 1)
    os.dup2(output, 2)
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, now + MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS + 1))
    signal.alarm(10 * MOST_SECONDS)
    code = 0
    try:
        _run(operation, arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def outcome(operation, *arguments):
    """The exit code of one case, what it said, and the memory that it took."""
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            _child(operation, arguments, output.fileno())
        _, status, used = os.wait4(pid, 0)
        output.seek(0)
        said = output.read().decode("utf-8", "replace")
    return {"code": os.waitstatus_to_exitcode(status), "said": said, "kilobytes": used.ru_maxrss}


def main():
    import monai.transforms.spatial.array  # noqa: F401
    import nibabel  # noqa: F401
    import pydicom.pixels.decoders  # noqa: F401
    import torch

    import wardround.cli.main
    import wardround.images.load
    import wardround.images.quality.inspection
    import wardround.simulation.estimate  # noqa: F401

    torch.set_num_threads(1)
    cases = json.load(sys.stdin)
    json.dump([outcome(*case) for case in cases], sys.stdout)


if __name__ == "__main__":
    main()
