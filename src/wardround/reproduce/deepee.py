"""deepee (Ziller et al. 2021): paediatric pneumonia, and masks of livers, with and without private training.

Masks were published on liver slices; ours are of whole volumes of whatever set is given. Their published loop is not
run again: its leak is that of pneumonia (`as_published.deepee`), and its epsilon is that of one slice. Ours promises to
a patient with all slices.
"""

from collections.abc import Mapping
from dataclasses import asdict

import torch

from wardround.accounting.mechanisms import group_epsilon
from wardround.errors import DataError
from wardround.reproduce import linear
from wardround.reproduce.accounting import uniform_sampling_gdp_epsilon
from wardround.reproduce.as_published import deepee as published
from wardround.reproduce.as_published.plain import Steps
from wardround.reproduce.as_published.statement import no_guarantee
from wardround.reproduce.linear import Group
from wardround.reproduce.loops import Cohort, Found, baselines_of, scores_of, together_body
from wardround.reproduce.repaired import repeated
from wardround.reproduce.request import Request
from wardround.reproduce.table import Origin, Row, Score, Table, beside

SOURCE = (
    "Ziller et al. 2021, Medical imaging deep learning with differential privacy, Scientific Reports 11, with the "
    "package deepee"
)
IMAGES, BATCH, EPOCHS, SIGMA, CLIP, DELTA = 4434, 32, 20, 3.0, 1.0, 1e-5
METRICS = (("auroc", "AUROC"), ("accuracy", "accuracy"), ("matthews", "Matthews"))
SETTING = "pneumonia"
MASKS, MASKS_LAYOUT = (("dice", "Dice"), ("surface_dice", "surface Dice")), "decathlon"
SLICE_MU = 0.0384
"""The mu (Gaussian DP) of one liver slice, by the published settings and the central limit approximation."""

OPEN, PRIVATE, HIGHER = (
    {key: Score(mean, deviation, 10) for (key, _), (mean, deviation) in zip(METRICS, numbers, strict=True)}
    for numbers in (
        ((0.961, 0.008), (0.899, 0.013), (0.788, 0.025)),
        ((0.848, 0.023), (0.777, 0.019), (0.513, 0.044)),
        ((0.883, 0.011), (0.805, 0.011), (0.578, 0.025)),
    )
)
NOTHING = no_guarantee("gradients are neither clipped nor noised.", "no", "the model")
NOTES = (
    "The published private rows were trained with the un-noised sum beside the noised mean, so they do not show what "
    "private training reaches. Class weights, staged unfreezing, learning-rate plateaus and augmentation are left out.",
)


def leak_body(cohort: Cohort, settings: Mapping[str, object], generator: torch.Generator) -> Found:
    """The published private arm, leak included."""
    published.train_leaking(
        cohort.model, cohort.together, Steps.from_json(settings), clipping_norm=CLIP, noise_multiplier=SIGMA,
        generator=generator,
    )  # fmt: skip
    return {"test": cohort.scores()}


def pneumonia(request: Request) -> Table:
    """Both published arms, and private rows whose promise is to a patient."""
    scale = request.scale
    side = scale.side("side of a picture, pixels", 224, least=64)
    model = request.network("vgg11_bn, pretrained, unfrozen in stages", "vgg11_gn")
    images = scale.count("training pictures", IMAGES, least=100, by=10 * scale.value)
    epochs = scale.count("epochs", EPOCHS)
    group = Group(SETTING, "deepee", {"count": 1}, request.pictures(side, images))
    plain = asdict(Steps(epochs, BATCH, 5e-4, optimizer="adam"))
    opens = linear.loops_of(request, group, "open", together_body, plain, model)
    leaks = linear.loops_of(request, group, "leak", leak_body, asdict(Steps(epochs, BATCH, 5e-3)), model)
    found = request.loops(opens | leaks)
    stated = uniform_sampling_gdp_epsilon(IMAGES, BATCH, SIGMA, EPOCHS * (IMAGES // BATCH), DELTA)
    claimed = f"epsilon {stated:.2f} at delta {DELTA:g} for one picture, by an approximation"
    open_scores, leak_scores = (scores_of([found[key] for key in loops], "test") for loops in (opens, leaks))
    leaking, higher = published.statement(), "an epsilon that is not stored"
    rows = [
        *beside(SETTING, "without privacy", OPEN, open_scores, NOTHING),
        *beside(SETTING, "private, sigma 3", PRIVATE, leak_scores, leaking, claimed),
        Row(SETTING, "private, a higher epsilon", Origin.PUBLISHED, HIGHER, leaking, higher),
    ]
    wanted = [linear.row(request, group, "without privacy", "open", linear.OPEN, linear.OPEN_SGD)]
    for epsilon in (round(stated, 2), 2.0, 8.0):
        pooled, promise = {**linear.SGD, "strategy": "pooled"}, linear.private(epsilon, DELTA)
        wanted.append(
            linear.row(request, group, f"private, epsilon {epsilon:g}", f"eps{epsilon:g}", promise, pooled)
        )
    return Table(
        "deepee-pneumonia", "deepee: paediatric pneumonia", SOURCE, request.sentence, METRICS,
        (*rows, *request.repaired(wanted)), scale.shrunk, notes=(*NOTES, linear.NOTE),
        baselines=baselines_of(list(found.values())),
    )  # fmt: skip


def segmentation(request: Request) -> Table:
    """The published Dice, and private rows at two epsilons on fixed features of every voxel.

    Raises:
        DataError: no set of volumes with masks is given; there are no phantoms of volumes.
    """
    if request.layout != MASKS_LAYOUT:
        raise DataError(
            f"deepee-segmentation must be given volumes with masks in the layout {MASKS_LAYOUT} (--data), got "
            f"{request.layout}: there are no phantoms of volumes. Give the folder of a Decathlon task."
        )
    scale = request.scale
    voxels = (40, 56, 40)
    shown = scale.said("pictures", "256 x 256 slices of livers in CT", f"volumes of {voxels} voxels")
    scale.said(
        "network", "U-Net on vgg11_bn, pretrained", "a head on fixed features of every voxel (voxel_features)"
    )
    rounds = scale.count("rounds of the repaired rows (200 in examples/hippocampus_private.toml)", 200, least=10)
    slices = group_epsilon(SLICE_MU, DELTA, 157)
    claimed = f"epsilon 0.12 at delta {DELTA:g} for one slice; a patient with 157 slices: {slices:.0f}, if it held"
    private = {"dice": Score(0.9428, 0.0020, 5)}
    rows = (
        Row("liver", "without privacy", Origin.PUBLISHED, {"dice": Score(0.9498, 0.0012, 5)}, NOTHING),
        Row("liver", "private, sigma 5", Origin.PUBLISHED, private, published.statement(), claimed),
    )
    sections: dict[str, Mapping[str, object]] = {
        "data": {
            "layout": MASKS_LAYOUT, "path": str(request.data), "volume_size": voxels, "spacing": (1.0, 1.0, 1.0),
            "test_fraction": 0.2,
        },
        "hospitals": {"count": 5},
        "model": {"name": "voxel_features", "width": 16},
        "federation": {
            "strategy": "fedsgd", "rounds": rounds, "learning_rate": 1.0, "momentum": 0.9, "average_last": 0.5,
            "evaluate_every": rounds,
        },
        "performance": request.performance,
    }  # fmt: skip
    promises: dict[str, Mapping[str, object]] = {"open": {"plan": "none"}} | {
        f"eps{epsilon:g}": {"plan": "dp-sgd", "epsilon": epsilon, "delta": DELTA, "clipping_norm": 0.1}
        for epsilon in (8.0, 2.0)
    }
    wanted = []
    for key, promise in promises.items():
        name = f"private, epsilon {promise['epsilon']:g}" if "epsilon" in promise else "without privacy"
        own = {**sections, "privacy": {**promise, "sampling_prob": 0.1}}
        wanted.append(repeated("volumes", name, f"masks-{key}", own, request.repeats))
    return Table(
        "deepee-segmentation", "deepee: masks of an organ", SOURCE, request.sentence, MASKS,
        (*rows, *request.repaired(wanted)), scale.shrunk,
        notes=(f"Published on livers, ours on {shown} of the given set: the Dice of the two are not to be compared.",),
    )  # fmt: skip
