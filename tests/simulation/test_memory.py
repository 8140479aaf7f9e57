"""The memory of a study, foreseen and measured."""

import json
import subprocess
import sys

import pytest
from torch import nn

from wardround.models.network import Network
from wardround.simulation import estimate as estimates
from wardround.simulation.estimate import estimate

CORES = 8
GIGABYTE = 1 << 30
FACTOR = 1.6
"""Between what is foreseen and the peak that is measured, either way."""

MEASURE = """
import json, sys
from pathlib import Path
import torch
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.simulation.estimate import estimate
from wardround.simulation.run import run_study

def status(name):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

study, out = json.loads(sys.argv[1]), Path(sys.argv[2])
small = study | {"study": {"name": "small"}, "model": {"name": "small_cnn"}}
run_study(parse_study(small), out / "small", Silent(), rehearsal=True)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
run_study(parse_study(study), out / "large", Silent(), rehearsal=True)
peak = status("VmHWM") - before
print(json.dumps({"peak": peak, "foreseen": estimate(parse_study(study)).memory_bytes}))
"""
MASKED = {"privacy": {"sum": "masked", "num_patients": 28}}
LOCAL = {
    "federation": {"strategy": "fedavg", "local_steps": 2, "learning_rate": 0.1},
    "privacy": {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None},
}


class Flat(nn.Module):
    """The values of a picture, in a row."""

    def forward(self, pixels):
        return pixels.float().flatten(1)


def of_size(parameters, between):
    """Builds networks of about so many trained parameters, which are no head."""
    wide = parameters // 256

    def build(*_, **__):
        trained = nn.Sequential(nn.Linear(16 * 16, wide), between, nn.Linear(wide, 2))
        return Network("wide", Flat(), trained, encode_once=False)

    return build


@pytest.fixture
def untimed(monkeypatch):
    """Nothing is timed, and gradients of batches that are clipped in the open take a gigabyte where there are any."""
    monkeypatch.setattr(estimates, "_probe", lambda *_: (1.0, GIGABYTE))
    monkeypatch.setattr(estimates, "_masked_probe", lambda *_: (1.0, 1.0))


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("sections", [MASKED, LOCAL])
def test_each_core_has_a_copy_of_the_network_and_a_gradient_twice(tiny_study, monkeypatch, sections):
    """A network that draws random numbers has no copies, and goes on in one thread."""

    def foreseen(between, cores):
        monkeypatch.setattr(estimates, "build_network", of_size(100_000, between))
        return estimate(tiny_study(**sections, performance={"threads": cores}))

    two, one, drawing = foreseen(nn.Tanh(), 2), foreseen(nn.Tanh(), 1), foreseen(nn.Dropout(), 2)
    vector = 4 * two.parameters
    assert two.memory_bytes - one.memory_bytes >= (2 + 2) * vector
    assert two.memory_bytes - drawing.memory_bytes >= (2 + 2) * vector
    assert one.memory_bytes < GIGABYTE, "no batch is clipped"


@pytest.mark.usefixtures("untimed")
def test_references_clip_beside_the_copies(tiny_study, monkeypatch):
    monkeypatch.setattr(estimates, "build_network", of_size(100_000, nn.Tanh()))
    alone, beside = (estimate(tiny_study(**MASKED, federation={"compare": names})) for names in ([], ["pooled"]))
    assert beside.memory_bytes - alone.memory_bytes == GIGABYTE


@pytest.mark.thorough
@pytest.mark.parametrize(("sections", "hospitals"), [(MASKED, 3), (LOCAL, CORES)])
def test_what_is_foreseen_is_within_a_factor_of_the_measured_peak(tiny, tmp_path, sections, hospitals):
    """A run of ResNet-18, after one of a small network, whose libraries and pools are not counted."""
    pytest.importorskip("monai")
    data = {"image_size": 64, "phantom": {"patients": 40, "max_images": 1, "image_size": 64}}
    study = tiny(
        study={"seed": None}, data=data, hospitals={"count": hospitals}, model={"name": "resnet18"},
        performance={"threads": CORES},
        **{name: {"rounds": 1} | own if name == "federation" else own for name, own in sections.items()},
    )  # fmt: skip
    run = [sys.executable, "-W", "ignore", "-c", MEASURE, json.dumps(study), str(tmp_path)]
    found = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert found["peak"] / FACTOR < found["foreseen"] < found["peak"] * FACTOR, found
