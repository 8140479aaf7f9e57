"""deepee (Ziller et al. 2021): paediatric pneumonia with and without private training."""

from collections.abc import Mapping
from dataclasses import asdict

import torch

from wardround.reproduce import linear
from wardround.reproduce.accounting import uniform_sampling_gdp_epsilon
from wardround.reproduce.as_published import deepee as published
from wardround.reproduce.as_published.plain import Steps
from wardround.reproduce.as_published.statement import no_guarantee
from wardround.reproduce.cohort import Cohort
from wardround.reproduce.linear import Group
from wardround.reproduce.loops import Found, baselines_of, repeated_loops, scores_of, together_body
from wardround.reproduce.request import Request
from wardround.reproduce.table import Origin, Row, Score, Table

SOURCE = (
    "Ziller et al. 2021, Medical imaging deep learning with differential privacy, Scientific Reports 11, with the "
    "package deepee"
)
IMAGES, BATCH, EPOCHS, SIGMA, CLIP, DELTA = 4434, 32, 20, 3.0, 1.0, 1e-5
METRICS = (("auroc", "AUROC"), ("accuracy", "accuracy"), ("matthews", "Matthews"))
SETTING = "pneumonia"
OPEN = {"auroc": Score(0.961, 0.008, 10), "accuracy": Score(0.899, 0.013, 10), "matthews": Score(0.788, 0.025, 10)}
PRIVATE = {
    "auroc": Score(0.848, 0.023, 10),
    "accuracy": Score(0.777, 0.019, 10),
    "matthews": Score(0.513, 0.044, 10),
}
HIGHER = {
    "auroc": Score(0.883, 0.011, 10),
    "accuracy": Score(0.805, 0.011, 10),
    "matthews": Score(0.578, 0.025, 10),
}
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
    network = "vgg11_bn, pretrained, unfrozen in stages"
    name = scale.said("network", network, "vgg11_gn" if scale.value >= 1 else "alexnet of width 12")
    model: dict[str, object] = {"name": name} if scale.value >= 1 else {"name": "alexnet", "width": 12}
    images = scale.count("training pictures", IMAGES, least=100, by=10 * scale.value)
    epochs = scale.count("epochs", EPOCHS)
    group = Group(SETTING, "deepee", {"count": 1}, request.pictures(side, images))
    sections = {
        "data": group.data, "hospitals": group.hospitals, "model": model, "privacy": {"plan": "none"},
        "performance": request.performance,
    }  # fmt: skip
    plain = asdict(Steps(epochs, BATCH, 5e-4, optimizer="adam"))
    leak = asdict(Steps(epochs, BATCH, 5e-3))
    opens = repeated_loops("deepee-open", sections, together_body, plain, request.repeats)
    leaks = repeated_loops("deepee-leak", sections, leak_body, leak, request.repeats)
    found = request.loops(opens | leaks)
    stated = uniform_sampling_gdp_epsilon(IMAGES, BATCH, SIGMA, EPOCHS * (IMAGES // BATCH), DELTA)
    claimed = f"epsilon {stated:.2f} at delta {DELTA:g} for one picture, by an approximation"
    nothing = no_guarantee("gradients are neither clipped nor noised.", "no", "the model")
    leaking, ours = published.statement(), Origin.AS_PUBLISHED
    rows = [
        Row(SETTING, "without privacy", Origin.PUBLISHED, OPEN, nothing),
        Row(SETTING, "without privacy", ours, scores_of([found[key] for key in opens], "test"), nothing),
        Row(SETTING, "private, sigma 3", Origin.PUBLISHED, PRIVATE, leaking, claimed),
        Row(
            SETTING,
            "private, a higher epsilon",
            Origin.PUBLISHED,
            HIGHER,
            leaking,
            "an epsilon that is not stored",
        ),
        Row(SETTING, "private, sigma 3", ours, scores_of([found[key] for key in leaks], "test"), leaking, claimed),
    ]
    wanted = [linear.row(request, group, "without privacy", "open", linear.OPEN, linear.OPEN_SGD)]
    for epsilon in (round(stated, 2), 2.0, 8.0):
        pooled = {**linear.SGD, "strategy": "pooled"}
        promise = linear.private(epsilon, DELTA)
        wanted.append(
            linear.row(request, group, f"private, epsilon {epsilon:g}", f"eps{epsilon:g}", promise, pooled)
        )
    return Table(
        "deepee-pneumonia", "deepee: paediatric pneumonia", SOURCE, request.sentence, METRICS,
        (*rows, *request.repaired(wanted)), scale.shrunk, notes=(*NOTES, linear.NOTE),
        baselines=baselines_of(list(found.values())),
    )  # fmt: skip
