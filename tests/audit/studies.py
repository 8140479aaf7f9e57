"""Small studies whose mechanism is audited; nothing of their data or network is read."""

from typing import Any

from wardround.config import parse_study

PRIVATE = {"plan": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-5, "clipping_norm": 0.5, "num_patients": 300}


def study_of(privacy=None, federation=None, *, model="linear", hospitals=3, rounds=2, seed=1):
    """A study of a linear network on phantoms, with keys laid over its sections; None takes a key out."""
    section = {**PRIVATE, "sampling_prob": 1.0, **(privacy or {})}
    return parse_study(
        {
            "study": {"name": "audited", "seed": seed},
            "data": {"layout": "phantom"},
            "hospitals": {"count": hospitals},
            "model": {"name": model},
            "privacy": {key: value for key, value in section.items() if value is not None},
            "federation": {"strategy": "fedsgd", "rounds": rounds, "learning_rate": 1.0, **(federation or {})},
        }
    )


CORRELATED = {
    "plan": "correlated-noise",
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "clipping_norm": 0.5,
    "cohorts": 2,
}
LOCAL = {"strategy": "fedavg", "local_steps": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"privacy": {"sum": "simulated"}},
    "sampled": {"privacy": {"sum": "simulated", "sampling_prob": 0.3, "noise_multiplier": 0.8}},
    "masked": {"privacy": {"sum": "masked"}},
    "nobody": {"privacy": {"trust": "nobody"}},
    "coordinator": {"privacy": {"trust": "coordinator"}},
    "adaptive": {"privacy": {"sum": "simulated", "clipping": "adaptive"}},
    "local steps": {"privacy": {"trust": "nobody"}, "federation": LOCAL},
    "centred": {
        "model": "features",
        "privacy": {"sum": "simulated"},
        "federation": {"centre_rounds": 1, "average_last": 0.0, "score_rounds": 0},
    },
    "centred and scored": {
        "model": "features",
        "privacy": {"sum": "simulated"},
        "federation": {"centre_rounds": 1, "average_last": 0.0, "score_rounds": 1},
    },
}
