"""What the outer rooms share: a study small enough for a test, its picture cache, and the command line."""

import os

# Kernels as small as those of tests wait for a second thread up to ten times longer than they compute. Set before numpy
# and torch are imported, and for the processes that tests start; no result may depend on it.
os.environ["OMP_NUM_THREADS"] = "1"

import copy
import gc
import itertools
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from wardround.cli.main import main
from wardround.config import parse_study
from wardround.secure_aggregation.keys.identity import SigningKey

pytest_plugins = ["tests.fixtures_federation"]

# Compiled modules are kept even where the environment refuses it: without them each process of a run compiles all tests
# and rewrites their asserts anew, which takes longer than importing them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Ledgers and records wait for the disk at every commit; the folders of tests are in memory where there is enough of it.
MEMORY = Path("/dev/shm")
IN_MEMORY: Path | None = None
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30 and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
    IN_MEMORY = MEMORY
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))

# No test, and no process that one starts, charges the ledger of the person who runs the tests.
STATE = tempfile.TemporaryDirectory(prefix="wardround-state-", dir=IN_MEMORY)
os.environ["XDG_STATE_HOME"] = STATE.name
os.environ["XDG_CACHE_HOME"] = STATE.name  # where the weights of backbones are kept
KEY = Path(STATE.name) / "wardround" / "record-key.pem"
KEY.parent.mkdir()
SigningKey.new(os.urandom).write(KEY)
_numbers = itertools.count()

# A shell that starts the tests in the background has Ctrl-C ignored; tests of an interrupt need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a busy machine is no reason to fail.
settings.register_profile("developer", max_examples=15, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)


def pytest_configure(config):
    """Draws as many examples as the run is thorough: `-m ''` selects everything."""
    settings.load_profile("developer" if config.option.markexpr else "thorough")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keeps the garbage collector from what is imported and collected: it stays until the end of the run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionstart():
    """Lets the loggers of torch pass records on; pytest adds its handlers in every test to each that does not."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch") and isinstance(logger, logging.Logger):
            logger.propagate = True


TINY: dict[str, dict[str, object]] = {
    "study": {"name": "tiny", "seed": 7},
    "data": {
        "layout": "phantom",
        "image_size": 16,
        "phantom": {"patients": 40, "max_images": 2, "sites": 2, "image_size": 32},
    },
    "hospitals": {"count": 3},
    "model": {"name": "linear"},
    "privacy": {
        "plan": "dp-sgd",
        "epsilon": 8.0,
        "delta": 1e-3,
        "clipping_norm": 0.5,
        "accountant": "rdp",
        "sum": "simulated",
    },
    "federation": {"rounds": 4, "evaluate_every": 2},
    "performance": {"threads": 1},
}


@pytest.fixture(autouse=True)
def own_state(monkeypatch):
    """The folder of this test's own lasting ledger, which is made when one is, and of the one key of all tests."""
    folder = Path(STATE.name) / str(next(_numbers))
    (folder / "wardround").mkdir(parents=True)
    shutil.copy(KEY, folder / "wardround")  # runs of the session's fixtures are this person's as well
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny(cache):
    """A tiny study as dictionaries; keyword arguments are laid over its sections, and None removes a key."""

    def make(**sections):
        raw = copy.deepcopy(TINY)
        raw["performance"]["cache"] = str(cache)
        for name, values in sections.items():
            section = raw.setdefault(name, {}) | values
            raw[name] = {key: value for key, value in section.items() if value is not None}
        return raw

    return make


@pytest.fixture(scope="session")
def tiny_study(tiny):
    """The same, checked."""
    return lambda **sections: parse_study(tiny(**sections))


@pytest.fixture(scope="session")
def finished(tiny_study, tmp_path_factory):
    """The folder of the tiny study's finished, seeded run; not to be changed."""
    from wardround.coordinator.observer import Silent  # here, for most tests can do without torch
    from wardround.simulation.run import run_study

    folder = tmp_path_factory.mktemp("finished") / "tiny"
    run_study(tiny_study(), folder, Silent())
    return folder


@pytest.fixture
def without_charts(monkeypatch):
    """Pages have an empty place for each chart: drawing them takes longer than a tiny run."""
    from wardround.report import canvas, charts, comparison_charts

    def empty(draw, label, *values):
        return canvas.Chart("", "")

    monkeypatch.setattr(charts, "drawn_once", empty)
    monkeypatch.setattr(comparison_charts, "both", empty)


@pytest.fixture
def study_file(tiny_study, tmp_path):
    """Writes a tiny study as a file."""

    def write(name="study.toml", **sections):
        path = tmp_path / name
        path.write_text(tiny_study(**sections).to_toml())
        return path

    return write


@pytest.fixture
def wardround(monkeypatch, capsys):
    """Runs the command line in this process: exit code, both streams, and the error it was refused with."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["wardround", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return SimpleNamespace(
            code=end.value.code or 0, out=streams.out, err=streams.err, error=end.value.__context__
        )

    return run


@pytest.fixture(scope="session")
def make_pictures():
    """A folder of grey noise, `<class>/<patient>/<name>.png`, every picture different from all others."""

    def make(root, *, patients=24, seed=0, patient="p{:02d}", picture="view"):
        generator = np.random.default_rng(seed)
        for number in range(patients):
            path = root / ("ill", "well")[number % 2] / patient.format(number) / f"{picture}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (32, 32), dtype=np.uint8)).save(path)
        return root

    return make
