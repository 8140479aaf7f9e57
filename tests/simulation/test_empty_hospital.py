"""A hospital without patients takes part as any other: it answers, adds its noise, is charged, and nobody can tell."""

from typing import Any

import pytest
from tests.cases import family

from wardround.coordinator.observer import Silent
from wardround.simulation.run import run_study

SITES = {"count": 3, "scheme": "site", "names": ("nobody", "site-1", "site-2")}
STEPS = {"local_steps": 2}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "simulated": ({}, {}),
    "masked": ({"sum": "masked"}, {}),
    "masked-public": ({"sum": "masked", "num_patients": 32, "sampling_prob": 0.5}, {}),
    "nobody": ({"trust": "nobody"}, {}),
    "coordinator": ({"trust": "coordinator"}, {}),
    "adaptive": ({"clipping": "adaptive"}, {}),
    "fedavg": ({"trust": "nobody", "sampling_prob": 0.5}, {"strategy": "fedavg"} | STEPS),
    "weighted-sampling": ({"trust": "nobody"}, {"strategy": "fedavg", "repair": "weighted-sampling"} | STEPS),
    "weighted-loss": ({"trust": "nobody"}, {"strategy": "fedavg", "repair": "weighted-loss"} | STEPS),
    "proportional": ({"trust": "nobody"}, {"strategy": "fedprox", "repair": "proportional"} | STEPS),
    "scaffold": ({"trust": "nobody"}, {"strategy": "scaffold"} | STEPS),
    "round-robin": ({"trust": "nobody"}, {"strategy": "round-robin"} | STEPS),
    "asynchronous": ({"trust": "nobody"}, {"strategy": "asynchronous"} | STEPS),
    "selective": ({"trust": "nobody"}, {"strategy": "selective"} | STEPS),
    "alone": ({"trust": "nobody"}, {"strategy": "alone"}),
    "ensemble": ({"trust": "nobody"}, {"strategy": "ensemble"}),
    "pooled": ({}, {"strategy": "pooled"}),
    "correlated": ({"plan": "correlated-noise", "cohorts": 2}, {}),
    "clipped-update": ({"plan": "clipped-update"}, {"strategy": "fedavg"} | STEPS),
    "output-perturbation": (
        {"plan": "output-perturbation", "num_patients": 32, "clipping_norm": None},
        {"strategy": "one-shot", "rounds": None},
    ),
    "local-pictures": ({"plan": "local-pictures", "clipping_norm": None}, {}),
    "none": ({"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}, {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", family(KINDS, keep=["masked", "local-pictures"]))
def test_a_run_with_an_empty_hospital_ends_and_charges_it_as_the_others(kind, tiny_study, tmp_path):
    privacy, federation = KINDS[kind]
    model = {"name": "features"} if kind in ("output-perturbation", "local-pictures") else {}
    study = tiny_study(hospitals=SITES, privacy=privacy, federation=federation, model=model)
    record = run_study(study, tmp_path / "run", Silent())
    results: Any = record.results
    certificate: Any = record.certificate
    counts = {row["name"]: row["patients"] for row in results["hospitals"]}
    if kind != "pooled":
        assert counts["nobody"] == 0
        assert min(counts["site-1"], counts["site-2"]) > 0
        if kind not in ("round-robin", "asynchronous", "selective", "proportional"):  # turns by a public timetable
            assert len({ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()}) == 1
