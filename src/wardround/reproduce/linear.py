"""The repaired rows that every classification shares: a private linear head on fixed public features.

With a few thousand patients it beats every network trained privately from scratch (Tramèr and Boneh 2021,
https://arxiv.org/abs/2011.11660), and it is small enough for hospitals of 200 pictures. Step size, clipping norm and
rounds of the private rows are those of the first example on chest X-rays, fixed before these tables were made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wardround.reproduce.loops import Body, Loop, repeated_loops
from wardround.reproduce.repaired import Repaired, Sections, repeated
from wardround.reproduce.request import Request

NOTE = (
    "Repaired rows are a linear head on fixed features of edges (network 'features'); a patient counts once with all "
    "images, and noise lies on sums that are divided by a public constant. Settings were fixed before this table was "
    "made and nothing in it was chosen by its test patients; how they were found earlier is part of no epsilon here."
)
METRICS = (("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy"), ("auroc", "AUROC"))
Section = Mapping[str, object]

MODEL: Section = {"name": "features"}
SGD: Section = {"strategy": "fedsgd", "rounds": 60, "learning_rate": 24.0, "momentum": 0.9, "evaluate_every": 60}
OPEN: Section = {"plan": "none"}
OPEN_SGD: Section = {**SGD, "rounds": 200, "learning_rate": 5.0, "evaluate_every": 200}
RING: Section = {"strategy": "single-pass", "local_steps": 60, "learning_rate": 24.0, "momentum": 0.9}
AVERAGING: Section = {"strategy": "fedavg", "rounds": 1, "local_steps": 20, "learning_rate": 5.0, "momentum": 0.9}


@dataclass(frozen=True)
class Group:
    """Some hospitals and their pictures, as sections of a study; run folders of it begin with `key`."""

    setting: str
    key: str
    hospitals: Section
    data: Section


def private(epsilon: float, delta: float, **keys: object) -> Section:
    """The `[privacy]` section of a promise to each patient."""
    return {"plan": "dp-sgd", "epsilon": epsilon, "delta": delta, "clipping_norm": 0.25} | keys


def row(
    request: Request,
    group: Group,
    name: str,
    key: str,
    privacy: Section,
    federation: Section,
) -> Repaired:
    """One repaired row of a group."""
    sections: Sections = {
        "data": group.data, "hospitals": group.hospitals, "model": MODEL, "privacy": privacy,
        "federation": federation, "performance": request.performance,
    }  # fmt: skip
    return repeated(group.setting, name, f"{group.key}-{key}", sections, request.repeats)


def loops_of(
    request: Request, group: Group, key: str, body: Body, settings: Mapping[str, object], model: Section
) -> dict[str, Loop]:
    """The repeats of one published loop over a group's pictures."""
    sections = {
        "data": group.data, "hospitals": group.hospitals, "model": model, "privacy": {"plan": "none"},
        "performance": request.performance,
    }  # fmt: skip
    return repeated_loops(f"{group.key}-{key}", sections, body, settings, request.repeats)


def rows(request: Request, group: Group, epsilons: Sequence[float], delta: float) -> list[Repaired]:
    """Together, in a ring and alone, without privacy and at each epsilon; and one promise to whole hospitals."""
    found = [
        row(request, group, "together (fedsgd)", "fedsgd-open", OPEN, OPEN_SGD),
        row(request, group, "alone", "alone-open", OPEN, {**OPEN_SGD, "strategy": "alone"}),
    ]
    for epsilon in epsilons:
        promise, at = private(epsilon, delta), f"epsilon {epsilon:g}"
        found += [
            row(request, group, f"together (fedsgd), {at}", f"fedsgd-eps{epsilon:g}", promise, SGD),
            row(
                request, group, f"the ring, {at}", f"ring-eps{epsilon:g}",
                private(epsilon, delta, trust="nobody"), RING,
            ),
        ]  # fmt: skip
    largest = max(epsilons)
    whole = {"plan": "clipped-update", "epsilon": largest, "delta": delta, "clipping_norm": 10.0}
    return [
        *found,
        row(
            request, group, f"alone, epsilon {largest:g}", f"alone-eps{largest:g}",
            private(largest, delta), {**SGD, "strategy": "alone"},
        ),
        row(
            request, group, f"averaging, a hospital at epsilon {largest:g}", f"hospital-eps{largest:g}",
            whole, AVERAGING,
        ),
    ]  # fmt: skip
