"""The wheel, in an empty environment, has all that `--version`, `demo`, `run` and `predict` need."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.inference.saved import drawn, picture_input, save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the tree."""
    place = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    shutil.copytree(ROOT / "src", place / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            place,
            place,
        ]
    )
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `wardround` command of an environment with the wheel, and of the packages here only what it depends on."""
    place = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", place])
    python = place / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel])
    (packages,) = (place / "lib").glob("python*/site-packages")
    # A line in a .pth adds a folder to the path and reads no .pth in it: the editable install here stays out.
    (packages / "here.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return place / "bin" / "wardround", packages


def run(arguments):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.thorough
def test_the_wheel_has_every_file_of_the_package(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    here = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "wardround").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    assert here - packed == set()


@pytest.mark.thorough
def test_the_installed_command_predicts(installed, tmp_path):
    import wardround

    command, packages = installed
    assert run([command, "--version"]).strip() == f"wardround {wardround.__version__}"
    where = run([command.parent / "python", "-c", "import wardround; print(wardround.__file__)"]).strip()
    assert Path(where).is_relative_to(packages)
    recipe = picture_input()
    folder = save(tmp_path / "run", drawn("features", recipe, 2), recipe)
    values = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "one.png")
    (answer,) = json.loads(run([command, "predict", folder, tmp_path / "one.png", "--json"]))["predictions"]
    assert answer["class"] in ("clear", "lesion")
    assert "PATH" in run([command, "predict", "--help"])


@pytest.mark.thorough
def test_the_installed_command_goes_from_the_demo_to_answers(installed, tmp_path, monkeypatch):
    """The tutorial's way, with fewer patients and without the reference runs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    command, _ = installed
    run([command, "demo"])
    study = tmp_path / "demo" / "demo.toml"
    small = study.read_text().replace("patients = 2000", "patients = 200").partition("compare = ")[0]
    study.write_text(small)
    assert "epsilon = 8.00 at delta = 1e-05 for one patient" in run([command, "run", study])
    answers = json.loads(run([command, "predict", "runs/demo", "demo/pictures", "--json"]))["predictions"]
    assert len(answers) == 4
    assert {answer["class"] for answer in answers} <= {"clear", "lesion"}
