"""Sensitivity that the released threshold of 90 % reaches on patients set aside, by epsilon.

    python -m benchmarks.thresholds --out folder [--data path/to/chest_xray]

The chest X-rays, where they are given, and the generated fundus photographs of `benchmarks.generated_sets` in two
classes (made in the folder where they are missing), as a study has them that names path, layout and epsilon alone: five
hospitals, one colluder, delta 1e-5. Each split by patient has several draws of the noise, whose heads are trained in
shared passes. A row has mean and standard deviation over splits and draws, and the draws whose noise left no threshold,
which are not in them. Noise is from the operating system.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generated_sets import write_fundus
from wardround.agreed.operating_point import operating_points_of
from wardround.agreed.plans import plan_of
from wardround.agreed.schedule import sum_std
from wardround.config import Study, parse_study
from wardround.coordinator.observer import Silent
from wardround.models.operating_point import ByThreshold
from wardround.privacy.plans.calibrate import in_the_open
from wardround.privacy.plans.kinds import NoisedGradients
from wardround.simulation.materials import Materials, gather
from wardround.simulation.sweeps.together import Head, trained_together
from wardround.training.patients import Sample, united
from wardround.training.scores import moment_rows
from wardround.types import Vector

EPSILONS = (8.0, 2.0, 1.0, 0.5)


def study_of(given: dict[str, Any], cache: Path, split: int, epsilon: float) -> Study:
    return parse_study(
        given
        | {
            "study": {"name": "thresholds"},
            "hospitals": {"split_seed": split},
            "privacy": {"plan": "dp-sgd", "epsilon": epsilon, "delta": 1e-5, "sum": "simulated"},
            "performance": {"cache": str(cache)},
        }
    )


def sensitivity(
    study: Study, weights: Vector, materials: Materials, generator: np.random.Generator
) -> float | None:
    """Returns the share of the second class that is above its noised threshold; None where there is no threshold."""
    plan, rounds = plan_of(study), study.score_rounds
    assert isinstance(plan.training, NoisedGradients), "a private head"
    everyone = united(list(materials.hospitals.values()))
    drawn = Sample(everyone, np.arange(len(everyone)))
    sums = rounds * moment_rows(materials.workbench, weights, drawn, plan.training.clip.norm).sum(axis=0)
    sums += np.sqrt(rounds) * sum_std(study, plan.training) * generator.standard_normal(len(sums))
    state = {"moments": sums.astype(np.float32), "score_rounds": np.array([rounds], dtype=np.float32)}
    [point] = operating_points_of(study, plan, state, materials.images.class_names)
    if not isinstance(point, ByThreshold):
        return None
    test, table = materials.test, weights.reshape(2, -1)
    ill = test.rows[test.labels == 1]
    scores = materials.workbench.inputs_of(ill).numpy() @ (table[1] - table[0])
    return float((scores >= point.thresholds[0].score).mean())


def measured(
    given: dict[str, Any], cache: Path, splits: int, draws: int
) -> Iterator[tuple[float, list[float | None]]]:
    """Yields each epsilon, and the sensitivity of each draw of a split."""
    generator = np.random.default_rng()
    for split in range(splits):
        studies = [study_of(given, cache, split, epsilon) for epsilon in EPSILONS]
        materials = gather(studies[0], Silent())
        heads = []
        for study in studies:
            resting = study.model_copy(
                update={"federation": study.federation.model_copy(update={"score_rounds": 0})}
            )
            own = in_the_open(plan_of(study), resting.rounds)
            heads += [Head(f"{draw}", resting, own) for draw in range(draws)]
        models = iter(trained_together(heads, materials, Silent()))
        for study, epsilon in zip(studies, EPSILONS, strict=True):
            yield epsilon, [sensitivity(study, next(models), materials, generator) for _ in range(draws)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the generated set and of the cache")
    parser.add_argument("--data", type=Path, help="folder of the chest X-rays")
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--draws", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets: dict[str, dict[str, Any]] = {}
    if options.data is not None:
        sets["chest X-rays"] = {"site": {"layout": "chest_xray", "path": str(options.data.resolve())}}
    fundus = options.out / "fundus"
    if not fundus.exists():
        write_fundus(fundus)
    sets["fundus"] = {"site": {"layout": "aptos", "path": str(fundus.resolve())}, "data": {"task": "referable"}}
    print("| set, ε | sensitivity at the threshold of 90 % | draws without a threshold |\n|---|---|---|")
    for name, given in sets.items():
        found: dict[float, list[float | None]] = {}
        for epsilon, some in measured(given, options.out / "cache", options.splits, options.draws):
            found.setdefault(epsilon, []).extend(some)
        for epsilon, values in found.items():
            there = [value for value in values if value is not None]
            none = f"{len(values) - len(there)} of {len(values)}"
            print(
                f"| {name}, {epsilon:g} | {np.mean(there):.2f} ± {np.std(there, ddof=1):.2f} | {none} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
