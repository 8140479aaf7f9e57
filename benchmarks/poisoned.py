"""Bad hospitals: what each attack from inside does to a private head, for every aggregator.

    python -m benchmarks.poisoned --data path/to/chest_xray --other path/to/nifti [--seeds 5] [--write]
    python -m benchmarks.poisoned ... --rules multi-krum    # the others as committed

Five hospitals, one and two of them bad, and a linear head on histograms of gradients of 64 x 64 pixels, projected onto
128 numbers: 258 parameters. The study's plan, strategy, clip, noise and aggregator are the ones of a run. Ledgers and
messages are left out, and a picture's features are computed once. The seed of a repetition deals out the patients and
draws the noise. AUROC is of held-out pictures; `backdoor` is the share of held-out pneumonia pictures that the model
calls normal once they have the patch.

| attack | what a bad hospital does |
|---|---|
| wrong labels | gives each picture the other class |
| noise | replaces its pictures with uniform noise |
| modality | replaces its pictures with slices of magnetic resonance volumes |
| backdoor | puts a white patch on all its pictures and calls them normal |
| sign-flipped | sends minus its released sum |
| scaled | sends minus ten times its released sum |

The first four are within the protocol: the bad hospital clips and noises as the others do, so that they are what
masks let through as well. The last two are not: they are sent as they are.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.page import put_between
from wardround.accounting.events import NoEvent
from wardround.agreed.network import build_network, loss_of
from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import open_aggregator, strategy_of
from wardround.config import Study, parse_study
from wardround.federation.channel import InProcessChannel
from wardround.federation.messages import Answer, Request, Requests
from wardround.hospital.pictures import read_images
from wardround.images.patients import ImageSet
from wardround.models.network import Network
from wardround.models.networks.features import BIAS
from wardround.privacy.plans.releases import clip_of, noised_sum
from wardround.randomness import Randomness
from wardround.simulation.dealing import split_patients
from wardround.training.metrics.ranking import auroc
from wardround.training.patients import Sample, TrainingPatients, training_patients
from wardround.training.workbench import Workbench
from wardround.types import HospitalName, Pictures
from wardround.work import GradientSum

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
HOSPITALS, SIDE, WIDTH, ROUNDS = 5, 64, 128, 20
DATA_ATTACKS = ("wrong labels", "noise", "modality", "backdoor")
UPDATE_ATTACKS = {"sign-flipped": -1.0, "scaled": -10.0}
BOUND = 2.0
"""Of the norm bound, in norms of a hospital's answer without an attack: of the noise, or of all patients' gradients."""
PRIVACY: dict[str, dict[str, Any]] = {
    "epsilon 8, shares of noise": {
        "plan": "dp-sgd",
        "epsilon": 8.0,
        "trust": "secure-aggregation",
        "sum": "simulated",
    },
    "epsilon 8, each hospital": {"plan": "dp-sgd", "epsilon": 8.0, "trust": "nobody"},
    "no privacy": {"plan": "none"},
}
RULES: dict[str, dict[str, Any]] = {
    "mean": {},
    "norm bound": {"norm_bound": 1.0},
    "median": {"aggregate": "median"},
    "trimmed": {"aggregate": "trimmed"},
    "krum": {"aggregate": "krum"},
    "multi-krum": {"aggregate": "multi-krum"},
}


def study_of(data: Path, privacy: dict[str, Any], rule: dict[str, Any], bad: int, seed: int) -> Study:
    section: dict[str, Any] = {"num_patients": 2200, "images_per_patient": 2, **privacy}
    if privacy["plan"] != "none":
        section |= {"delta": 1e-5, "clipping_norm": 0.25}
    rule = rule | ({"byzantine": bad} if rule.get("aggregate") == "trimmed" and bad else {})
    federation = {
        "strategy": "fedsgd",
        "rounds": ROUNDS,
        "learning_rate": 30.0,
        "momentum": 0.9,
        "score_rounds": 0,
    }
    return x_rays(
        data,
        "poisoned",
        seed,
        HOSPITALS,
        model={"name": "features"},
        privacy=section,
        federation=federation | rule,
    )


class Pool:
    """Every picture in four versions, one block after the other: as it is, noise, another modality, with a patch."""

    def __init__(self, data: Path, other: Path) -> None:
        study = study_of(data, PRIVACY["no privacy"], {}, 0, 0)
        self.images = read_images(study)
        pixels = np.asarray(self.images.pixels)
        self.count = len(pixels)
        noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
        slices = other_modality(other)
        patched = pixels.copy()
        patched[..., -10:-2, -10:-2] = 255
        versions = np.concatenate([pixels, noise, slices[np.arange(self.count) % len(slices)], patched])
        network = build_network(study, target=self.images.target, num_classes=2, shape=pixels.shape[1:])
        parts = [network.encode(torch.from_numpy(versions[at : at + 256])) for at in range(0, len(versions), 256)]
        rows = torch.cat(parts)[:, :-1] @ projection(parts[0].shape[1] - 1)
        rows = F.normalize(
            F.pad(F.normalize(rows), (0, 1), value=BIAS)
        )  # norm one with a constant, as HogRows has it
        head = nn.Sequential(nn.Linear(WIDTH + 1, 2, bias=False))
        nn.init.zeros_(head[0].weight)  # type: ignore[arg-type]  # of a linear layer
        small = Network("head", network.encode, head, encode_once=True)
        self.workbench = Workbench(small, versions, loss_of(study, self.images.target), 1 << 28, inputs=rows)

    def version(self, attack: str, patients: TrainingPatients) -> TrainingPatients:
        """Returns a bad hospital's patients."""
        block = {"noise": 1, "modality": 2, "backdoor": 3}.get(attack, 0)
        labels = patients.labels
        if attack == "wrong labels":
            labels = 1 - labels
        if attack == "backdoor":
            labels = np.full_like(labels, normal_of(self.images))
        return replace(patients, rows=patients.rows + block * self.count, labels=labels)


def projection(features: int) -> torch.Tensor:
    """Returns a fixed public projection, (feature, WIDTH)."""
    drawn: torch.Tensor = torch.randn(features, WIDTH, generator=torch.Generator().manual_seed(0))
    return drawn.div(WIDTH**0.5)


def normal_of(images: ImageSet) -> int:
    return [name.lower() for name in images.class_names].index("normal")


def other_modality(folder: Path) -> Pictures:
    """Returns middle slices of volumes, (slice, 1, SIDE, SIDE), scaled to the whole range."""
    import nibabel
    from PIL import Image

    found = []
    for path in sorted(folder.glob("*.nii*"))[:60]:
        volume = np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]  # of an image file
        for z in np.linspace(0.3, 0.7, 5) * volume.shape[2]:
            plane = volume[..., int(z)].astype(np.float64)
            plane = 255 * (plane - plane.min()) / max(1e-9, float(np.ptp(plane)))
            found.append(np.asarray(Image.fromarray(plane.astype(np.uint8)).resize((SIDE, SIDE)))[None])
    return np.stack(found)


class Scenario:
    """One repetition of one study: patients dealt out, and the channel to its hospitals."""

    def __init__(self, pool: Pool, study: Study, attack: str, bad: int) -> None:
        self.pool, self.study, self.plan, self.attack = pool, study, plan_of(study), attack
        split = split_patients(pool.images, study.data, study.hospitals)
        names = list(split.hospitals)
        self.bad = set(names[:bad]) if attack != "none" else set()
        bound = study.privacy.images_per_patient
        self.hospitals = {}
        for name, members in split.hospitals.items():
            patients = training_patients(members, bound)
            self.hospitals[name] = pool.version(attack, patients) if name in self.bad else patients
        self.test = training_patients(split.test, None)

    def run(self) -> tuple[float, float]:
        """Returns AUROC, and the share of patched pneumonia pictures that are called normal."""
        workbench = self.pool.workbench
        randomness = Randomness(self.study.study.seed, f"poisoned/{self.attack}")
        aggregator = open_aggregator(self.study, self.plan, randomness)
        strategy = strategy_of(self.study, self.plan, aggregator, classes=2)
        channel = InProcessChannel(tuple(self.hospitals), lambda requests: self.answers(requests, randomness))
        state = strategy.init(workbench.initial_weights, channel)
        mean = np.zeros_like(workbench.initial_weights)
        for round in range(1, ROUNDS + 1):
            state = strategy.update(state, channel, round)
            if round > ROUNDS // 2:
                mean += strategy.models(state)["global"] / np.float32(ROUNDS - ROUNDS // 2)
        scores = workbench.probabilities(mean, self.test.rows)
        normal = normal_of(self.pool.images)
        ill = self.test.rows[self.test.labels != normal]
        patched = workbench.probabilities(mean, ill + 3 * self.pool.count)
        return auroc(scores, self.test.labels) or 0.5, float((patched.argmax(axis=1) == normal).mean())

    def answers(self, requests: Requests, randomness: Randomness) -> dict[HospitalName, Any]:
        """Returns each hospital's clipped and noised sum of all its patients, changed where it is bad."""
        request = next(iter(requests.values()))
        work: Any = request.work
        samples = [Sample(patients, np.arange(len(patients))) for patients in self.hospitals.values()]
        clip = clip_of(self.plan.training)
        sums = self.pool.workbench.gradient_sums(work.weights, samples, clip.norm, 0, clip.fixed)
        found: dict[HospitalName, Any] = {}
        for name, clipped in zip(self.hospitals, sums, strict=True):
            stream = randomness.stream(name, "noise", request.round)
            update = noised_sum(self.plan.training, clipped, stream)
            factor = UPDATE_ATTACKS.get(self.attack, 1.0) if name in self.bad else 1.0
            found[name] = Answer((update * np.float32(factor)).astype(np.float32), NoEvent())
        return found


def usual_norm(pool: Pool, data: Path, privacy: dict[str, Any]) -> float:
    """Returns the largest norm of a good hospital's first answer, by which the norm bound is set."""
    scenario = Scenario(pool, study_of(data, privacy, {}, 0, 0), "none", 0)
    request = Request("", 1, 1, GradientSum(pool.workbench.initial_weights))
    answers = scenario.answers(dict.fromkeys(scenario.hospitals, request), Randomness(0, "norm"))
    return max(float(np.linalg.norm(answer.update)) for answer in answers.values())


def runs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the figures of each run, one repetition after the other."""
    pool = Pool(options.data, options.other)
    norms = {name: BOUND * usual_norm(pool, options.data, privacy) for name, privacy in PRIVACY.items()}
    for seed in range(options.seeds):
        for (kind, privacy), (rule, given) in itertools.product(PRIVACY.items(), RULES.items()):
            if options.rules and rule not in options.rules:
                continue
            if kind == "epsilon 8, shares of noise" and rule != "mean":
                continue  # masks hide single answers
            keys = {"norm_bound": norms[kind]} if "norm_bound" in given else given
            for attack, bad in (("none", 0), *itertools.product((*DATA_ATTACKS, *UPDATE_ATTACKS), (1, 2))):
                study = study_of(options.data, privacy, keys, bad, seed)
                area, backdoor = Scenario(pool, study, attack, bad).run()
                row = {"privacy": kind, "aggregate": rule, "attack": attack, "bad": bad, "seed": seed,
                       "auroc": round(area, 5), "backdoor": round(backdoor, 5)}  # fmt: skip
                print(json.dumps(row), flush=True)
                yield row


def spread(values: list[float]) -> str:
    """Returns the mean, and the standard deviation of several, two decimals."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def table(found: list[dict[str, Any]]) -> str:
    """Returns one table for each kind of privacy: a row for each attack, a column for each aggregator."""
    lines = ["", f"Splits of the patients: {len({row['seed'] for row in found})}."]
    for privacy in PRIVACY:
        own = [row for row in found if row["privacy"] == privacy]
        rules = [rule for rule in RULES if any(row["aggregate"] == rule for row in own)]
        lines += [
            "",
            f"**{privacy[:1].upper()}{privacy[1:]}**",
            "",
            f"| attack, bad hospitals | {' | '.join(rules)} |",
        ]
        lines += ["|---" * (1 + len(rules)) + "|"]
        for attack, bad in dict.fromkeys((row["attack"], row["bad"]) for row in own):
            cells = []
            for rule in rules:
                cell = [r for r in own if (r["aggregate"], r["attack"], r["bad"]) == (rule, attack, bad)]
                called = statistics.mean(r["backdoor"] for r in cell)
                backdoor = f" ({called:.0%})" if attack in ("none", "backdoor") else ""
                cells.append(spread([r["auroc"] for r in cell]) + backdoor)
            lines.append(f"| {attack if attack == 'none' else f'{attack}, {bad}'} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def tabulate(
    name: str,
    runs: Callable[[argparse.Namespace], Iterator[dict[str, Any]]],
    table: Callable[[list[dict[str, Any]]], str],
    *,
    seeds: int,
    more: Mapping[str, Any],
) -> None:
    """Runs a benchmark on the X-rays from the command line, prints its table, and writes figures and table if asked to.

    Args:
        name: of the benchmark; its figures are in results/NAME.json, and its table is in docs/results.md.
        runs: yields rows.
        table: of all rows.
        seeds: repetitions, by default.
        more: further options, and what argparse is told of each.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--write", action="store_true", help="Write the table into docs/results.md.")
    for option, told in more.items():
        parser.add_argument(option, **told)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = list(runs(options))
    rules = getattr(options, "rules", None)
    if rules:  # beside the committed figures of the other rules
        found = [row for row in json.loads(result_of(name).read_text()) if row["aggregate"] not in rules] + found
    print(table(found))
    if options.write:
        result_of(name).write_text(json.dumps(found, indent=1) + "\n")
        put_between(
            PAGE, f"<!-- written by benchmarks.{name} -->", f"<!-- end of benchmarks.{name} -->", table(found)
        )


def result_of(name: str) -> Path:
    return Path(__file__).parent / "results" / f"{name}.json"


def x_rays(data: Path, name: str, seed: int, hospitals: int = 5, **sections: dict[str, Any]) -> Study:
    """Returns a study of chest X-rays at 64 x 64; the seed deals out the patients and draws the noise."""
    return parse_study(
        {
            "study": {"name": name, "seed": seed},
            "site": {"layout": "chest_xray", "path": str(data)},
            "data": {"image_size": SIDE},
            "hospitals": {"count": hospitals, "split_seed": seed},
            **sections,
        }
    )


if __name__ == "__main__":
    other = {"type": Path, "required": True, "help": "A folder of NIfTI volumes: the other modality."}
    only = {"nargs": "*", "choices": list(RULES), "help": "Aggregators that are run anew; default: all."}
    tabulate("poisoned", runs, table, seeds=5, more={"--other": other, "--rules": only})
