"""Yuan et al. 2019: a ring over hospitals, noised weights, and what collaboration gains (Table I and Figure 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from wardround.reproduce import linear
from wardround.reproduce.as_published import yuan as published
from wardround.reproduce.as_published.plain import Steps, put_weights, train, weights_of
from wardround.reproduce.linear import Group
from wardround.reproduce.loops import Cohort, Found, baselines_of, scores_of
from wardround.reproduce.request import Request
from wardround.reproduce.table import Figure, Origin, Row, Score, Table, beside, by_setting

SOURCE = (
    "Yuan, Zhu, Wei and Ma 2019, Collaborative Deep Learning for Medical Image Analysis with Differential Privacy, "
    "IEEE GLOBECOM"
)
GROUPS = ((5, 1000), (10, 500), (15, 300), (20, 200))
"""Hospitals, and pictures of each."""
DELTA = 1e-5
TABLE_1: Mapping[float | None, tuple[float, ...]] = {
    None: (0.92, 0.90, 0.88, 0.85),
    8.0: (0.90, 0.89, 0.87, 0.84),
    2.0: (0.88, 0.87, 0.84, 0.82),
    0.5: (0.87, 0.85, 0.82, 0.79),
}
"""Accuracy by the epsilon that was claimed (None: no noise), one number a group."""
ALONE = {2: 0.72, 3: 0.66}
"""Accuracy of a hospital alone, in the text of Figure 4: of the third group and of the fourth."""
BEFORE, UPLOADED = "before its noise", "as uploaded"
CHOICES = (
    "Not published, and fixed by us: batches of 32, Adam with learning rate 0.001, slope 0.01 of LeakyReLU, one grey "
    "channel. (Plain steps with momentum overflow as soon as a hospital starts from noised weights.)"
)
BOTH = (
    "The ring as published is measured twice: its last model before that hospital's noise, the only reading that could "
    "give the published accuracies, and the model that was really uploaded."
)
RELEASES = (
    "Each row is a release of its own: its epsilon covers its own run. A party that released several rows made on the "
    "same patients would have to compose them."
)
_ORDER = (
    "Published without numbers: DenseNet-121 better than VGG-16 better than AlexNet, each alone on 1000 pictures, and "
    "the ring with AlexNet no worse than any of them."
)
EPOCHS, BATCH, RATE = 40, 32, 0.001


def ring_body(cohort: Cohort, settings: Mapping[str, object], generator: torch.Generator) -> Found:
    """The ring as published, its last model measured before and after the noise."""
    sigma = float(str(settings["sigma"]))
    last = None
    for visit in published.ring(cohort.model, cohort.hospitals, Steps.from_json(settings), sigma, generator):
        last = visit
    assert last is not None, "a ring has hospitals"
    found = {UPLOADED: cohort.scores()}
    put_weights(cohort.model, last.trained)
    return found | {BEFORE: cohort.scores()}


def alone_body(cohort: Cohort, settings: Mapping[str, object], generator: torch.Generator) -> Found:
    """Every hospital trains by itself, from the same first weights; the mean of all."""
    first, found = weights_of(cohort.model), []
    for data in cohort.hospitals:
        put_weights(cohort.model, first)
        train(cohort.model, data, Steps.from_json(settings), generator)
        found.append(cohort.scores())
    keys = [key for key in found[0] if all(key in one for one in found)]
    return {"alone": {key: sum(one[key] for one in found) / len(found) for key in keys}}


def first_body(cohort: Cohort, settings: Mapping[str, object], generator: torch.Generator) -> Found:
    """The first hospital alone."""
    train(cohort.model, cohort.hospitals[0], Steps.from_json(settings), generator)
    return {"first": cohort.scores()}


def table_1(request: Request) -> Table:
    """Accuracy of the ring by group and noise; ours before and after the noise, and repaired."""
    noises = tuple(TABLE_1)
    title = "Yuan et al., Table I: accuracy of the ring by group and noise"
    return _table(request, "yuan-table1", title, noises, epsilons=(8.0, 2.0, 0.5), notes=(CHOICES, BOTH))


def figure_4(request: Request) -> Table:
    """Hospitals alone beside hospitals together, without privacy and with a promise to each patient."""
    title = "Yuan et al., Figure 4: hospitals alone and together"
    return _table(request, "yuan-fig4", title, (None,), epsilons=(8.0,), notes=(CHOICES,))


def figure_5(request: Request) -> Table:
    """Larger networks of one hospital alone, beside the ring of five with the small one; the source has no numbers."""
    scale = request.scale
    group, steps = group_of(request, 0), asdict(steps_of(request))
    vgg = scale.said("network 'VGG-16'", "vgg16", "vgg16" if scale.value >= 1 else "vgg11_gn")
    singles: dict[str, Mapping[str, object]] = {
        "AlexNet": alexnet_of(request),
        "VGG-16": {"name": vgg},
        "DenseNet-121": {"name": "densenet121"},
    }
    loops = {
        name: linear.loops_of(request, group, f"first-{model['name']}", first_body, steps, model)
        for name, model in singles.items()
    }
    together = linear.loops_of(
        request, group, "ring-0.000", ring_body, steps | {"sigma": 0.0}, alexnet_of(request)
    )
    found = request.loops(together | {name: loop for some in loops.values() for name, loop in some.items()})
    open_statement = published.statement(GROUPS[0][0], 0.0)
    ring = scores_of([found[name] for name in together], UPLOADED)
    rows = [
        Row("one of 5", f"{name} alone", Origin.AS_PUBLISHED, scores_of([found[key] for key in loops[name]], "first"),
            published.statement_alone())
        for name in singles
    ] + [
        *beside("5 x 1000", "AlexNet, ring", {"accuracy": Score(TABLE_1[None][0])}, ring, open_statement)
    ]  # fmt: skip
    repaired = request.repaired(linear.rows(request, group, (8.0,), DELTA))
    return Table(
        "yuan-fig5", "Yuan et al., Figure 5: larger networks alone, a small one together", SOURCE, request.sentence,
        linear.METRICS, (*rows, *repaired), scale.shrunk, notes=(_ORDER, CHOICES, linear.NOTE, RELEASES),
        baselines=baselines_of(list(found.values())),
    )  # fmt: skip


def group_of(request: Request, number: int) -> Group:
    """One of the four groups, shrunk."""
    count, images = GROUPS[number]
    used = request.scale.count(
        f"images a hospital, {count} x {images}", images, least=20, by=10 * request.scale.value
    )
    return Group(
        setting=f"{count} x {images}",
        key=f"g{number + 1}",
        hospitals={"count": count, "scheme": "images", "images": used},
        data=request.pictures(side_of(request), count * used, test="stratified"),  # exact, as its hospitals are
    )


def side_of(request: Request) -> int:
    """Side of a picture; the published patches of large pictures are not taken."""
    side = request.scale.side("side of a picture, pixels", 224, least=64)
    request.scale.said(
        "what a picture shows", "a random 224 x 224 patch of 944 x 640", f"the whole, {side} x {side}"
    )
    return side


def steps_of(request: Request) -> Steps:
    """The local training: published epochs, and what is not published fixed by us."""
    return Steps(request.scale.count("local epochs", EPOCHS), BATCH, RATE, optimizer="adam")


def alexnet_of(request: Request) -> dict[str, object]:
    """The `[model]` section of the published network."""
    name, scale = "channels of AlexNet's first layer (all others with it)", request.scale
    width = scale.count(name, 96, least=12, by=scale.value / 2)
    return {"name": "alexnet", "width": width}


def _table(
    request: Request,
    name: str,
    title: str,
    noises: Sequence[float | None],
    *,
    epsilons: Sequence[float],
    notes: tuple[str, ...],
) -> Table:
    groups = [group_of(request, number) for number in range(len(GROUPS))]
    steps, model = asdict(steps_of(request)), alexnet_of(request)
    rings = {
        (group.key, epsilon): linear.loops_of(
            request, group, f"ring-{_sigma(epsilon):.3f}", ring_body, steps | {"sigma": _sigma(epsilon)}, model
        )
        for group in groups
        for epsilon in noises
    }
    singles = {group.key: linear.loops_of(request, group, "alone", alone_body, steps, model) for group in groups}
    found = request.loops(
        {name: loop for some in [*rings.values(), *singles.values()] for name, loop in some.items()}
    )
    wanted = [row for group in groups for row in linear.rows(request, group, epsilons, DELTA)]
    repaired = request.repaired(wanted)
    rows: list[Row] = []
    for number, group in enumerate(groups):
        for epsilon in noises:
            ring = [found[key] for key in rings[group.key, epsilon]]
            rows += _ring_rows(number, group, epsilon, ring)
        rows += _alone_rows(number, group, [found[key] for key in singles[group.key]])
        rows += [row for row in repaired if row.setting == group.setting]
    return Table(
        name, title, SOURCE, request.sentence, linear.METRICS, tuple(rows), request.scale.shrunk,
        notes=(*notes, linear.NOTE, RELEASES), figure=_figure(rows), baselines=baselines_of(list(found.values())),
    )  # fmt: skip


def _figure(rows: Sequence[Row]) -> Figure:
    """Accuracy over the groups; uploaded models and the repaired ring stay in the table, for the drawing's sake."""
    shown = [
        row for row in rows if UPLOADED not in row.name and not row.name.startswith(("the ring", "averaging"))
    ]
    return by_setting(shown, *linear.METRICS[0])


def _sigma(epsilon: float | None) -> float:
    return 0.0 if epsilon is None else published.sigma_of(epsilon, DELTA)


def _ring_rows(number: int, group: Group, epsilon: float | None, found: Sequence[Found]) -> list[Row]:
    sigma = _sigma(epsilon)
    name = "ring, no noise" if epsilon is None else f"ring, sigma {sigma:.3f}"
    claimed = "" if epsilon is None else f"epsilon {epsilon:g} at delta {DELTA:g}"
    statement = published.statement(GROUPS[number][0], sigma)
    accuracy = {"accuracy": Score(TABLE_1[epsilon][number])}
    rows = [Row(group.setting, name, Origin.PUBLISHED, accuracy, statement, claimed)]
    if epsilon is None:
        return beside(group.setting, name, accuracy, scores_of(found, UPLOADED), statement)
    return rows + [
        Row(group.setting, f"{name}, {what}", Origin.AS_PUBLISHED, scores_of(found, what), statement, claimed)
        for what in (BEFORE, UPLOADED)
    ]


def _alone_rows(number: int, group: Group, found: Sequence[Found]) -> list[Row]:
    statement = published.statement_alone()
    ours = scores_of(found, "alone")
    if number in ALONE:
        return beside(group.setting, "alone", {"accuracy": Score(ALONE[number])}, ours, statement)
    return [Row(group.setting, "alone", Origin.AS_PUBLISHED, ours, statement)]
