"""The commands: what they print, what they import, and how they end."""

import errno
import json
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from wardround.cli.main import main
from wardround.errors import MachineError

HEAVY = {"torch", "numpy", "pydantic", "dp_accounting", "scipy", "matplotlib", "PIL"}
ASKED = ("--patients", 4000, "--hospitals", 5, "--delta", 1e-5, "--rounds", 20)


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from wardround.cli.main import main\n"
        "sys.argv = ['wardround', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('\\n'.join(sorted(sys.modules)), file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: wardround" in ended.stdout
    assert not HEAVY & {name.partition(".")[0] for name in ended.stderr.split()}


def test_the_package_runs_as_a_module():
    ended = subprocess.run([sys.executable, "-m", "wardround", "--help"], capture_output=True, text=True)
    assert ended.returncode == 0
    assert "Usage:" in ended.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("run",), "The study file (TOML)."),
        (("resume",), "The folder of a run."),
        (("data", "check"), "The data folder, a .zip, a .tar or a MedMNIST .npz."),
        (("keys", "show"), "A key file, or a file of pinned keys."),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else None,
)
def test_help_says_what_every_argument_is(wardround, command, said):
    arguments = wardround(*command, "--help").out.partition("Arguments")[2].partition("Options")[0]
    assert said in arguments
    assert "\\[" not in arguments


def test_help_names_every_command_in_order_and_cuts_no_sentence(wardround, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ended = wardround("--help")
    assert ended.code == 0
    commands = re.findall(r"^  (\w+) ", ended.out.partition("Commands:")[2], re.MULTILINE)
    assert commands[:5] == ["demo", "data", "check", "run", "resume"]
    assert {"plan", "report", "schema", "audit"} < set(commands)
    assert "..." not in ended.out.partition("Commands:")[2]


def test_a_plan_gives_the_noise_that_keeps_the_promise(wardround):
    answer = json.loads(wardround("plan", *ASKED, "--epsilon", 8, "--sampling-prob", 0.5, "--json").out)
    step = PoissonSampledEvent(0.5, GaussianEvent(answer["noise_multiplier"]))
    epsilon = epsilon_of(SelfComposedEvent(step, 20), 1e-5)
    assert epsilon == pytest.approx(answer["epsilon"], abs=1e-9)
    assert 7.9 < epsilon <= 8


def test_a_plan_gives_the_promise_that_some_noise_keeps(wardround):
    answer = json.loads(wardround("plan", *ASKED, "--noise-multiplier", 5, "--json").out)
    assert answer["noise_multiplier"] == 5
    assert answer["epsilon"] == pytest.approx(epsilon_of(SelfComposedEvent(GaussianEvent(5.0), 20), 1e-5))


def test_a_plan_judges_a_head_by_the_noise_in_its_sums(wardround):
    """mu of 20 full rounds with shares of noise for one colluder of five hospitals: sqrt(20) / z * sqrt(4 / 5)."""
    asked = ("--patients", 1000, "--hospitals", 5, "--delta", 1e-5, "--rounds", 20, "--epsilon", 8)
    answer = json.loads(wardround("plan", *asked, "--classes", 2, "--json").out)
    said = re.search(r"mu n = ([0-9,]+) with 2 classes", answer["head"])
    assert said is not None
    mu = math.sqrt(20 * 4 / 5) / answer["noise_multiplier"]
    assert float(said[1].replace(",", "")) == pytest.approx(1000 * mu, rel=0.01)
    assert "mu n = " in wardround("plan", *asked, "--classes", 3).out
    assert "mu n = " not in wardround("plan", *asked).out


def test_every_epsilon_that_a_plan_prints_has_its_delta_and_its_unit(wardround):
    ended = wardround("plan", *ASKED, "--epsilon", 8, "--parameters", 1000)
    assert ended.code == 0, ended.err
    lines = [line for line in ended.out.splitlines() if "epsilon" in line]
    assert len(lines) == 2
    for line in lines:
        assert "at delta = 1e-05 for one patient" in line


def test_the_schema_is_json_and_takes_the_tiny_study(wardround, tiny):
    schema = json.loads(wardround("schema").out)
    assert set(tiny()) <= set(schema["properties"])
    privacy = schema["properties"]["privacy"]
    assert privacy["discriminator"]["mapping"]["dp-sgd"] == "#/$defs/DPSGD"
    assert set(tiny()["privacy"]) <= set(schema["$defs"]["DPSGD"]["properties"])


def test_the_report_of_a_run_is_one_json_object(wardround, finished):
    ended = wardround("report", finished, "--json")
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert 7.9 < summary["epsilon"] <= 8
    assert summary["delta"] == 1e-3
    assert summary["unit"] == "patient"
    assert 0 <= summary["auroc"] <= 1
    assert 0 <= summary["accuracy"] <= 1
    assert list(summary["comparisons"]) == ["federated"]


@pytest.mark.usefixtures("without_charts")
def test_run_and_report_print_the_same_json(wardround, study_file, tmp_path):
    ran = wardround("run", study_file(), "--out", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == json.loads(wardround("report", tmp_path / "run", "--json").out)


@pytest.mark.usefixtures("without_charts")
def test_a_run_prints_its_promise_as_a_sentence(wardround, study_file, tmp_path):
    ended = wardround("run", study_file(), "--out", tmp_path / "run")
    first, second, *_ = ended.out.splitlines()
    assert first.startswith("epsilon = 8.00 at delta = 0.001 for one patient")
    assert "reproducible, not private" in first
    assert "AUROC" in second
    assert "held-out patients" in second
    assert "· training: fedsgd, 4 rounds, 3 hospitals" in ended.err


@pytest.mark.usefixtures("without_charts")
def test_a_run_goes_to_the_folder_of_its_name(wardround, study_file, tmp_path, monkeypatch):
    path = study_file(study={"name": "named"})
    monkeypatch.chdir(tmp_path)
    assert wardround("run", path.name).code == 0
    assert (tmp_path / "runs" / "named" / "certificate.json").exists()


def test_check_prints_the_study_and_the_promise_and_opens_no_picture(wardround, study_file, tmp_path):
    path = study_file(performance={"cache": str(tmp_path / "cache")})
    ended = wardround("check", path)
    assert ended.code == 0, ended.err
    assert 'name = "tiny"' in ended.out
    assert not (tmp_path / "cache").exists()
    against = [line for line in ended.out.splitlines() if line.startswith("  against")]
    assert against
    assert all("at delta = 0.001" in line for line in against)
    assert "40 patients" in ended.out
    promise = [line for line in ended.out.splitlines() if line.startswith(("- ", "  ")) and line not in against]
    assert promise[0].startswith("- Adding or removing one patient")
    assert max(map(len, promise)) <= 100, "a list of sentences in short lines"


def test_check_prints_one_json_object(wardround, study_file):
    found = json.loads(wardround("check", study_file(), "--json").out)
    assert found["study"]["study"]["name"] == "tiny"
    assert 7.9 < found["epsilon"] <= 8
    assert found["patients"] == 40
    assert "epsilon" in found["statement"]


def test_check_refuses_what_run_refuses(wardround, study_file):
    ended = wardround("check", study_file(model={"name": "small_cnn", "weights": "none.safetensors"}))
    assert ended.code == 2
    assert ended.err.startswith("wardround: weights must be a readable file")


@pytest.mark.parametrize(("begun", "said"), [(True, "wardround resume"), (False, "Interrupted.")])
@pytest.mark.parametrize("command", ["run", "resume"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_how_to_go_on_where_there_is_a_way(
    wardround, study_file, tmp_path, monkeypatch, command, begun, said, number
):
    def interrupted(*_args, **_kwargs):
        if begun:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "study.toml").write_text("")
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr("wardround.simulation.run.run_study", interrupted)
    monkeypatch.setattr("wardround.simulation.run.resume_run", interrupted)
    arguments = (study_file(), "--out", tmp_path / "out") if command == "run" else (tmp_path / "out",)
    ended = wardround(command, *arguments)
    assert ended.code == 128 + number
    assert said in ended.err
    assert ("resume" in ended.err) is begun


def test_a_bug_shows_its_traceback(monkeypatch, study_file):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError

    from wardround.cli.main import main

    monkeypatch.setattr("wardround.simulation.run.run_study", broken)
    monkeypatch.setattr(sys, "argv", ["wardround", "run", str(study_file())])
    with pytest.raises(ZeroDivisionError):
        main()


def failing(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/file"), "machine-full"),
        (MemoryError(), "machine-memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "machine-memory"),
        (sqlite3.OperationalError("database or disk is full"), "machine-full"),
    ],
)
def test_a_fault_of_the_machine_is_one_sentence_with_the_way_back(
    study_file, wardround, tmp_path, monkeypatch, error, code
):
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "study.toml").touch()
    for name, arguments, way_back in (
        ("run_study", ("run", study_file()), "Give the same command again to go on."),
        ("resume_run", ("resume", begun), f"Go on with: wardround resume {begun}"),
    ):
        monkeypatch.setattr(f"wardround.simulation.run.{name}", failing(error))
        ended = wardround(*arguments)
        assert (ended.code, ended.error.code) == (2, code)
        [said] = ended.err.splitlines()
        assert said.startswith("wardround: ")
        assert said.endswith(way_back)


def test_a_mistake_of_the_program_shows_its_traceback(study_file, wardround, monkeypatch):
    monkeypatch.setattr("wardround.simulation.run.run_study", failing(KeyError("x")))
    with pytest.raises(KeyError):
        wardround("run", study_file())


def test_output_that_cannot_be_written_is_no_success(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        monkeypatch.setattr("sys.argv", ["wardround", "schema"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert isinstance(ended.value.__context__, MachineError)
    assert "standard output" in str(ended.value.__context__)


def test_output_that_was_closed_before_the_command_began_is_no_failure(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.argv", ["wardround", "schema"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
