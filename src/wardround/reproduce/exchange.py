"""The five ways of exchanging a model, and both sums of gradients and weights, over numbers of hospitals.

Darzidehkalani and van Ooijen (poster) and Darzi, Sijtsema and van Ooijen 2024, Scientific Reports 14: federated
averaging, summed gradients, ensembles, and single (SWT), cyclical (CWT) and stochastic (STWT) weight transfer. Their
tables could not be read here; what is said of them in words stands as notes, and the one pair of published numbers is
that of the transfer's origin, Chang et al. 2018, JAMIA 25.
"""

from collections.abc import Mapping

from wardround.reproduce import linear
from wardround.reproduce.as_published.statement import no_guarantee
from wardround.reproduce.linear import Group
from wardround.reproduce.repaired import Repaired
from wardround.reproduce.request import Request
from wardround.reproduce.table import Origin, Row, Score, Table

COUNTS = (2, 5, 10, 20)
EPSILON, DELTA = 8.0, 1e-5
CYCLES, STEPS = 5, 12
IMAGES = 5000
METRICS = (("auroc", "AUROC"), ("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy"))
NOTES = (
    "Published in words: cyclical transfer did best, above all with few hospitals (Darzi et al. 2024), and more "
    "frequent transfer is better (Chang et al. 2018).",
    "Every method gets the same number of steps and, in its private row, the same epsilon for each patient. Sums of "
    "gradients need trust in enough hospitals (secure aggregation); the others' private rows trust nobody.",
)


def comparison(request: Request) -> Table:
    """Every method at every number of hospitals, without privacy and at one epsilon."""
    images = request.scale.count("images in all hospitals", IMAGES, least=200, by=request.scale.value * 10)
    side = request.scale.side("side of a picture, pixels", 224, least=32)
    wanted = [row for count in COUNTS for row in _rows(request, _group(request, count, side, images))]
    rows = (*_published(), *request.repaired(wanted))
    return Table(
        "exchange-comparison", "Ways of exchanging a model, over numbers of hospitals",
        "Darzidehkalani and van Ooijen (poster); Darzi, Sijtsema and van Ooijen 2024, Scientific Reports 14",
        request.sentence, METRICS, rows, request.scale.shrunk, notes=(*NOTES, linear.NOTE),
    )  # fmt: skip


def _group(request: Request, count: int, side: int, images: int) -> Group:
    return Group(
        f"{count} hospitals", f"k{count}", {"count": count, "scheme": "even"}, request.pictures(side, images)
    )


def _rows(request: Request, group: Group) -> list[Repaired]:
    def local(strategy: str, rate: float, **keys: object) -> linear.Section:
        return {"strategy": strategy, "local_steps": STEPS, "learning_rate": rate, "momentum": 0.9} | keys

    def methods(sgd: linear.Section, rate: float) -> Mapping[str, linear.Section]:
        visits = CYCLES * int(str(group.hospitals["count"]))
        return {
            "fedsgd": sgd,
            "fedavg": local("fedavg", rate, rounds=CYCLES, evaluate_every=CYCLES),
            "ensemble": {**sgd, "strategy": "ensemble"},
            "single transfer (SWT)": local("single-pass", rate, local_steps=CYCLES * STEPS),
            "cyclical transfer (CWT)": local("round-robin", rate, cycles=CYCLES, evaluate_every=visits),
            "stochastic transfer (STWT)": local("stochastic", rate, rounds=visits, evaluate_every=visits),
        }

    found = []
    steps = {"rounds": CYCLES * STEPS, "evaluate_every": CYCLES * STEPS}
    for name, federation in methods({**linear.OPEN_SGD, **steps}, 5.0).items():
        found.append(linear.row(request, group, name, f"{federation['strategy']}-open", linear.OPEN, federation))
    for name, federation in methods({**linear.SGD, **steps}, 24.0).items():
        trust = {} if federation["strategy"] in ("fedsgd", "ensemble") else {"trust": "nobody"}
        promise = linear.private(EPSILON, DELTA, **trust)
        key = f"{federation['strategy']}-eps{EPSILON:g}"
        found.append(linear.row(request, group, f"{name}, epsilon {EPSILON:g}", key, promise, federation))
    return found


def _published() -> list[Row]:
    reason = "models and weights are exchanged as they are, without clipping or noise."
    statement = no_guarantee(reason, "no", "models", 4)
    return [
        Row("4 institutions, retinas", name, Origin.PUBLISHED, {"accuracy": Score(accuracy)}, statement)
        for name, accuracy in (("pooled", 0.787), ("cyclical transfer (CWT)", 0.773))
    ]
