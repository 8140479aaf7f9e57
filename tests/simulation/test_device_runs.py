"""The device of a run: what the study asks for, where bits allow it; recorded, and repeated on resume."""

import json

import pytest
import torch
from tests.cases import family
from tests.errors import raises_code
from tests.per_patient.emulated import Emulation, emulated_gpu
from tests.simulation.bad_input.refusals import refusal
from tests.simulation.runs import InterruptingRound, interrupted

from wardround.agreed.network import build_network
from wardround.coordinator.observer import Silent
from wardround.errors import RecordError, StudyError
from wardround.hospital.pictures import device_of
from wardround.images.entries import Target
from wardround.records.environment import device_in
from wardround.simulation import run
from wardround.training.device import CPU, GPU

CNN = {"study": {"seed": None}, "model": {"name": "small_cnn"}}
LOCAL = {
    "training": {"augment": {"flip": ["horizontal"]}}, "federation": {"strategy": "fedavg"},
    "privacy": {"trust": "nobody"},
}  # fmt: skip
MASKED = CNN | {"privacy": {"sum": "masked", "num_patients": 32}}


@pytest.fixture
def has_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def device_in_study(study):
    network = build_network(study, target=Target.CLASSES, num_classes=2, shape=(1, 16, 16))
    return device_of(study, network)


def test_the_steps_of_a_network_are_on_the_gpu(tiny_study, has_gpu):
    for asked in ("auto", "cuda"):
        assert device_in_study(tiny_study(**CNN, performance={"device": asked})) == GPU
    assert device_in_study(tiny_study(**CNN, performance={"device": "cpu"})) == CPU


@pytest.mark.parametrize(
    "sections", family([CNN | {"study": {"seed": 1}}, MASKED, CNN | {"model": {"name": "linear"}}], keep=[MASKED])
)
def test_what_promises_bits_keeps_to_the_processor(tiny_study, has_gpu, sections):
    """A GPU adds up in another order each time: no seed can repeat it, and no patient is sure to change no other."""
    assert device_in_study(tiny_study(**sections)) == CPU
    with raises_code(StudyError, "study-device"):
        device_in_study(tiny_study(**sections, performance={"device": "cuda"}))


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_device_that_is_not_there_is_refused_before_a_picture_is_read(
    wardround, study_file, tmp_path, monkeypatch, command
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(run, "gather", lambda *_: pytest.fail("pictures are read"))
    path = study_file(**CNN, performance={"device": "cuda"})
    options = ("--out", tmp_path / "run") if command == "run" else ()
    message = refusal(wardround(command, path, *options), StudyError, "study-device")
    assert "`[performance] device`" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("said", ["cuda", "cpu", None, 7])
def test_a_record_says_its_device(said):
    assert device_in({"device": said}) == ("cuda" if said == "cuda" else "cpu")


@pytest.mark.thorough
def test_a_resumed_run_keeps_its_device(tiny_study, tmp_path, monkeypatch, without_charts):
    """Begun on the processor it stays there when a GPU appears; begun on a GPU it does not go on without one."""
    out = tmp_path / "run"
    interrupted(tiny_study(**CNN, privacy={"epsilon_limit": 20.0}), out, InterruptingRound(2))
    assert json.loads((out / "environment.json").read_text())["device"] == "cpu"
    with monkeypatch.context() as patched:
        patched.setattr(run, "device_in", lambda environment: "cuda")
        with raises_code(RecordError, "record-device"):
            run.resume_run(out, Silent())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert run.resume_run(out, Silent()).certificate["rounds"] == 4


@pytest.mark.thorough
@pytest.mark.parametrize("sections", [{}, LOCAL], ids=["sums", "local steps on varied pictures"])
def test_a_whole_run_is_computed_on_the_gpu(tiny_study, tmp_path, monkeypatch, without_charts, sections):
    kernels, inner = [], Emulation.__torch_dispatch__

    def counted(self, func, types, args=(), kwargs=None):
        kernels.append(func)
        return inner(self, func, types, args, kwargs)

    monkeypatch.setattr(Emulation, "__torch_dispatch__", counted)
    with emulated_gpu(monkeypatch):
        record = run.run_study(tiny_study(**CNN | sections), tmp_path / "run", Silent())
    assert record.certificate["rounds"] == 4
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["device"] == "lazy"
    assert len(kernels) > 1000
