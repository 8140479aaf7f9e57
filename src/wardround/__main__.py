"""The process of a command: `wardround`, and `python -m wardround`."""

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress

from wardround.cli.main import main

COLLECTIONS = 50_000, 20, 50
"""New objects between two searches for rings of garbage, by generation: at Python's 700 they take a tenth of a run."""


def command() -> None:
    """Runs a command, and ends this process once its exit handlers have run and its output is written.

    Unloading torch, module by module, would take another 0.1 s. The process ends as any other where somebody waits for
    more of it: an error with its traceback, a thread that is no daemon, a debugger, a profiler.
    """
    gc.set_threshold(*COLLECTIONS)
    atexit.register(gc.freeze)  # what is left then goes with the process: looking for rings in it took a second
    try:
        main()
        status = 0
    except SystemExit as asked:
        if not isinstance(asked.code, int | None):  # a sentence that Python prints
            raise
        status = asked.code or 0
    if not _is_waited_for():
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):  # which Python will meet again, and say
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
            os._exit(status)
    sys.exit(status)


def _is_waited_for() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    if sys.gettrace() or sys.getprofile() or (monitoring and any(map(monitoring.get_tool, range(6)))):
        return True
    return any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())


if __name__ == "__main__":
    command()
