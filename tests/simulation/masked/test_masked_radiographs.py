"""On the chest X-rays a masked run learns what one with simulated Gaussian shares learns, at the same noise multiplier.

A seed is a split and the noise of one run; both kinds of sum get the same five seeds, so that their differences are of
noise alone. `pytest -m slow -rP tests/simulation/masked/test_masked_radiographs.py` prints the figures of
docs/secure-aggregation.md.
"""

import numpy as np
import pytest
from tests.simulation.test_real_data import PICTURES, ROOT

from wardround.agreed.plans import plan_of
from wardround.config import read_study
from wardround.coordinator.observer import Silent
from wardround.simulation.run import run_study

SEEDS = range(5)
STEPS = {"rounds": 60, "learning_rate": 24.0, "average_last": 0.0, "score_rounds": 0}


def radiographs(how, seed, folder, **privacy):
    overrides = {
        "study": {"seed": seed},
        "data": {"path": str(PICTURES), "image_size": 64},
        "hospitals": {"split_seed": seed},
        "privacy": {"sum": how, "num_patients": 2220, **privacy},
        "federation": {"compare": (), "evaluate_every": 60, **STEPS},
        "performance": {"cache": str(folder / "cache")},
    }
    return read_study(ROOT / "examples" / "chest_xray.toml", overrides)


def results_of(study, out):
    return run_study(study, out, Silent()).results


@pytest.mark.real_data
@pytest.mark.slow
def test_masked_sums_reach_the_auroc_of_simulated_shares_within_its_spread(tmp_path):
    if not PICTURES.is_dir():
        pytest.skip(f"the real chest X-rays are not at {PICTURES}; set WARDROUND_DATA to their folder")
    masked = plan_of(radiographs("masked", 0, tmp_path)).masked
    assert masked is not None
    noise = masked.noise_multiplier
    shortcut = []

    def aurocs(how, factor):
        found = []
        for seed in SEEDS:
            study = radiographs(how, seed, tmp_path, epsilon=None, noise_multiplier=factor * noise)
            results = results_of(study, tmp_path / f"{how}-{factor}-{seed}")
            found.append(results["metrics"]["auroc"])
            shortcut.append(results["shortcut_auroc"])
        print(f"{how:9} z = {factor * noise:7.4f}  {np.mean(found):.4f} +- {np.std(found, ddof=1):.4f}  {found}")
        return np.array(found)

    masked, simulated, noisier = aurocs("masked", 1), aurocs("simulated", 1), aurocs("masked", 3)
    apart, lost = masked - simulated, masked - noisier
    error = {name: of.std(ddof=1) / np.sqrt(len(SEEDS)) for name, of in (("apart", apart), ("lost", lost))}
    print(f"masked - simulated {apart.mean():+.5f}, standard error {error['apart']:.5f}")
    print(f"masked - masked at three times the noise {lost.mean():+.5f}, standard error {error['lost']:.5f}")
    print(f"brightness and border alone {np.mean(shortcut):.4f}, {max(shortcut):.4f} at most")
    assert masked.min() > 0.97 > 0.95 > max(shortcut), "it learns more than the shortcut"
    assert abs(apart.mean()) < simulated.std(ddof=1)
    assert abs(apart.mean()) < 4 * error["apart"]
    assert lost.mean() > 4 * max(error.values()), "noise of another size would have been seen"
