"""Published loops over a study's pictures, as plain arrays: each in a process of its own, its numbers kept."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wardround.boundary.private import make_private_folder, write_whole
from wardround.config import Study
from wardround.coordinator.observer import Observer, Silent
from wardround.records.reading import read_json
from wardround.reproduce.as_published.plain import Labelled, Steps, predict, train
from wardround.reproduce.repaired import Sections, study_of
from wardround.reproduce.table import Score
from wardround.simulation.evaluation import shortcut_figures
from wardround.simulation.materials import Materials, gather
from wardround.simulation.sweeps.many import cores
from wardround.training.metrics.classification import evaluate
from wardround.training.patients import TrainingPatients

_NO_INTERVALS = 2
KEYS = ("accuracy", "balanced_accuracy", "auroc", "matthews")


@dataclass(frozen=True)
class Cohort:
    """Hospitals with their pictures, test pictures, and the network with its first weights.

    Attributes:
        test_patients: to which of them each test picture belongs, (picture,).
        model: uint8 pictures (picture, channel, height, width) to logits; only its trained part has gradients.
    """

    hospitals: tuple[Labelled, ...]
    test: Labelled
    test_patients: torch.Tensor
    model: nn.Module

    @property
    def together(self) -> Labelled:
        """All hospitals' pictures in one place."""
        return Labelled(
            torch.cat([data.pictures for data in self.hospitals]),
            torch.cat([data.labels for data in self.hospitals]),
        )

    def scores(self) -> dict[str, float]:
        """Numbers of the model, as it is now, on the test pictures; those that the pictures cannot give are absent."""
        found = evaluate(
            predict(self.model, self.test.pictures), self.test.labels.numpy(), self.test_patients.numpy(),
            generator=np.random.default_rng(0), num_resamples=_NO_INTERVALS,
        )  # fmt: skip
        return {key: float(value) for key in KEYS if (value := getattr(found, key)) is not None}


def cohort_of(study: Study) -> tuple[Cohort, dict[str, float]]:
    """The cohort of a study, and what to read its numbers against: the majority class, and brightness alone.

    All pictures of every patient are handed out: published loops count pictures, and bound nobody's.
    """
    materials = gather(study, Silent())
    pixels = materials.images.pixels

    def labelled(patients: TrainingPatients) -> Labelled:
        return Labelled.of(pixels[patients.rows], patients.labels)

    cohort = Cohort(
        hospitals=tuple(labelled(patients) for patients in materials.hospitals.values()),
        test=labelled(materials.test),
        test_patients=torch.from_numpy(np.repeat(np.arange(len(materials.test)), materials.test.counts)),
        model=materials.workbench.network.whole(),
    )
    return cohort, _baselines(materials, cohort)


def _baselines(materials: Materials, cohort: Cohort) -> dict[str, float]:
    counts = torch.bincount(cohort.test.labels).to(torch.float64)
    found = {"majority class, accuracy": float(counts.max() / counts.sum())}
    shortcut = shortcut_figures(materials)["shortcut_auroc"]
    return found if shortcut is None else found | {"six numbers of brightness and border, AUROC": shortcut}


Found = dict[str, dict[str, float]]
"""Numbers by what was measured: `{"uploaded": {"accuracy": 0.5, ...}, ...}`."""

Body = Callable[[Cohort, Mapping[str, object], torch.Generator], Found]
"""A published loop: a cohort, settings as plain JSON, and the only source of randomness."""

_ALL_IMAGES = 10_000
"""Published loops bound nobody's images."""


def together_body(cohort: Cohort, settings: Mapping[str, object], generator: torch.Generator) -> Found:
    """Plain training on all pictures in one place: what published private arms are held against."""
    train(cohort.model, cohort.together, Steps.from_json(settings), generator)
    return {"test": cohort.scores()}


@dataclass(frozen=True)
class Loop:
    """One published loop to be run.

    Attributes:
        study: names pictures, hospitals and network; its privacy and federation sections say nothing here.
        body: a function at the top of a module.
        seed: of everything the loop draws.
    """

    study: Study
    body: Body
    settings: Mapping[str, object]
    seed: int = 0

    @property
    def digest(self) -> str:
        """Identity: a loop with another one is run anew."""
        parts = [self.study.digest, self.body.__module__, self.body.__qualname__, dict(self.settings), self.seed]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_loops(
    loops: Mapping[str, Loop], out: Path, observer: Observer, *, workers: int | None = None
) -> dict[str, Found]:
    """Runs every loop whose numbers are not yet in `out/<name>.json`; returns all numbers.

    `out` is made if missing; `workers` loops run at once: None takes the number of cores, and 1 stays in this process.
    """
    make_private_folder(out)
    waiting = {name: loop for name, loop in loops.items() if _kept(out / f"{name}.json", loop) is None}
    at_once = min(len(waiting), workers or cores())
    observer.stage(f"{len(waiting)} loops as published, {max(1, at_once)} at once")
    if at_once <= 1:
        for done, (name, loop) in enumerate(waiting.items(), 1):
            _work(loop, out / f"{name}.json")
            observer.progress(done, len(waiting), name)
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(at_once, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            running = {pool.submit(_work, loop, out / f"{name}.json"): name for name, loop in waiting.items()}
            for done, future in enumerate(as_completed(running), 1):
                future.result()
                observer.progress(done, len(waiting), running[future])
    found = {name: _kept(out / f"{name}.json", loop) for name, loop in loops.items()}
    return {name: numbers for name, numbers in found.items() if numbers is not None}


def repeated_loops(
    key: str, sections: Sections, body: Body, settings: Mapping[str, object], repeats: int
) -> dict[str, Loop]:
    """A loop once for each repeat, with another split, other first weights and another seed; all images are kept."""
    privacy = {**sections["privacy"], "images_per_patient": _ALL_IMAGES}
    return {
        name: Loop(study_of(name, {**sections, "privacy": privacy}, number), body, settings, number)
        for number in range(1, repeats + 1)
        for name in [f"{key}-r{number}"]
    }


def baselines_of(found: Sequence[Found]) -> dict[str, Score]:
    """The baselines to read all loops' numbers against, over splits that differ."""
    distinct = {json.dumps(numbers["baselines"], sort_keys=True): numbers["baselines"] for numbers in found}
    repeats = list(distinct.values())
    return {key: Score.of([one[key] for one in repeats if key in one]) for key in repeats[0]}


def scores_of(found: Sequence[Found], what: str) -> dict[str, Score]:
    """The numbers of all repeats of one measurement, by metric."""
    repeats = [numbers[what] for numbers in found]
    keys = [key for key in repeats[0] if all(key in numbers for numbers in repeats)]
    return {key: Score.of([numbers[key] for numbers in repeats]) for key in keys}


def _kept(path: Path, loop: Loop) -> Found | None:
    if not path.exists():
        return None
    content = read_json(path)
    found = content.get("found")
    return found if content.get("digest") == loop.digest and isinstance(found, dict) else None


def _work(loop: Loop, path: Path) -> None:
    cohort, baselines = cohort_of(loop.study)
    found = loop.body(cohort, loop.settings, torch.Generator().manual_seed(loop.seed))
    content = {"digest": loop.digest, "found": found | {"baselines": baselines}}
    write_whole(path, json.dumps(content, indent=2).encode())
