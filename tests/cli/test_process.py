"""The process of a command ends as Python would end it, but that nothing is unloaded."""

import os
import subprocess
import sys

import pytest

BY_PYTHON = "from wardround.cli.main import main as command\n"
BY_ITSELF = "from wardround.__main__ import command\n"
UNLOADED = (
    "class Unloaded:\n"
    "    def __del__(self, say=print):\n"
    "        say('unloaded', flush=True)\n"
    "sys.modules['unloaded'] = Unloaded()\n"
)  # fmt: skip
ARGUMENTS = {
    "a result": ("schema",),
    "eager": ("--version",),
    "no command": (),
    "an unknown option": ("schema", "--no-such"),
    "bad input": ("check", "no-such-study.toml"),
}  # fmt: skip
INTERRUPTED = "import wardround.cli.main as module\ndef stopped(): raise KeyboardInterrupt\nmodule.app = stopped\n"
OTHERS = {
    "a bug": "import wardround.cli.main as module\nmodule.app = None\n",
    "an interrupt": INTERRUPTED,
    "a sentence": "import wardround.cli.main as module\nmodule.app = lambda: sys.exit('not here')\n",
    "no status": "import wardround.cli.main as module\nmodule.app = sys.exit\n",
    "handlers": (
        "import atexit, logging, tempfile, weakref\n"
        "class Kept: pass\n"
        "kept, folder = Kept(), tempfile.TemporaryDirectory(prefix='made-', dir=sys.argv[2])\n"
        "weakref.finalize(kept, print, 'finalized')\n"
        "atexit.register(print, 'last', end='')\n"
        "atexit.register(lambda: 1 / 0)\n"
        "logging.basicConfig(stream=sys.stdout)\n"
        "logging.getLogger().handlers[0].close = lambda: print('closed')\n"
    ),
    "a thread": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('done', flush=True))).start()\n"
    ),
    "output that fails late": "import atexit\natexit.register(lambda: sys.stdout.close())\n",
}  # fmt: skip


def ended(script, *arguments, shell=""):
    command = [sys.executable, "-c", f"import sys\n{script}sys.argv[0] = 'wardround'\ncommand()\n", *arguments]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, capture_output=True, text=True, env=buffered)
    said = [
        line for line in done.stderr.splitlines() if not line.startswith(("  ", "Traceback", "Exception ignored"))
    ]
    return done.returncode, done.stdout, said


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_command_returns_and_prints_as_by_python(name):
    assert ended(BY_ITSELF, *ARGUMENTS[name]) == ended(BY_PYTHON, *ARGUMENTS[name])


@pytest.mark.parametrize("name", OTHERS)
def test_a_process_with_more_to_do_ends_as_by_python(name, tmp_path):
    found = [ended(how + OTHERS[name], "schema", str(tmp_path)) for how in (BY_ITSELF, BY_PYTHON)]
    assert found[0] == found[1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shell", [">&-", "2>&-", ">/dev/full", "2>/dev/full", "| true", "2>&1 >&-"])
def test_output_that_does_not_arrive_is_dealt_with_as_by_python(shell):
    """Late output, of an exit handler, meets no guard but Python's own."""
    late = "import atexit\natexit.register(print, 'late')\n"
    assert ended(BY_ITSELF + late, "schema", shell=shell) == ended(BY_PYTHON + late, "schema", shell=shell)


def test_nothing_is_unloaded():
    assert "unloaded" in ended(BY_PYTHON + UNLOADED, "--version")[1]
    assert "unloaded" not in ended(BY_ITSELF + UNLOADED, "--version")[1]


def test_a_profile_of_a_command_is_printed():
    profiled = [sys.executable, "-m", "cProfile", "-m", "wardround", "--version"]
    done = subprocess.run(profiled, capture_output=True, text=True)
    assert "function calls" in done.stdout, done.stderr
