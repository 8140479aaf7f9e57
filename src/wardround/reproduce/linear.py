"""The repaired rows that every classification shares: a private linear head on fixed public features.

With a few thousand patients it beats every network trained privately from scratch (Tramèr and Boneh 2021,
https://arxiv.org/abs/2011.11660), and it is small enough for hospitals of 200 pictures. Step size, clipping norm and
rounds of the private rows are those of `examples/chest_xray.toml`, fixed before these tables were made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wardround.reproduce.repaired import Repaired, Sections, repeated
from wardround.reproduce.request import Request

NOTE = (
    "Repaired rows are a linear head on fixed features of edges (network 'features'); a patient counts once with all "
    "images, and noise lies on sums that are divided by a public constant. Settings were fixed before this table was "
    "made and nothing in it was chosen by its test patients; how they were found earlier is part of no epsilon here."
)
Section = Mapping[str, object]

MODEL: Section = {"name": "features"}
SGD: Section = {"strategy": "fedsgd", "rounds": 60, "learning_rate": 24.0, "momentum": 0.9, "evaluate_every": 60}
OPEN: Section = {"plan": "none"}
OPEN_SGD: Section = {
    "strategy": "fedsgd",
    "rounds": 200,
    "learning_rate": 5.0,
    "momentum": 0.9,
    "evaluate_every": 200,
}
RING: Section = {"strategy": "single-pass", "local_steps": 60, "learning_rate": 24.0, "momentum": 0.9}
AVERAGING: Section = {
    "strategy": "fedavg", "rounds": 1, "local_steps": 20, "learning_rate": 5.0, "momentum": 0.9
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Some hospitals and their pictures.

    Attributes:
        setting: what rows of it are called.
        key: what run folders of it begin with.
        hospitals: the `[hospitals]` section.
        data: the `[data]` section.
    """

    setting: str
    key: str
    hospitals: Section
    data: Section


def private(epsilon: float, delta: float, **keys: object) -> Section:
    """The `[privacy]` section of a promise to each patient."""
    return {"plan": "dp-sgd", "epsilon": epsilon, "delta": delta, "clipping_norm": 0.25} | keys


def hospital_level(epsilon: float, delta: float) -> Section:
    """The `[privacy]` section of a promise to each hospital, patients and all."""
    return {"plan": "clipped-update", "epsilon": epsilon, "delta": delta, "clipping_norm": 10.0}


def alone(federation: Section) -> Section:
    """The same steps, every hospital by itself."""
    return {**federation, "strategy": "alone"}


def row(
    request: Request,
    group: Group,
    name: str,
    key: str,
    privacy: Section,
    federation: Section,
    model: Section = MODEL,
) -> Repaired:
    """One repaired row of a group."""
    sections: Sections = {
        "data": group.data, "hospitals": group.hospitals, "model": model, "privacy": privacy,
        "federation": federation, "performance": request.performance,
    }  # fmt: skip
    return repeated(group.setting, name, f"{group.key}-{key}", sections, request.repeats)


def rows(request: Request, group: Group, epsilons: Sequence[float], delta: float) -> list[Repaired]:
    """Together, in a ring and alone, without privacy and at each epsilon; and one promise to whole hospitals."""
    found = [
        row(request, group, "together (fedsgd)", "fedsgd-open", OPEN, OPEN_SGD),
        row(request, group, "alone", "alone-open", OPEN, alone(OPEN_SGD)),
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
    found += [
        row(
            request, group, f"alone, epsilon {largest:g}", f"alone-eps{largest:g}",
            private(largest, delta), alone(SGD),
        ),
        row(
            request, group, f"averaging, a hospital at epsilon {largest:g}", f"hospital-eps{largest:g}",
            hospital_level(largest, delta), AVERAGING,
        ),
    ]  # fmt: skip
    return found
