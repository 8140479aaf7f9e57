"""The memory of a study, foreseen and measured."""

import copy
import json
import subprocess
import sys

import pytest
from torch import nn

from wardround.models.network import Network
from wardround.simulation import estimate as estimates
from wardround.simulation.estimate import estimate
from wardround.training.processes import Processes
from wardround.training.workbench import Workbench

CORES = 8
GIGABYTE = 1 << 30
FACTOR = 1.6
"""Between what is foreseen and the peak that is measured, either way."""

MEASURE = """
import json, os, sys, threading, time
from pathlib import Path
import torch
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.simulation.estimate import estimate
from wardround.simulation.run import run_study

def held():
    # Of this process and of those that it forked; what they share counts once.
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    total = 0
    for pid in (os.getpid(), *children):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Pss:", "SwapPss:")))
    return total

def watch():
    global peak
    while True:
        peak = max(peak, held())
        time.sleep(0.01)

study, small, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
run_study(parse_study(small), out / "small", Silent(), rehearsal=True)
peak = before = held()
threading.Thread(target=watch, daemon=True).start()
run_study(parse_study(study), out / "large", Silent(), rehearsal=True)
print(json.dumps({"peak": peak - before, "foreseen": estimate(parse_study(study)).memory_bytes}))
"""
MASKED = {"privacy": {"sum": "masked", "num_patients": 28}}
CENTRED = {"privacy": {"sum": "masked"}, "federation": {"rounds": 4, "centre_rounds": 1}}
LOCAL = {
    "federation": {"strategy": "fedavg", "local_steps": 2, "learning_rate": 0.1},
    "privacy": {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None},
}
LOCAL_PRIVATE = {
    "federation": {"strategy": "fedavg", "local_steps": 2, "learning_rate": 0.1},
    "privacy": {"num_patients": 28, "trust": "nobody"},
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
    monkeypatch.setattr(estimates, "probe", lambda *_: (1.0, GIGABYTE))
    monkeypatch.setattr(estimates, "masked_probe", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(estimates, "local_probe", lambda *_: 1.0)


def foreseen(tiny_study, monkeypatch, sections, between, cores):
    monkeypatch.setattr(estimates, "build_network", of_size(100_000, between))
    return estimate(tiny_study(**sections, performance={"threads": cores}))


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("sections", [MASKED, LOCAL])
def test_each_core_has_a_copy_of_the_network_and_a_gradient_twice(tiny_study, monkeypatch, sections):
    """A network that draws random numbers has no copies in one process, and goes on in one thread there."""

    def needed(between, cores):
        return foreseen(tiny_study, monkeypatch, sections, between, cores)

    two, one, drawing = needed(nn.Tanh(), 2), needed(nn.Tanh(), 1), needed(nn.Dropout(), 2)
    vector = 4 * two.parameters
    assert two.memory_bytes - one.memory_bytes >= (2 + 2) * vector
    assert one.memory_bytes < GIGABYTE, "no batch is clipped"
    assert drawing.memory_bytes == pytest.approx(two.memory_bytes, rel=0.01)
    monkeypatch.setattr(Workbench, "processes", None)  # of a machine that does not fork
    if sections is MASKED:
        assert needed(nn.Tanh(), 2).memory_bytes - needed(nn.Dropout(), 2).memory_bytes >= (2 + 2) * vector


@pytest.mark.usefixtures("untimed")
def test_each_process_has_the_gradients_of_a_clipped_batch(tiny_study, monkeypatch):
    two, one = (foreseen(tiny_study, monkeypatch, LOCAL_PRIVATE, nn.Tanh(), cores) for cores in (2, 1))
    assert two.memory_bytes - one.memory_bytes >= GIGABYTE
    assert one.memory_bytes >= GIGABYTE


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("parameters", [100_000, 10_000_000])
def test_each_process_of_a_seeded_run_has_the_gradients_of_a_batch_of_a_small_network(
    tiny_study, monkeypatch, parameters
):
    monkeypatch.setattr(estimates, "build_network", of_size(parameters, nn.Tanh()))
    two, one, open_ended = (
        estimate(tiny_study(study={"seed": seed}, performance={"threads": cores})).memory_bytes
        for seed, cores in ((7, 2), (7, 1), (None, 2))
    )
    assert one == open_ended
    assert (two - one >= GIGABYTE) == (parameters == 100_000)


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("sections", [MASKED, LOCAL])
def test_copies_are_counted_and_not_made(tiny_study, monkeypatch, sections):
    made = property(lambda _: pytest.fail("a check allocates no copy"))
    monkeypatch.setattr(Workbench, "copies", made)
    monkeypatch.setattr(Processes, "_forked", made)
    assert foreseen(tiny_study, monkeypatch, sections, nn.Tanh(), 2).memory_bytes > 0


@pytest.mark.usefixtures("untimed")
def test_all_uploads_are_kept_and_one_hospital_has_sum_noise_and_row(tiny_study, monkeypatch):
    """Beside the network, its starting weights and the model."""
    monkeypatch.setattr(estimates, "build_network", of_size(100_000, nn.Tanh()))
    monkeypatch.setattr(estimates, "bytes_of_steps", lambda *_: GIGABYTE)  # fewer patients of each wait for others
    kept = []
    for count in (3, 9):
        found = estimate(tiny_study(**MASKED, hospitals={"count": count}))
        assert found.upload is not None
        kept.append(found.memory_bytes - found.upload.num_bytes * count)
    assert kept[0] == kept[1] > GIGABYTE + (8 + 4 + 8 + 12) * found.parameters


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("sections", [MASKED, LOCAL_PRIVATE])
def test_references_clip_beside_copies_and_processes(tiny_study, monkeypatch, sections):
    monkeypatch.setattr(estimates, "build_network", of_size(100_000, nn.Tanh()))
    sections = sections | {"performance": {"threads": 2}}
    alone, beside = (
        estimate(tiny_study(**sections | {"federation": sections.get("federation", {}) | {"compare": names}}))
        for names in ([], ["pooled"])
    )
    assert beside.memory_bytes - alone.memory_bytes == GIGABYTE


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "patients", "sections", "hospitals"),
    [
        ("resnet18", 40, MASKED, 3),
        ("resnet18", 40, LOCAL, CORES),
        ("resnet18", 40, LOCAL_PRIVATE, 2),
        ("features", 6000, CENTRED, 3),
    ],
)
def test_what_is_foreseen_is_within_a_factor_of_the_measured_peak(
    tiny, tmp_path, model, patients, sections, hospitals
):
    """A run of a large network or set, after a small one, whose libraries and pools are not counted."""
    if model == "resnet18":
        pytest.importorskip("monai")
    data = {"image_size": 64, "phantom": {"patients": patients, "max_images": 1, "image_size": 64}}
    study = tiny(
        study={"seed": None}, data=data, hospitals={"count": hospitals}, model={"name": model},
        performance={"threads": CORES},
        **{name: {"rounds": 1} | own if name == "federation" else own for name, own in sections.items()},
    )  # fmt: skip
    small = copy.deepcopy(study)
    if model == "features":
        small["data"]["phantom"]["patients"] = 40
    else:
        small["model"]["name"] = "small_cnn"
    run = [sys.executable, "-W", "ignore", "-c", MEASURE, json.dumps(study), json.dumps(small), str(tmp_path)]
    found = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert found["peak"] / FACTOR < found["foreseen"] < found["peak"] * FACTOR, found
