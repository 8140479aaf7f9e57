"""Models against the patients set aside.

Released without protection, to whoever reads the record: these numbers are computed from the test patients
themselves. Test patients are never trained on, so the guarantee of the training patients is untouched.
"""

from collections.abc import Mapping

import numpy as np

from wardround.images.shortcut import shortcut_scores
from wardround.run.assemble import Materials
from wardround.training.metrics import Metrics, auroc, evaluate
from wardround.types import Vector

_NUMBERS = ("accuracy", "balanced_accuracy", "auroc", "sensitivity", "specificity")


def evaluate_models(
    models: Mapping[str, Vector], materials: Materials, *, num_resamples: int = 1000
) -> dict[str, Metrics]:
    """Metrics of each model; the bootstrap draws from a fixed public seed, so equal models get equal intervals."""
    test = materials.test
    patient = np.repeat(np.arange(len(test)), test.counts)
    return {
        name: evaluate(
            materials.workbench.probabilities(weights, test.rows),
            test.labels,
            patient,
            generator=np.random.default_rng(0),
            num_resamples=num_resamples,
        )
        for name, weights in models.items()
    }


def shortcut_auroc(materials: Materials) -> float | None:
    """AUROC of six brightness and border numbers alone: what the model's own has to be read against."""
    pixels, test = materials.images.pixels, materials.test
    rows = np.concatenate([patients.rows for patients in materials.hospitals.values()])
    labels = np.concatenate([patients.labels for patients in materials.hospitals.values()])
    scores = shortcut_scores(pixels[rows], labels, pixels[test.rows], len(materials.images.class_names))
    return auroc(scores, test.labels)


def summary_of(metrics: Mapping[str, Metrics]) -> dict[str, object]:
    """One row of numbers: the model's own, or the mean and the range over several models."""
    first = next(iter(metrics.values()))
    row: dict[str, object] = {"models": len(metrics)}
    for key in _NUMBERS:
        values = [getattr(m, key) for m in metrics.values() if getattr(m, key) is not None]
        row[key] = float(np.mean(values)) if values else None
        if len(metrics) > 1 and values:
            row[f"{key}_range"] = [float(min(values)), float(max(values))]
    row["majority_accuracy"] = first.majority_accuracy
    if len(metrics) == 1:
        row |= {k: v for k, v in first.to_json().items() if k.endswith("_interval")}
    return row
