"""A run that is told to end from outside, as a batch system or a container does, and goes on later."""

import signal
import subprocess
import sys
import time

import pytest

from wardround.coordinator.observer import Silent
from wardround.simulation.run import run_study

COMMAND = (sys.executable, "-m", "wardround")


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("total", ["simulated", "masked"])
def test_a_seeded_run_that_is_ended_and_resumed_has_the_weights_of_one_that_was_not(
    tiny_study, tmp_path, without_charts, number, total
):
    study = tiny_study(federation={"rounds": 40, "evaluate_every": 40}, privacy={"sum": total})
    (tmp_path / "study.toml").write_text(study.to_toml())
    out = tmp_path / "run"
    started = subprocess.Popen(
        [*COMMAND, "run", tmp_path / "study.toml", "--out", out], stderr=subprocess.PIPE, text=True
    )
    while started.poll() is None and not any(out.glob("checkpoints/*.safetensors")):
        time.sleep(0.005)
    started.send_signal(number)
    _, said = started.communicate()
    assert started.returncode == 128 + number, said
    assert f"Go on with: wardround resume {out}" in said
    assert "Traceback" not in said
    assert not (out / "certificate.json").exists()
    subprocess.run([*COMMAND, "resume", out], check=True, capture_output=True)
    run_study(study, tmp_path / "whole", Silent())
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "whole")]
    assert weights[0] == weights[1]
