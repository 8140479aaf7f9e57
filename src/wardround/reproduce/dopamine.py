"""Dopamine (Malekzadeh et al. 2021), Figure 1: five ways to train on ten hospitals' retinas, by epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wardround.accounting.statement import Statement
from wardround.records.folder import RunRecord
from wardround.reproduce.as_published import dopamine as published
from wardround.reproduce.as_published.statement import no_guarantee
from wardround.reproduce.loops import Cohort, Found, baselines_of, repeated_loops, scores_of
from wardround.reproduce.repaired import Repaired, repeated
from wardround.reproduce.request import Request
from wardround.reproduce.table import Figure, Origin, Row, Score, Series, Table

SOURCE = (
    "Malekzadeh et al. 2021, Dopamine: Differentially Private Federated Learning on Medical Data, arXiv 2101.11693"
)
K, PATIENTS, DELTA, CLIP, MOMENTUM, EPOCHS = 10, 2931, 1e-4, 2.0, 0.9, 100
CENTRAL_Q, OWN_Q, UNION_Q = 50 / 2931, 50 / 293, 0.03425
LOOKS = 20
AT = (2, 20, 50, 100)
FIGURE_1: Mapping[str, tuple[float, ...]] = {
    "C": (0.707, 0.776, 0.771, 0.773),
    "F": (0.708, 0.759, 0.778, 0.787),
    "CDP": (0.680, 0.723, 0.732, 0.744),
    "FPDP": (0.670, 0.719, 0.724, 0.734),
    "Dopamine": (0.680, 0.725, 0.730, 0.740),
}
"""Accuracy at epochs 2, 20, 50 and 100, read off the figure (± 0.001)."""
CLAIMED = {"CDP": 9.1, "FPDP": 19.05, "Dopamine": 10.85}
NAMES = {
    "C": "C: pooled, no privacy",
    "F": "F: federated averaging, no privacy",
    "CDP": "CDP: pooled, private",
    "FPDP": "FPDP: each hospital private by itself",
    "Dopamine": "Dopamine: shares of noise in one sum",
}
METRICS = (("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy"), ("quadratic_kappa", "kappa"))
SETTING = "last epoch"


def body(cohort: Cohort, settings: Mapping[str, object], generator: torch.Generator) -> Found:
    """Algorithm 1 as published, looked at LOOKS times."""
    chosen = published.Settings(**{key: settings[key] for key in published.Settings.__annotations__})  # type: ignore[arg-type]
    every = max(1, chosen.rounds // LOOKS)
    found: Found = {}
    for round in published.rounds(cohort.model, cohort.hospitals, chosen, generator):
        if round % every == 0 or round == chosen.rounds:
            found[str(round)] = cohort.scores()
    return found | {"last": cohort.scores()}


def figure_1(request: Request) -> Table:
    """All five methods as studies with the mistakes repaired, and Dopamine as published."""
    scale = request.scale
    rounds = scale.count("rounds of Dopamine", 3001, least=20)
    steps = scale.count("steps of CDP", 5800, least=20)
    averages = scale.count("rounds of F and FPDP", EPOCHS, least=2)
    model = scale.said("network", "squeezenet, pretrained", "squeezenet" if scale.value >= 1 else "small_cnn")
    rate = scale.said("learning rate", 0.002, 0.002 if scale.value >= 1 else 0.05)
    side = scale.side("side of a picture, pixels", 224, least=32)
    patients = scale.count("patients", PATIENTS, least=100) if request.data is None else PATIENTS
    settings = published.Settings(rounds, UNION_Q, 1.15, CLIP, rate, MOMENTUM, DELTA)
    sections: dict[str, Mapping[str, object]] = {
        "data": request.pictures(side, round(patients * 1.5), test_fraction=0.2),
        "hospitals": {"count": K, "scheme": "even"},
        "model": {"name": model},
        "performance": request.performance,
        "privacy": {"plan": "none"},
    }
    loops = repeated_loops("dopamine", sections, body, asdict(settings), request.repeats)
    found = list(request.loops(loops).values())
    wanted = _studies(request, sections, rounds, steps, averages, rate)
    repaired = {row.name: row for row in request.repaired(list(wanted.values()))}
    rows: list[Row] = []
    for key, accuracies in FIGURE_1.items():
        claimed = f"epsilon {CLAIMED[key]:g} at delta {DELTA:g}" if key in CLAIMED else ""
        last = {"accuracy": Score(accuracies[-1])}
        rows.append(Row(SETTING, NAMES[key], Origin.PUBLISHED, last, _published(key), claimed))
        if key == "Dopamine":
            ours, statement = scores_of(found, "last"), published.statement(K)
            stated = f"epsilon {published.stated_epsilon(settings):.3g} at delta {DELTA:g}"
            rows.append(Row(SETTING, NAMES[key], Origin.AS_PUBLISHED, ours, statement, stated))
        rows.append(repaired[wanted[key].name])
    return Table(
        "dopamine-fig1", "Dopamine, Figure 1: accuracy by epoch", SOURCE, request.sentence, METRICS, tuple(rows),
        scale.shrunk, notes=_notes(settings), figure=_figure(request, wanted, found, rounds),
        baselines=baselines_of(found),
    )  # fmt: skip


def _studies(
    request: Request,
    sections: Mapping[str, Mapping[str, object]],
    rounds: int,
    steps: int,
    averages: int,
    rate: float,
) -> dict[str, Repaired]:
    """The five methods, each from one study file's worth of settings."""
    dp: dict[str, object] = {"plan": "dp-sgd", "delta": DELTA, "clipping_norm": CLIP}
    none: dict[str, object] = {"plan": "none"}
    sgd = {"learning_rate": rate, "momentum": MOMENTUM}
    pooled = {"strategy": "pooled", "rounds": steps, "evaluate_every": max(1, steps // LOOKS)} | sgd
    averaging = {
        "strategy": "fedavg", "rounds": averages, "local_epochs": 5, "fraction": 0.5,
        "evaluate_every": max(1, averages // LOOKS),
    } | sgd  # fmt: skip
    union = {"strategy": "fedsgd", "rounds": rounds, "evaluate_every": max(1, rounds // LOOKS)} | sgd
    chosen = {
        "C": (none | {"sampling_prob": CENTRAL_Q}, pooled),
        "F": (none | {"sampling_prob": OWN_Q}, averaging),
        "CDP": (dp | {"noise_multiplier": 1.0, "sampling_prob": CENTRAL_Q}, pooled),
        "FPDP": (dp | {"noise_multiplier": 2.0, "sampling_prob": OWN_Q, "trust": "nobody"}, averaging),
        "Dopamine": (dp | {"noise_multiplier": 1.15, "sampling_prob": UNION_Q}, union),
    }
    return {
        key: repeated(
            SETTING, f"{NAMES[key]}, repaired" if key in CLAIMED else NAMES[key], f"dopamine-{key.lower()}",
            {**sections, "privacy": privacy, "federation": federation}, request.repeats,
        )
        for key, (privacy, federation) in chosen.items()
    }  # fmt: skip


def _published(key: str) -> Statement:
    if key in ("C", "F"):
        return no_guarantee("gradients are neither clipped nor noised.", "no", "the model")
    if key == "Dopamine":
        return published.statement(K)
    reason = (
        "as run, noised sums were divided by the number of records that were drawn; what the accountant describes is a "
        "sum divided by a constant."
    )
    return no_guarantee(reason, "Gaussian on means over drawn batches", "the model of every step")


def _notes(settings: published.Settings) -> tuple[str, ...]:
    indicated = published.indicated_epsilon(settings, PATIENTS // K, K)
    return (
        f"Stated for the published loop with these rounds: epsilon {published.stated_epsilon(settings):.2f} at delta "
        f"{DELTA:g}; composed over the batches it really divides by, about {indicated:.1f} (an indication, no bound); "
        f"an accountant that starts anew every round would go on saying {published.reset_epsilon(settings):.2f}.",
        "Repaired: noise in shares of one sum for at most one colluding hospital, noise on empty draws too, division "
        "by a public constant, momentum at the server. Published numbers are read off the figure.",
    )


def _figure(request: Request, wanted: Mapping[str, Repaired], found: Sequence[Found], rounds: int) -> Figure:
    series = [
        Series(f"{key} (published)", Origin.PUBLISHED, tuple(map(float, AT)), accuracies)
        for key, accuracies in FIGURE_1.items()
    ]
    looks = sorted(int(key) for key in found[0] if key.isdigit())
    means = [Score.of([one[str(look)]["accuracy"] for one in found]).mean for look in looks]
    x = tuple(EPOCHS * look / rounds for look in looks)
    series.append(Series("Dopamine (ours, as published)", Origin.AS_PUBLISHED, x, tuple(means)))
    for key, repaired in wanted.items():
        record = RunRecord.read(Path(request.out) / "runs" / next(iter(repaired.studies)))
        points: list[Any] = [(look["round"], look["metrics"]) for look in record.rounds if look.get("metrics")]
        last = max((number for number, _ in points), default=1)
        origin = Origin.REPAIRED if key in CLAIMED else Origin.OPEN
        xs = tuple(EPOCHS * number / last for number, _ in points)
        ys = tuple(float(metrics.get("accuracy") or math.nan) for _, metrics in points)
        if xs:
            series.append(Series(f"{key} (ours)", origin, xs, ys))
    return Figure("epoch (share of the training x 100)", "accuracy on the test patients", tuple(series))
