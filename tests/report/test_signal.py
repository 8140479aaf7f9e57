"""The signal in noised sums: recovered from norms alone, and a descent that diverges is told from one that settles."""

from typing import Any
from unittest import mock

import numpy as np
import pytest

from wardround.config import parse_study
from wardround.report.signal import Signal
from wardround.simulation.run import run_study

SIZE = 20_000


def lines(shares, noise=700.0, most=2000.0, seed=0):
    """Lines of rounds whose sums are a share of the most, in one direction, and noise."""
    draw, found = np.random.default_rng(seed), []
    for share in shares:
        total = draw.normal(0, noise / np.sqrt(SIZE), SIZE)
        total[0] += share * most
        found.append({"sum_norm": float(np.linalg.norm(total)), "noise_norm": noise, "most_norm": most})
    return found


@pytest.mark.parametrize("seed", range(5))
def test_what_is_beneath_the_noise_is_recovered(seed):
    signal = Signal.of(lines([0.3] * 6 + [0.1] * 6, seed=seed), SIZE)
    assert signal is not None
    assert signal.first_share == pytest.approx(0.3, abs=0.03)
    assert signal.last_share == pytest.approx(0.1, abs=0.04)
    assert signal.sure_share <= signal.last_share
    assert not signal.is_large


def test_sums_that_stay_large_diverge_and_sums_that_fall_do_not():
    stays = Signal.of(lines([0.2, *[0.5] * 19]), SIZE)
    falls = Signal.of(lines(np.linspace(0.9, 0.02, 20)), SIZE)
    unsettled = Signal.of(lines([0.9, *[0.5] * 19]), SIZE)
    assert stays is not None
    assert stays.grows
    assert "diverges" in stays.sentence()
    assert falls is not None
    assert not falls.is_large
    assert "learning_rate" not in falls.sentence()
    assert unsettled is not None
    assert unsettled.is_large
    assert not unsettled.grows


def test_sums_below_the_noise_have_no_share():
    """An estimate of nothing is no measurement of zero."""
    hidden = Signal(first=1.0, last=0.99, first_share=0.0, last_share=0.07, sure_share=0.0).sentence()
    assert "0 %" not in hidden
    assert hidden.endswith("too little to be seen was beneath the noise, then 7 %")


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_divergence(seed):
    signal = Signal.of(lines([0.0] * 20, noise=20_000.0, seed=seed), SIZE)
    assert signal is not None
    assert not signal.is_large


def test_few_rounds_and_rounds_without_noise_say_nothing():
    assert Signal.of(lines([0.5] * 11), SIZE) is None
    assert Signal.of([{"round": 1, "sum_norm": 3.0}] * 20, SIZE) is None


class Said:
    def __init__(self):
        self.stages, self.details = [], []

    def stage(self, text):
        self.stages.append(text)

    def progress(self, done, total, detail=""):
        self.details.append(detail)


@pytest.mark.parametrize(("rate", "diverges"), [(0.5, False), (50.0, True)])
def test_a_run_says_that_its_learning_rate_diverges(tmp_path, rate, diverges):
    study = parse_study(
        {
            "study": {"name": "rates", "seed": 3},
            "data": {
                "layout": "phantom", "image_size": 32, "phantom": {"patients": 60, "max_images": 1, "image_size": 32},
            },
            "hospitals": {"count": 3},
            "model": {"name": "small_cnn"},
            "privacy": {
                "plan": "dp-sgd", "epsilon": 200.0, "delta": 1e-3, "clipping_norm": 0.5, "accountant": "rdp",
                "sum": "simulated", "num_patients": 48,
            },
            "federation": {"rounds": 16, "learning_rate": rate, "evaluate_every": 8},
            "performance": {"threads": 1, "cache": str(tmp_path / "cache")},
        }
    )  # fmt: skip
    said = Said()
    with mock.patch("wardround.coordinator.recording.write_report"):
        record = run_study(study, tmp_path / "run", said, rehearsal=True)
    [sentence] = [text for text in said.stages if text.startswith("noised sums")]
    assert ("diverges" in sentence) == diverges
    parameters: Any = record.results["parameters"]
    signal = Signal.of(record.rounds, parameters)
    assert signal is not None
    assert signal.sentence() == sentence
