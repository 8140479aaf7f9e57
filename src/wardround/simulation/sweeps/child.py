"""One run of several, in its own process, started by `run_many`.

    python -m wardround.simulation.sweeps.child STUDY RUN [--rehearsal]

It goes on with the run where there is one. Bad input is one sentence on standard error and exit code 2, a spent
budget is one and exit code 3. It ends when the process that started it does, however that one ends: that one holds
the other end of its standard input.
"""

import os
import sys
import threading
from pathlib import Path

from wardround.boundary.machine import machine_error
from wardround.boundary.text import shown
from wardround.config import read_study
from wardround.coordinator.observer import Silent
from wardround.errors import BudgetExhausted, WardroundError
from wardround.simulation.run import resume_run, run_study

REFUSED, SPENT = 2, 3
REHEARSAL = "--rehearsal"


def main() -> None:
    """Runs the study file named first into the folder named second."""
    study, folder = (Path(argument) for argument in sys.argv[1:3])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if (folder / "study.toml").is_file():
            resume_run(folder, Silent())
        else:
            run_study(read_study(study), folder, Silent(), rehearsal=REHEARSAL in sys.argv[3:])
    except Exception as error:
        said = error if isinstance(error, WardroundError) else machine_error(error)
        if said is None:
            raise
        print(shown(str(said)), file=sys.stderr)
        raise SystemExit(SPENT if isinstance(error, BudgetExhausted) else REFUSED) from None


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns when the other end is closed
    os._exit(130)  # a checkpoint is whole at any moment: the run can go on from it


if __name__ == "__main__":
    main()
