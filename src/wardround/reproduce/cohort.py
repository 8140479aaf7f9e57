"""A study's pictures, dealt out, as plain arrays for the published loops, and a plain network that reads them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from wardround.config import Study
from wardround.coordinator.observer import Silent
from wardround.reproduce.as_published.plain import Labelled, predict
from wardround.simulation.evaluation import shortcut_auroc
from wardround.simulation.materials import Materials, gather
from wardround.training.metrics.classification import Metrics, evaluate
from wardround.training.patients import TrainingPatients

_NO_INTERVALS = 2
KEYS = ("accuracy", "balanced_accuracy", "auroc", "matthews")


@dataclass(frozen=True)
class Cohort:
    """Hospitals with their pictures, test pictures, and the network with its first weights.

    Attributes:
        hospitals: each one's pictures.
        test: pictures of the patients set aside.
        test_patients: to which of them each test picture belongs, (picture,).
        model: uint8 pictures (picture, channel, height, width) to logits; only its trained part has gradients.
        num_patients: patients in all hospitals.
    """

    hospitals: tuple[Labelled, ...]
    test: Labelled
    test_patients: torch.Tensor
    model: nn.Module
    num_patients: int

    @property
    def together(self) -> Labelled:
        """All hospitals' pictures in one place."""
        return Labelled(
            torch.cat([data.pictures for data in self.hospitals]),
            torch.cat([data.labels for data in self.hospitals]),
        )

    def scores(self, models: nn.Module | None = None) -> dict[str, float]:
        """Numbers of the model, as it is now, on the test pictures; those that the pictures cannot give are absent."""
        found = metrics_of(predict(models or self.model, self.test.pictures), self)
        return {key: float(value) for key in KEYS if (value := getattr(found, key)) is not None}


def metrics_of(scores: np.ndarray[tuple[int, ...], np.dtype[np.float64]], cohort: Cohort) -> Metrics:
    """Metrics of class probabilities on the cohort's test pictures."""
    return evaluate(
        scores,
        cohort.test.labels.numpy(),
        cohort.test_patients.numpy(),
        generator=np.random.default_rng(0),
        num_resamples=_NO_INTERVALS,
    )


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
        num_patients=sum(map(len, materials.hospitals.values())),
    )
    return cohort, _baselines(materials, cohort)


def _baselines(materials: Materials, cohort: Cohort) -> dict[str, float]:
    counts = torch.bincount(cohort.test.labels).to(torch.float64)
    found = {"majority class, accuracy": float(counts.max() / counts.sum())}
    shortcut = shortcut_auroc(materials)
    return found if shortcut is None else found | {"six numbers of brightness and border, AUROC": shortcut}
