"""Models against the patients set aside.

Released without protection, to readers of the record: these numbers are computed from the test and validation
patients themselves. They are never trained on, so the guarantee of the training patients is untouched.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from wardround.coordinator.rounds import JsonDict
from wardround.images.entries import Target
from wardround.images.patients import ImageRef
from wardround.images.quality.shortcut import shortcut_scores
from wardround.simulation.materials import Materials
from wardround.training.metrics.classification import Metrics, evaluate
from wardround.training.metrics.confusion import quadratic_kappa
from wardround.training.metrics.groups import each_group
from wardround.training.metrics.mask_scores import MaskScores, SegmentationMetrics
from wardround.training.metrics.ranking import auroc
from wardround.training.patients import Rows, united
from wardround.types import Masks, Vector

Quality = Metrics | SegmentationMetrics

_CLASSES = {
    "auroc": "AUROC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}
_GRADES = {"quadratic_kappa": "Quadratic-weighted kappa", **_CLASSES}
_MASKS = {"dice": "Dice", "hd95": "HD95", "surface_dice": "Surface Dice"}


def evaluate_models(
    models: Mapping[str, Vector],
    materials: Materials,
    *,
    ensemble: bool = False,
    validation: bool = False,
    num_resamples: int = 1000,
) -> dict[str, Quality]:
    """Metrics of each model; the bootstrap draws from a fixed public seed, so equal models get equal intervals.

    Of an ensemble there is one row: the outputs of its models are averaged. On the test patients, or, with
    `validation`, on the validation patients.
    """
    rows: Mapping[str, Vector | tuple[Vector, ...]] = {"ensemble": tuple(models.values())} if ensemble else models
    return {name: _evaluated(one, materials, num_resamples, validation) for name, one in rows.items()}


def evaluate_subgroups(weights: Vector, materials: Materials) -> dict[str, object]:
    """Metrics of a model by site and by every column of subgroups that the data states, as JSON."""
    volumes = [volume[0] for patient in materials.split.test for volume in _by_volume(patient.images)]
    columns = _columns(volumes)
    if not columns:
        return {}
    generator, test = np.random.default_rng(0), materials.test
    if materials.images.target is Target.MASKS:
        groups = _mask_scores(weights, materials).by_group(columns, generator=generator)
        return {column: shown.to_json() for column, shown in groups.items()}
    scores = materials.workbench.probabilities(weights, test.rows)
    patients, grades = np.repeat(np.arange(len(test)), test.counts), materials.images.target is Target.GRADES

    def of(rows: Rows) -> Metrics:
        return evaluate(scores[rows], test.labels[rows], patients[rows], generator=generator, grades=grades)

    return {column: shown.to_json() for column, shown in each_group(patients, columns, of).items()}


def shortcut_figures(materials: Materials) -> dict[str, float | None]:
    """Returns AUROC, and of grades kappa, of six brightness and border numbers alone: a floor for the model's own.

    Guarantee: none. The rule is fitted to the training pictures.
    """
    target = materials.images.target
    if target is Target.MASKS:
        return {"shortcut_auroc": None, "shortcut_kappa": None}
    materials = materials.originals or materials
    test, train = materials.test, united(tuple(materials.hospitals.values()))
    num_classes = len(materials.images.class_names)
    scores = shortcut_scores(materials.images.pixels, train.rows, train.labels, test.rows, num_classes)
    kappa = None
    if target is Target.GRADES:
        table = np.zeros((1, num_classes, num_classes))
        np.add.at(table[0], (test.labels, scores.argmax(axis=1)), 1.0)
        [value] = quadratic_kappa(table)
        kappa = None if np.isnan(value) else float(value)
    return {"shortcut_auroc": auroc(scores, test.labels), "shortcut_kappa": kappa}


def location_dice(materials: Materials) -> float | None:
    """Dice of the mask that training patients have most often at each place: what is reached without any picture.

    Guarantee: none, as for `shortcut_figures`.
    """
    images, workbench = materials.images, materials.workbench
    if images.target is not Target.MASKS:
        return None
    classes = np.arange(len(images.class_names), dtype=np.uint8)
    counts = None
    for row in np.concatenate([patients.rows for patients in materials.hospitals.values()]):
        mask = workbench.true_masks(np.array([row]))[0]
        if counts is None:
            counts = np.zeros((images.rows_each, len(classes), *mask.shape), dtype=np.int32)
        counts[row % images.rows_each] += mask == classes.reshape(-1, *[1] * mask.ndim)
    assert counts is not None, "hospitals have patients"
    usual = counts.argmax(axis=1).astype(np.uint8)
    scores = _scored(materials, lambda rows: usual[rows % images.rows_each])
    return scores.result(generator=np.random.default_rng(0), num_resamples=1).dice


def summary_of(metrics: Mapping[str, Quality]) -> JsonDict:
    """One row of numbers: the model's own, or the mean and the range over several models.

    `shown` lists the keys in the order in which a reader wants them, the headline first, with their titles and
    units; each key has its value, and an interval of one model or a range over several.
    """
    rows = [_flat(quality) for quality in metrics.values()]
    first = next(iter(metrics.values()))
    titles = _titles(first)
    row: JsonDict = {"models": len(metrics), "shown": titles}
    for key in (str(item["key"]) for item in titles):
        values = [float(value) for numbers in rows if isinstance(value := numbers[key], float | int)]
        row[key] = float(np.mean(values)) if values else None
        if len(metrics) > 1 and values:
            row[f"{key}_range"] = [min(values), max(values)]
        if len(metrics) == 1 and f"{key}_interval" in rows[0]:
            row[f"{key}_interval"] = rows[0][f"{key}_interval"]
    if isinstance(first, Metrics):
        row["majority_accuracy"] = first.majority_accuracy
    return row


def headlines_of(metrics: Mapping[str, Quality]) -> list[float | None]:
    """Returns the first figure of each model; None where the test patients cannot give it."""
    found = [(_flat(quality), _titles(quality)[0]["key"]) for quality in metrics.values()]
    return [float(value) if isinstance(value := row[key], float | int) else None for row, key in found]


def _evaluated(
    weights: Vector | tuple[Vector, ...], materials: Materials, num_resamples: int, validation: bool = False
) -> Quality:
    generator = np.random.default_rng(0)
    if materials.images.target is Target.MASKS:
        scores = _mask_scores(weights, materials, validation)
        return scores.result(generator=generator, num_resamples=num_resamples)
    test = materials.validation if validation else materials.test
    return evaluate(
        materials.workbench.probabilities(weights, test.rows),
        test.labels,
        np.repeat(np.arange(len(test)), test.counts),
        generator=generator,
        num_resamples=num_resamples,
        grades=materials.images.target is Target.GRADES,
    )


def _mask_scores(
    weights: Vector | tuple[Vector, ...], materials: Materials, validation: bool = False
) -> MaskScores:
    def predict(rows: Rows) -> Masks:
        return np.concatenate([masks for _, masks in materials.workbench.predicted_masks(weights, rows)])

    return _scored(materials, predict, validation)


def _scored(materials: Materials, predict: Callable[[Rows], Masks], validation: bool = False) -> MaskScores:
    """Every volume of the patients set aside held against its mask; slices are put together again first."""
    images, workbench = materials.images, materials.workbench
    scores = MaskScores(images.regions, images.spacing)
    patients = materials.split.validation if validation else materials.split.test
    for number, patient in enumerate(patients):
        for volume in _by_volume(patient.images):
            rows = np.array([image.row for image in volume], dtype=np.int64)
            predicted, true = predict(rows), workbench.true_masks(rows)
            if images.sliced:
                # (slice, height, width) to (x, y, z): distances depend on the steps of an axis, not on its direction.
                predicted, true = predicted.transpose(2, 1, 0), true.transpose(2, 1, 0)
            else:
                predicted, true = predicted[0], true[0]
            scores.add(predicted, true, number)
    return scores


def _by_volume(images: Sequence[ImageRef]) -> Iterator[list[ImageRef]]:
    """Slices of one volume share its file and stand together."""
    for _, volume in groupby(images, key=lambda image: image.file):
        yield list(volume)


def _columns(images: Sequence[ImageRef]) -> dict[str, list[str]]:
    """Site, and every column of groups: the value of each image, "not stated" where there is none."""
    stated = [{"site": image.site} | dict(image.groups) for image in images]
    names = sorted({name for row in stated for name, value in row.items() if value is not None})
    columns = {name: [row.get(name) or "not stated" for row in stated] for name in names}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _titles(quality: Quality) -> list[dict[str, str]]:
    if isinstance(quality, Metrics):
        known = _GRADES if quality.grades else _CLASSES
        return [{"key": key, "title": title, "unit": ""} for key, title in known.items()]
    rows = [
        {"key": key, "title": title, "unit": quality.unit if key == "hd95" else ""}
        for key, title in _MASKS.items()
    ]
    if len(quality.regions) > 1:
        rows += [
            {"key": f"dice {region.name}", "title": f"Dice, {region.name}", "unit": ""}
            for region in quality.regions
        ]
    return rows


def _flat(quality: Quality) -> dict[str, object]:
    """The numbers of one model by key, with those of each region beside."""
    numbers = quality.to_json()
    regions = numbers.get("regions")
    if isinstance(regions, tuple | list):
        for region in regions:
            numbers |= {f"dice {region['name']}{end}": region[f"dice{end}"] for end in ("", "_interval")}
    return numbers
