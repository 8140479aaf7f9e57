"""The studies whose numbers are frozen: tables laid over one base, and every file of examples/, made small."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from tests.images.nifti_files import write_boxes

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Tables = dict[str, Any]

PHANTOM: Tables = {"patients": 48, "max_images": 2, "sites": 3, "image_size": 32}
BASE: Tables = {
    "study": {"name": "golden", "seed": 7},
    "data": {"layout": "phantom", "image_size": 32, "phantom": PHANTOM},
    "hospitals": {"count": 3},
    "model": {"name": "linear"},
    "privacy": {"delta": 1e-3, "accountant": "rdp", "sum": "simulated"},
    "federation": {"rounds": 3, "evaluate_every": 2},
}

# ---- every plan with every strategy: what the study refuses is frozen as refused --------------------------------

PLANS: dict[str, Tables] = {
    "dp-sgd": {"privacy": {"epsilon": 8.0, "clipping_norm": 0.5, "sampling_prob": 0.5}},
    "none": {},
    "clipped-update": {"privacy": {"epsilon": 8.0, "clipping_norm": 0.5}},
    "sparse-vector": {"privacy": {"epsilon": 8.0, "clipping_norm": 0.01, "answers": 20}},
    "top-k": {"privacy": {"epsilon": 8.0, "clipping_norm": 0.01, "answers": 20}},
    "output-perturbation": {
        "model": {"name": "features"},
        "privacy": {"epsilon": 8.0, "num_patients": 38},
        "federation": {"rounds": None},
    },
    "correlated-noise": {"privacy": {"epsilon": 8.0, "clipping_norm": 0.5, "cohorts": 2}},
    "local-pictures": {"model": {"name": "features"}, "privacy": {"epsilon": 8.0}},
}
ALONE: Tables = {"privacy": {"trust": "nobody"}}
STEPS: Tables = {"privacy": {"trust": "nobody"}, "federation": {"local_steps": 2}}
STRATEGIES: dict[str, Tables] = {
    "fedsgd": {},
    "fedavg": STEPS,
    "fedprox": STEPS,
    "scaffold": STEPS,
    "round-robin": STEPS,
    "single-pass": STEPS | {"federation": {"local_steps": 2, "rounds": None}},
    "random-order": STEPS,
    "stochastic": STEPS,
    "asynchronous": STEPS,
    "selective": STEPS,
    "one-shot": {"federation": {"rounds": None}},
    "ensemble": ALONE,
    "alone": ALONE,
    "pooled": ALONE,
}

# ---- one option at a time ---------------------------------------------------------------------------------------

SGD: Tables = PLANS["dp-sgd"] | {"privacy": {"plan": "dp-sgd", "epsilon": 8.0, "clipping_norm": 0.5}}
OWN_STEPS = {"learning_rate": 1.0, "momentum": 0.9, "average_last": 0.0}
CNN: Tables = {"model": {"name": "small_cnn"}, "federation": {"rounds": 2}}
MASKED: Tables = {"privacy": {"sum": "masked"}}
ABSENT: Tables = {"hospitals": {"count": 4, "absent_rate": 0.1, "late_rate": 0.1, "availability_seed": 1}}


def _laid(*tables: Mapping[str, Any]) -> Tables:
    """Tables laid over each other, section by section."""
    whole: Tables = {}
    for table in tables:
        for section, values in deepcopy(dict(table)).items():
            whole[section] = whole.get(section, {}) | values
    return whole


def _scored(**keys: Any) -> Tables:
    """Tables of a head whose scores are released, with so little noise that thresholds follow."""
    return {
        "model": {"name": "features"},
        "data": {"phantom": PHANTOM | {"patients": 200}},
        "privacy": {"plan": "dp-sgd", "epsilon": 50.0} | keys,
        "federation": {"rounds": 20, "score_rounds": 2, "evaluate_every": 50, "compare": []},
    }


def _given(tables: Tables) -> Tables:
    """The tables without keys that are None: those were laid over to take a key away."""
    return {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in tables.items()
    }


def _privacy(**keys: Any) -> Tables:
    return _laid(SGD, {"privacy": keys})


def _updates(plan: str, **keys: Any) -> Tables:
    return _laid(PLANS[plan], STEPS, {"privacy": {"plan": plan} | keys, "federation": {"strategy": "fedavg"}})


def _averaged(**keys: Any) -> Tables:
    return _laid(SGD, STEPS, {"federation": {"strategy": "fedavg"} | keys})


def _correlated(**keys: Any) -> Tables:
    return _laid(PLANS["correlated-noise"], {"privacy": {"plan": "correlated-noise"} | keys})


def _pictures(**keys: Any) -> Tables:
    return _laid(PLANS["local-pictures"], {"privacy": {"plan": "local-pictures"} | keys})


OPTIONS: dict[str, Tables] = {
    # who adds noise, and who is counted
    "trust/coordinator": _privacy(trust="coordinator"),
    "trust/nobody": _privacy(trust="nobody"),
    "trust/two-colluders": _privacy(colluders=2),
    "trust/public-size": _privacy(num_patients=38),
    "trust/coordinator-public-size": _privacy(trust="coordinator", num_patients=38),
    "trust/clipped-update-summed": _updates("clipped-update", trust="secure-aggregation"),
    "trust/output-perturbation-summed": _laid(
        PLANS["output-perturbation"],
        {"privacy": {"plan": "output-perturbation"}, "federation": {"strategy": "one-shot"}},
    ),
    "dropouts/simulated": _laid(ABSENT, _privacy(dropouts=2)),
    "dropouts/simulated-public-size": _laid(ABSENT, _privacy(dropouts=2, num_patients=38)),
    "absent/nobody": _laid(ABSENT, _privacy(trust="nobody")),
    "absent/coordinator": _laid(ABSENT, _privacy(trust="coordinator")),
    "absent/fedavg": _laid(ABSENT, _averaged()),
    "absent/round-robin": _laid(ABSENT, _averaged(strategy="round-robin", cycles=2, rounds=None)),
    "absent/asynchronous": _laid(ABSENT, _averaged(strategy="asynchronous", rounds=6, staleness=2, mixing=0.4)),
    "absent/none": _laid(ABSENT, {"privacy": {"plan": "none"}}),
    "masked/public-size": _laid(_privacy(num_patients=38), MASKED),
    "masked/counted": _laid(SGD, MASKED),
    "masked/two-colluders-pld": _laid(_privacy(colluders=2, accountant="pld", num_patients=38), MASKED),
    "masked/sampled": _laid(_privacy(sampling_prob=0.5), MASKED),
    "masked/dropouts-public-size": _laid(ABSENT, _privacy(dropouts=1, num_patients=38), MASKED),
    "masked/dropouts-counted": _laid(ABSENT, _privacy(dropouts=1), MASKED),
    "masked/missing": _laid(
        {"hospitals": {"count": 5, "absent_rate": 0.1, "late_rate": 0.15, "availability_seed": 3}},
        _privacy(dropouts=2), MASKED, {"federation": {"rounds": 5}},
    ),
    "masked/per-layer": _laid(_privacy(clipping="per-layer", num_patients=38), CNN, MASKED),
    "masked/automatic": _laid(_privacy(clipping="automatic", num_patients=38), CNN, MASKED),
    "masked/adaptive": _laid(_privacy(clipping="adaptive", num_patients=38), MASKED),
    "masked/adaptive-counted": _laid(_privacy(clipping="adaptive"), MASKED),
    # how gradients are clipped, and what pays
    **{
        f"clipping/{rule}": _laid(_privacy(clipping=rule), CNN)
        for rule in ("flat", "per-layer", "per-layer-by-size", "automatic", "adaptive")
    },
    "clipping/adaptive-nobody": _privacy(clipping="adaptive", trust="nobody", clipping_quantile=0.7),
    "clipping/adaptive-coordinator": _privacy(clipping="adaptive", trust="coordinator"),
    "clipping/per-layer-fedavg": _laid(_averaged(), {"privacy": {"clipping": "per-layer"}}, CNN),
    "clipping/one-picture": _privacy(images_per_patient=1),
    "accountant/pld": _privacy(accountant="pld"),
    "accountant/pld-sampled": _privacy(accountant="pld", sampling_prob=0.25),
    "accountant/noise-multiplier": _privacy(epsilon=None, noise_multiplier=2.0),
    "accountant/pld-top-k": _updates("top-k", accountant="pld"),
    "accountant/pld-sparse-vector": _updates("sparse-vector", accountant="pld", answer_threshold=0.001),
    "accountant/values-share": _updates("top-k", values_share=0.8),
    "accountant/epsilon-limit": _privacy(epsilon_limit=5.0),
    # correlated noise
    "correlated/public-size": _correlated(num_patients=38),
    "correlated/nobody-bands": _laid(
        _correlated(trust="nobody", bands=2, cohorts=3), {"federation": {"rounds": 6}}
    ),
    "correlated/per-layer": _laid(_correlated(clipping="per-layer"), CNN),
    # noised pictures
    "pictures/laplace-pixels": _pictures(pictures="laplace-pixels"),
    "pictures/gaussian-pixels": _pictures(pictures="gaussian-pixels"),
    "pictures/dp-pix": _pictures(pictures="dp-pix", block=8, neighbourhood=4),
    "pictures/laplace-features": _pictures(pictures="laplace-features", accountant="pld"),
    "pictures/published-scale": _pictures(
        pictures="laplace-pixels", epsilon=None, noise_multiplier=1 / 256, label_epsilon=2.0
    ),
    "pictures/backward": _laid(_pictures(label_epsilon=3.0), {"training": {"label_correction": "backward"}}),
    "pictures/uncorrected": _laid(_pictures(), {"training": {"label_correction": "none"}}),
    # unequal hospitals, and how rounds are averaged
    **{f"repair/{kind}": _averaged(repair=kind) for kind in ("proportional", "weighted-sampling", "weighted-loss")},
    "repair/ring": _averaged(strategy="round-robin", repair="weighted-loss"),
    "server/momentum": _averaged(server_momentum=0.5, server_learning_rate=0.7),
    "server/adam": _averaged(server_optimizer="adam", server_learning_rate=0.05),
    "server/yogi": _averaged(server_optimizer="yogi", server_learning_rate=0.05),
    "server/fraction": _averaged(fraction=0.67, timetable_seed=2),
    "server/hospital-weights": _averaged(hospital_weights=[0.5, 0.3, 0.2]),
    "local/epochs": _laid(_averaged(local_epochs=1.0, local_steps=None), {"privacy": {"sampling_prob": 0.5}}),
    "local/travels": _averaged(strategy="random-order", optimizer_state="travels", timetable_seed=3),
    "local/average-last": _laid(SGD, {"federation": {"average_last": 0.7}}),
    "local/proximal-none": _laid(
        STEPS, {"privacy": {"plan": "none"}, "federation": {"strategy": "fedprox", "proximal": 0.5}}
    ),
    "selective/random": _averaged(
        strategy="selective", selection="random", threshold=1e-4, truncation=0.01, upload_fraction=0.3, turns="random"
    ),
    "selective/part": _averaged(
        strategy="selective", download_fraction=0.5, counter_decay=0.9, turns="stochastic", rounds=6
    ),
    "hospitals/sizes": _laid(
        SGD, {"hospitals": {"scheme": "sizes", "sizes": [20, 10, 8]}, "data": {"test": "stratified"}}
    ),
    "hospitals/images": _laid(SGD, {"hospitals": {"scheme": "images", "images": 12}}),
    "hospitals/dirichlet": _laid(SGD, {"hospitals": {"scheme": "dirichlet", "split_seed": 1}}),
    "hospitals/label-shards": _laid(SGD, {"hospitals": {"scheme": "label-shards"}}),
    "hospitals/site": _laid(SGD, {"hospitals": {"scheme": "site"}}),
    # what is trained
    "model/features": _laid(SGD, {"model": {"name": "features"}, "federation": OWN_STEPS | {"compare": []}}),
    "model/features-recipe": {
        "model": {"name": "features"},
        "privacy": {"plan": "dp-sgd", "epsilon": 8.0},
        "federation": {"rounds": None, "evaluate_every": 50, "compare": []},
    },
    "model/thresholds": _scored(),
    "model/thresholds-masked": _scored(sum="masked", num_patients=160),
    "model/dropout": _laid(
        _privacy(sampling_prob=0.2), {"model": {"name": "alexnet", "width": 4}, "data": {"image_size": 64}}
    ),
    "model/head": _laid(SGD, CNN, {"model": {"train": "head", "init_seed": 1}}),
    "model/norms": _laid(SGD, CNN, {"model": {"train": "norms"}}),
    "model/squeezenet": _laid(
        _privacy(sampling_prob=0.2), {"model": {"name": "squeezenet"}, "federation": {"rounds": 1}}
    ),
    "model/replaced-norms": _laid(
        _privacy(sampling_prob=0.2), {"model": {"name": "resnet18"}, "federation": {"rounds": 1}}
    ),
    "model/attention": _laid(
        _privacy(sampling_prob=0.2), {"model": {"name": "vit_tiny"}, "federation": {"rounds": 1}}
    ),
    "training/focal": _laid(SGD, {"training": {"loss": "focal"}}),
    "training/rgb": _laid(SGD, {"data": {"colour": "rgb"}}),
    "training/augment": _laid(
        SGD, CNN,
        {"training": {"augment": {"flip": ["horizontal"], "rotate": 10, "noise": 0.05, "multiplicity": 2}}},
    ),
    "training/validation": _laid(SGD, {"data": {"validation_fraction": 0.2}}),
    # references
    "compare/all": _laid(
        _privacy(sampling_prob=0.5),
        {"federation": {"compare": [
            "no-privacy", "pooled", "pooled-no-privacy", "alone", "alone-no-privacy", "ensemble", "ensemble-no-privacy",
        ]}},
    ),
    "compare/masked": _laid(_privacy(num_patients=38), MASKED, {"federation": {"compare": ["no-privacy", "alone"]}}),
    "compare/pictures": _laid(_pictures(), {"federation": {"compare": ["no-privacy", "pooled"]}}),
    "sweep/charged": _laid(
        _privacy(epsilon_limit=20.0),
        {"sweep": {"federation.learning_rate": [0.5, 1.0], "charge": True}},
    ),
}  # fmt: skip

# ---- the files of examples/ ----------------------------------------------------------------------------------------

_AT_MOST = {"rounds": 3, "cycles": 1, "local_steps": 2, "evaluate_every": 2}


def _shrunk(raw: Tables, volumes: Path) -> Tables:
    """An example on few patients, few hospitals and few rounds, seeded; everything else stands as its file has it."""
    raw = _laid(raw, {"study": {"seed": 7}})
    raw["data"] |= raw.pop("site", {})
    if raw["data"]["layout"] == "decathlon":
        raw["data"] |= {"path": str(volumes), "volume_size": [16, 16, 16], "spacing": [1.0, 1.0, 2.0]}
        raw["model"]["width"] = 4
    else:
        raw["data"] |= {"layout": "phantom", "image_size": 32, "phantom": PHANTOM}
        raw["data"].pop("test", None)
    raw.setdefault("hospitals", {})["count"] = min(raw.get("hospitals", {}).get("count", 5), 3)
    raw["privacy"].setdefault("sum", "simulated")  # other plans pass over it
    if "cohorts" in raw["privacy"]:
        raw["privacy"]["cohorts"] = 2
    if "num_patients" in raw["privacy"]:
        raw["privacy"]["num_patients"] = 38
    raw.setdefault("federation", {"rounds": 3, "evaluate_every": 2}).setdefault("compare", [])
    for key, most in _AT_MOST.items():
        if key in raw["federation"]:
            raw["federation"][key] = min(raw["federation"][key], most)
    if "sweep" in raw:
        raw["sweep"] = {"privacy.epsilon": [2, 8], "repeats": 2}
    return raw


def tables_of_cases(volumes: Path) -> dict[str, Tables]:
    """Every case by name, as tables of a study file; `volumes` is where `write_volumes` has written."""
    cases: dict[str, Tables] = {}
    for path in sorted(EXAMPLES.rglob("*.toml")):
        name = path.relative_to(EXAMPLES).with_suffix("").as_posix()
        cases[f"examples/{name}"] = _shrunk(tomllib.loads(path.read_text(encoding="utf-8")), volumes)
    for plan, kind in PLANS.items():
        for strategy, turns in STRATEGIES.items():
            named: Tables = {"privacy": {"plan": plan}, "federation": {"strategy": strategy}}
            cases[f"plans/{plan}/{strategy}"] = _laid(BASE, kind, turns, named)
    cases |= {name: _laid(BASE, tables) for name, tables in OPTIONS.items()}
    return {name: _given(tables) for name, tables in cases.items()}


def to_toml(tables: Tables) -> str:
    """The tables as text; JSON's strings, numbers, booleans and flat lists are TOML as well."""

    def lines(prefix: str, table: Tables) -> Iterator[str]:
        yield f"[{prefix}]"
        yield from (f"{json.dumps(k)} = {json.dumps(v)}" for k, v in table.items() if not isinstance(v, dict))
        for key, inner in table.items():
            if isinstance(inner, dict):
                yield from lines(f"{prefix}.{key}", inner)

    return "\n".join(line for name, table in tables.items() for line in lines(name, table)) + "\n"


def write_volumes(root: Path) -> None:
    """Twenty volumes of noise with a bright and a less bright box, in the layout of Decathlon."""
    names = [f"v{number:02d}" for number in range(20)]
    write_boxes(root, names, np.random.default_rng(0), np.diag([1.0, 1.0, 2.0, 1.0]))
