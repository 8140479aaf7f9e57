"""Two whole runs on data sets that differ in one person: nothing changes for anybody else, and sums by the clip only.

The theorem is that of the guarantee for one patient. Place, chosen pictures, classes, network, draws and messages of
all others are equal, bit for bit. A round's sum without its noise moves by the clipping norm for a person who is added
or removed, and by twice that for one who is replaced.
"""

from dataclasses import dataclass, field
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
from tests.cases import family
from tests.simulation.layouts import LAYOUTS, SITES, Person, write, write_neighbour

from wardround.accounting.terms import Division
from wardround.agreed.plans import division_of
from wardround.config import Study, parse_study
from wardround.coordinator.observer import Silent
from wardround.federation.channel import InProcessChannel
from wardround.federation.wire.tables import encode_reply, encode_request
from wardround.hospital.agent import Agent
from wardround.images.layouts.names import LayoutName
from wardround.randomness import names_of
from wardround.simulation import run
from wardround.simulation.dealing import Scheme
from wardround.simulation.materials import gather
from wardround.training.patients import training_patients
from wardround.training.workbench import Workbench

PEOPLE = [Person(number) for number in range(16)]
CLIP = 0.5
BY_OWN_ID = ("even", "dirichlet", "site")
OPEN = {"trust": "nobody", "num_patients": 12}
MASKED = {"sum": "masked", "num_patients": 12}
CORRELATED = {"plan": "correlated-noise", "cohorts": 2, "trust": "nobody", "num_patients": 12}
AUGMENTED = {"augment": {"shift": 0.1, "noise": 0.02}}
KINDS: dict[str, dict[str, Any]] = {
    "open": {"privacy": OPEN},
    "counted": {"privacy": {"trust": "nobody"}},
    "together": {"privacy": {"num_patients": 12}},
    "masked": {"privacy": MASKED},
    "masked-counted": {"privacy": {"sum": "masked"}},
    "correlated": {"privacy": CORRELATED},
    "augmented": {"privacy": OPEN, "training": AUGMENTED},
    "augmented-masked": {"privacy": MASKED, "training": AUGMENTED},
    "masked-head": {"privacy": MASKED, "model": {"name": "features"}},
    "centred-head": {"privacy": MASKED, "model": {"name": "features"}, "federation": {"centre_rounds": 1}},
}  # fmt: skip
CASES = [
    case
    for case in product(get_args(LayoutName), BY_OWN_ID, KINDS, ["removed", "replaced"])
    if case[:2] != ("medmnist", "site")  # its pictures have no site
    and (not case[2].endswith("-head") or case[0] in ("folder", "phantom"))  # a head knows nothing of layouts
]
KEPT = [
    ("manifest", "site", "augmented", "removed"), ("aptos", "site", "correlated", "replaced"),
    ("phantom", "even", "masked-counted", "removed"), ("folder", "even", "masked-head", "removed"),
]  # fmt: skip


def test_every_layout_and_every_scheme_is_here():
    assert {*LAYOUTS, "phantom"} == set(get_args(LayoutName))
    kinds = {
        scheme.value: division_of(parse_study(study_tables("phantom", None, scheme.value)))
        for scheme in (Scheme.EVEN, Scheme.DIRICHLET, Scheme.SITE)
    }
    assert kinds == dict.fromkeys(BY_OWN_ID, Division.BY_OWN_ID)


def study_tables(layout, root, scheme, cache=None, people=16, **kind):
    data: dict[str, Any] = {"layout": layout, "image_size": 16, "test_fraction": 0.2, "validation_fraction": 0.2}
    names: tuple[str, ...] = (*SITES, "nobody")
    if layout == "phantom":
        data["phantom"] = {"patients": people, "max_images": 3, "sites": 2, "image_size": 32}
        names = ("site-1", "site-2", "nobody")
    else:
        data |= {"path": str(root)} | LAYOUTS[layout].data
        if layout == "dicom" and cache is not None:  # one hospital's key, for both data sets
            data["key_file"] = str(cache / "hospital.key")
            if not (cache / "hospital.key").exists():
                cache.mkdir()
                (cache / "hospital.key").touch(mode=0o600)
                (cache / "hospital.key").write_bytes(bytes(range(32)))
    sections = {"hospitals": {"count": 3, "scheme": scheme, "split_seed": 5}, "privacy": {}, "training": {}}
    if scheme == "site":
        sections["hospitals"]["names"] = names
    masks = layout in ("decathlon", "nnunet")
    private = {"plan": "dp-sgd", "sampling_prob": 0.5} if kind.get("privacy", {}).get("plan") is None else {}
    return {
        "study": {"name": "neighbours", "seed": 7},
        "data": data,
        "hospitals": sections["hospitals"],
        "model": kind.get("model", {"name": "small_unet", "width": 2} if masks else {"name": "linear"}),
        "privacy": private | {"epsilon": 8.0, "delta": 1e-3, "clipping_norm": CLIP, "accountant": "rdp",
                              "images_per_patient": 2} | kind.get("privacy", {}),
        "training": kind.get("training", {}),
        "federation": {"rounds": 2, "compare": []} | kind.get("federation", {}),  # references show figures of the model
        "performance": {"threads": 1} | ({} if cache is None else {"cache": str(cache)}),
    }  # fmt: skip


@dataclass
class Seen:
    """What somebody sees who looks at everything in a run: hospitals from inside, and all messages.

    Attributes:
        study: that was run.
        materials: its patients in their places, and its network.
        messages: kind, round, attempt and size in bytes of every message, by hospital, in their order.
        stages: sentences of its progress.
        chosen: names of the patients of each hospital's first round.
        sums: clipped sum of each hospital's first round, without noise; in whole numbers, under masks, in `exact`.
        gradients: of each patient in the first round, under masks; mean rows where those are released first.
    """

    study: Study
    materials: Any
    messages: list[Any] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    chosen: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    sums: dict[str, Any] = field(default_factory=dict)
    gradients: dict[tuple[int, int], Any] = field(default_factory=dict)
    exact: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def stage(self, text):
        self.stages.append(text)

    def progress(self, done, total, detail=""):
        """Of rounds as of pictures, which are counted on the hospital's own screen."""

    def people(self):
        """Place, pictures as the network reads them, labels and keys of draws of each patient, by id."""
        images, bound = self.materials.images, self.study.privacy.images_per_patient
        split = self.materials.split
        found = {}
        for place, patients in {"test": split.test, "validation": split.validation, **split.hospitals}.items():
            for patient in patients:
                [one] = [training_patients([patient], bound)]
                drawn = one.pictures_of(np.arange(1))
                masks = b"" if images.masks is None else images.masks[one.rows].tobytes()
                content = images.pixels[one.rows].tobytes() + masks
                found[patient.id] = (place, content, one.labels.tolist(), drawn.keys.tolist())
        return found

    def public(self):
        """What must be one for two neighbours."""
        bench = self.materials.workbench
        return {
            "hospitals": list(self.materials.hospitals),
            "classes": self.materials.images.class_names,
            "weights": bench.weights_sha256,
            "shape": bench.input_shape,
            "messages": self.messages,
            "stages": self.stages,
        }


def seen(tables, folder, monkeypatch):
    """Runs a study, and returns what is seen of it."""
    study = parse_study(tables)
    found = Seen(study, gather(study, Silent()))
    release, rounded, exact, rows = Agent.release, Agent.rounded_sum, Agent.exact_sum, Agent.statistic_rows
    gradients = Workbench.patient_gradients
    ask = InProcessChannel.ask

    def noted_release(agent, request, work, clipped, sample):
        if request.round == 1:
            found.chosen[agent.name] = set(map(tuple, agent.patients.names[sample.chosen].tolist()))
            found.sums[agent.name] = clipped.vector.numpy().copy()
        return release(agent, request, work, clipped, sample)

    def noted_rows(agent, request, work):
        every = rows(agent, request, work)
        if request.round == 1:
            names = agent.patients.names[agent.sample(request).chosen].tolist()
            assert all(np.linalg.norm(row) <= CLIP for row in every)
            found.chosen[agent.name] = set(map(tuple, names))
            found.gradients |= {tuple(name): row for name, row in zip(names, every, strict=True)}
        return every

    def noted_rounded(agent, request, work, grid):
        if request.round > 1:
            return rounded(agent, request, work, grid)
        names = agent.patients.names[agent.sample(request).chosen].tolist()
        found.chosen[agent.name] = set(map(tuple, names))

        def noted_gradients(*asked):
            for name, gradient in zip(names, gradients(*asked), strict=True):
                found.gradients[tuple(name)] = gradient
                yield gradient

        with monkeypatch.context() as patch:
            patch.setattr(Workbench, "patient_gradients", noted_gradients)
            return rounded(agent, request, work, grid)

    def noted_exact(agent, request, work, steps):
        total = exact(agent, request, work, steps)
        if request.round == 1:
            chosen = agent.patients.names[agent.sample(request).chosen].tolist()
            found.chosen[agent.name] = set(map(tuple, chosen))
            found.exact[agent.name] = total, steps.bound
        return total

    def noted_ask(channel, requests, deadline_s):
        replies, failures = ask(channel, requests, deadline_s)
        for name, request in requests.items():
            reply = replies[name] if name in replies else failures[name]
            sizes = len(encode_request(request)), len(encode_reply(reply))
            found.messages.append((name, request.work.name, request.round, request.attempt, *sizes))
        return replies, failures

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "release", noted_release)
        patch.setattr(Agent, "rounded_sum", noted_rounded)
        patch.setattr(Agent, "exact_sum", noted_exact)
        patch.setattr(Agent, "statistic_rows", noted_rows)
        patch.setattr(InProcessChannel, "ask", noted_ask)
        run.run_study(study, folder, found)
    return found


def is_trained_on(found, patient):
    """Whether somebody is in a hospital."""
    return found.people()[patient][0] in found.materials.hospitals


def neighbours(layout, scheme, kind, change, tmp_path, monkeypatch):
    """Two runs, with one person who trains and without, and the ids that are in one of them only."""

    def ran(root, name, people=0):
        tables = study_tables(layout, root, scheme, tmp_path / "cache", people, **KINDS[kind])
        return seen(tables, tmp_path / name, monkeypatch)

    if layout == "phantom":  # the last one can be left out, and must train
        placed = seen_of_places(study_tables(layout, None, scheme, tmp_path / "cache", 24, **KINDS[kind]))
        last = next(n for n in range(14, 24) if is_trained_on(placed, f"patient-{n:05d}"))
        return ran(None, "first", last + 1), ran(None, "second", last)
    known, other = tmp_path / "known", tmp_path / "other"
    write(layout, known, PEOPLE)
    first = ran(known, "first")
    more = [Person(99)] if change == "replaced" else []
    for number, person in enumerate(PEOPLE):
        root = other / str(number)
        write_neighbour(layout, known, root, PEOPLE, person, more)
        second = seen_of_places(study_tables(layout, root, scheme, tmp_path / "cache", **KINDS[kind]))
        if is_trained_on(first, only_in(first, second)):
            return first, ran(root, "second")
    raise AssertionError("somebody trains")


def seen_of_places(tables):
    """What is seen before the first round."""
    study = parse_study(tables)
    return Seen(study, gather(study, Silent()))


def only_in(first, second):
    """The one id that the second data set lacks."""
    [gone] = first.people().keys() - second.people().keys()
    return gone


@pytest.mark.parametrize(("layout", "scheme", "kind", "change"), family(CASES, keep=KEPT))
def test_one_person_changes_nothing_for_anybody_else(layout, scheme, kind, change, tmp_path, monkeypatch):
    first, second = neighbours(layout, scheme, kind, change, tmp_path, monkeypatch)
    gone = only_in(first, second)
    mine = names_of([gone, *(second.people().keys() - first.people().keys())])
    theirs, others = first.people(), {k: v for k, v in second.people().items() if k in first.people()}
    assert {k: v for k, v in theirs.items() if k != gone} == others
    assert first.public() == second.public()
    for hospital in first.chosen.keys() | second.chosen.keys():
        drawn, now = (found.chosen.get(hospital, set()) for found in (first, second))
        assert drawn ^ now <= set(map(tuple, mine.tolist()))
    if first.sums:  # a hospital without patients answers as well
        assert first.sums.keys() == second.sums.keys() == set(first.materials.hospitals)
    apart = CLIP * len(mine)
    for hospital in first.sums:
        moved = np.linalg.norm(first.sums[hospital].astype(np.float64) - second.sums[hospital])
        assert moved <= (apart if hospital == theirs[gone][0] or change == "replaced" else 1e-5)
    for hospital, (total, bound) in first.exact.items():
        steps = [int(step) ** 2 for step in total - second.exact[hospital][0]]
        of_theirs = hospital == theirs[gone][0] or change == "replaced"
        assert sum(steps) <= ((len(mine) * bound) ** 2 if of_theirs else 0)
    for name in first.gradients.keys() & second.gradients.keys():
        assert np.array_equal(first.gradients[name], second.gradients[name])
    assert first.sums or first.gradients or first.exact or kind == "together"


@pytest.mark.parametrize(
    ("hospitals", "data", "is_fixed"),
    [
        ({"scheme": "sizes", "sizes": (5, 4, 3)}, {}, True),
        ({}, {"test": "stratified"}, True),
        ({"scheme": "dirichlet"}, {}, False),
    ],
)
def test_a_certificate_says_when_it_is_for_a_fixed_division(hospitals, data, is_fixed, tiny_study, tmp_path):
    study = tiny_study(hospitals=hospitals, data=data, federation={"rounds": 1})
    certificate: Any = run.run_study(study, tmp_path / "run", Silent()).certificate
    assert certificate["statement"]["division"] == ("fixed" if is_fixed else "by-own-id")
    card = (tmp_path / "run" / "model.json").read_text()
    for words in (certificate["sentence"], certificate["short"], card):
        assert ("for this fixed division of the patients" in words) == is_fixed
