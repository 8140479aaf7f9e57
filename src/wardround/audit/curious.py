"""The study as a curious coordinator sees it: pictures from gradients, from sums, and from sums with noise.

One study, its pictures and its network. Of sixteen patients, one picture each, the coordinator sees one patient's
gradient (plain FedSGD), the sum of all sixteen (secure aggregation alone), and both with the noise of one sum. The
coordinator hands out the weights, so it may draw the last layer at random; a last layer of zeros, with which most
networks of the catalogue start, hides what lies below.

The modified model (`_split`) is the attack of Fowl et al. 2021 ("Robbing the Fed", https://arxiv.org/abs/2110.13057) on
the last layer over several rounds, and of Wen et al. 2022 ("Fishing", https://arxiv.org/abs/2202.00580, section 4.2). A
direction and a threshold t make the model sure of one class above t, and of another below. From one threshold to the
next, the sum changes by the inputs of the patients in between, whatever their labels. A bin with one patient gives that
patient's input exactly, out of a sum of any number of patients.

Guarantee: none. Pictures, scores and ranks are facts about patients: they are for the hospital that holds them.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from wardround.agreed.network import loss_of
from wardround.agreed.plans import plan_of
from wardround.audit.reconstruction import (
    Values,
    bias_of,
    head_inputs,
    head_of,
    is_differentiable,
    levelled,
    peak_signal_to_noise,
    picture_of_row,
    rank_of,
    reconstruct,
    row_of,
    unit_rows,
)
from wardround.audit.sights import Found, Inversion, Modified, Sight
from wardround.config import Study
from wardround.coordinator.observer import Observer
from wardround.errors import StudyError
from wardround.images.entries import Target
from wardround.models.vectors import load_vector, to_vector
from wardround.per_patient.clipping_rules import Flat
from wardround.privacy.plans.kinds import NoisedGradients, NotPrivate
from wardround.privacy.plans.releases import clip_of
from wardround.privacy.plans.wording import statement_of
from wardround.randomness import Randomness, Stream
from wardround.reproduce.as_published.singh import brightness_shift
from wardround.reproduce.mechanisms.pictures.noise import Noise, NoisedPixels
from wardround.reproduce.mechanisms.pictures.resemblance import coarse, structural_similarity
from wardround.simulation.materials import Materials, gather
from wardround.training.patients import Rows, Sample, TrainingPatients, training_patients
from wardround.types import Pictures, Vector

TOGETHER = 16
"""Patients in a sum."""
SHOWN = 3
"""Patients whose pictures are sought; the others are in the sum."""
THRESHOLDS = 33
"""Rounds of the modified model."""
_AT_ONCE = 256
_SECONDS_ONE, _SECONDS_SUM, _SECONDS_ROW = 7.0, 25.0, 5.0
_ALONE = 0.9999
"""Cosine of a bin's row with a patient's own from which the patient counts as taken out of the sum."""


def invert(study: Study, observer: Observer, *, seed: int | None = None) -> Inversion:
    """Returns what a curious coordinator could see of a study's patients; reads its pictures.

    Args:
        study: with a plan that sums gradients, and a network that classifies pictures.
        observer: is told of progress.
        seed: of patients, weights and noise; None draws them from the operating system.

    Raises:
        StudyError: the study releases no gradients, or predicts no classes of pictures (code `study-audit-invert`).
    """
    plan = plan_of(study)
    if not isinstance(plan.training, NoisedGradients | NotPrivate):
        raise StudyError(
            f'`wardround audit invert` needs sums of gradients, got plan = "{study.privacy.plan}". Use a study of '
            'plan = "dp-sgd" or "none".',
            code="study-audit-invert",
        )
    materials = gather(study, observer)
    if materials.images.target is not Target.CLASSES or len(materials.workbench.input_shape) != 3:
        raise StudyError(
            f"`wardround audit invert` needs a network that classifies pictures, got {study.model.name} on "
            f"{materials.images.target}. Use a study of pictures with classes.",
            code="study-audit-invert",
        )
    return _Attack(study, materials, Randomness(seed, f"{study.stream_name}/audit"), observer).all()


class _Attack:
    """The patients, the weights that are handed out, and every attack on them."""

    def __init__(self, study: Study, materials: Materials, randomness: Randomness, observer: Observer) -> None:
        self.study, self.plan, self.materials, self.observer = study, plan_of(study), materials, observer
        self.randomness, self.workbench = randomness, materials.workbench
        self.network, self.shape = self.workbench.network, self.workbench.input_shape
        self.loss = loss_of(study, materials.images.target)
        members = [patient for patients in materials.split.hospitals.values() for patient in patients]
        order = np.argsort(randomness.stream("patients").uniform(len(members)))[:TOGETHER]
        self.members = [members[k] for k in order]
        self.patients: TrainingPatients = training_patients(self.members, 1)
        self.shown = min(SHOWN, len(self.members))
        self.owner = np.array([k for k, p in enumerate(materials.images.patients) for _ in p.rows])
        self.rows = np.array([row for p in materials.images.patients for row in p.rows])
        places = {patient.id: k for k, patient in enumerate(materials.images.patients)}
        self.own = [places[patient.id] for patient in self.members]
        self.originals = np.asarray(materials.images.pixels[self.patients.rows])
        self.head = head_of(self.network)
        self.weights = self._handed_out()
        self._coarse = self._levels(np.asarray(materials.images.pixels[self.rows]))
        self._features = self._head_rows(self.rows)
        self.sees_pictures = is_differentiable(self.network, self.shape)

    def all(self) -> Inversion:
        """Returns every attack."""
        each, together = [[k] for k in range(self.shown)], [range(len(self.members))]
        name = f"sum of {len(self.members)} patients"
        sights = [
            self._sight("gradient of one patient (plain FedSGD)", each, None),
            self._sight(f"{name}, no noise", together, 0.0),
        ]
        if self._std > 0:
            sights.append(self._sight("gradient of one patient, with the study's noise", each, self._std))
            sights.append(self._sight(f"{name}, with the study's noise", together, self._std))
        mean = np.rint(np.asarray(self.materials.images.pixels[self.rows]).mean(axis=0)).astype(np.uint8)
        blind = Sight(
            "mean of all pictures (no attack)", tuple(self._scored(k, mean[None]) for k in range(self.shown))
        )
        statement = statement_of(self.plan, simulated=True, seeded=self.study.study.seed is not None)
        return Inversion(
            self.study.study.name, self.study.digest, statement.short(), self.study.model.name, self.weights.size,
            len(self.materials.images.patients), len(self.members), tuple(self.originals[: self.shown]),
            (*sights, blind), self._modified(), self._local(),
        )  # fmt: skip

    @property
    def _std(self) -> float:
        """Standard deviation of the noise in one sum that the promise counts on; 0 without a promise."""
        part = self.plan.training
        return part.noise.noise_multiplier * part.clip.norm if isinstance(part, NoisedGradients) else 0.0

    def _handed_out(self) -> Vector:
        """Returns the initial weights with a last layer drawn at random, (parameter,)."""
        load_vector(self.network.trained, self.workbench.initial_weights)
        if self.head is not None:
            draws = self.randomness.stream("last layer").uniform(self.head.weight.numel()) - 0.5
            with torch.no_grad():
                drawn = torch.from_numpy(draws).to(torch.float32).reshape(self.head.weight.shape)
                self.head.weight.copy_(2 * drawn / self.head.in_features**0.5)
        return to_vector(self.network.trained)

    def _sum(
        self, weights: Vector, chosen: Sequence[int], std: float | None, stream: Stream | None = None
    ) -> Vector:
        """Returns the clipped gradient sum of some patients with noise; the gradient itself where std is None."""
        clip, sample = clip_of(self.plan.training), Sample(self.patients, np.array(chosen, dtype=np.int64))
        norm, rule = (np.inf, Flat()) if std is None else (clip.norm, clip.fixed)
        [clipped] = self.workbench.gradient_sums(weights, [sample], float(norm), 0, rule)
        seen = clipped.vector.numpy().astype(np.float64)
        if std and stream is not None:
            stream.add_normal(seen, std)
        return seen.astype(np.float32)

    def _sight(self, name: str, groups: Sequence[Sequence[int]], std: float | None) -> Sight:
        """Returns what the gradients of groups of patients give away of those shown."""
        self.observer.stage(name)
        found: dict[int, Found] = {}
        for at, group in enumerate(groups):
            seen = self._sum(self.weights, group, std, self.randomness.stream("noise", name, at))
            self._load()
            candidates = None
            if self.sees_pictures:
                labels = torch.from_numpy(self.patients.labels[list(group)])
                candidates = reconstruct(
                    self.network, self.loss, seen, labels, self.shape,
                    seconds=_SECONDS_ONE if len(group) == 1 else _SECONDS_SUM,
                    progress=self._progress(at, len(groups)),
                )  # fmt: skip
            row = None if self.head is None else row_of(self.network, self.head, seen)
            for k in group:
                if k < self.shown:
                    found[k] = self._scored(k, candidates, row)
        return Sight(name, tuple(found[k] for k in range(self.shown)))

    def _progress(self, at: int, total: int) -> Callable[[int, int], None]:
        return lambda done, steps: self.observer.progress(at * steps + done, total * steps)

    def _scored(self, k: int, candidates: Pictures | None, row: Values | None = None) -> Found:
        """Returns the scores of the candidate that is most like patient k's picture, and of a row."""
        row_rank = None
        if row is not None and self._features is not None:
            row_rank = rank_of(self.own[k], unit_rows(row), unit_rows(self._features), self.owner)
        if candidates is None:
            return Found(row_rank=row_rank)
        original = self.originals[k : k + 1]
        levels = levelled(candidates, original)
        similar = structural_similarity(levels, np.repeat(original, len(levels), axis=0))
        best = int(similar.argmax())
        rank = rank_of(self.own[k], self._levels(levels[best : best + 1])[0], self._coarse, self.owner)
        psnr = peak_signal_to_noise(levels[best], original[0])
        return Found(levels[best], psnr, float(similar[best]), rank, row_rank)

    def _levels(self, pictures: Pictures) -> Values:
        """Returns block means of pictures without brightness and contrast, (picture, value)."""
        values = coarse(pictures)
        return unit_rows(values - values.mean(axis=1, keepdims=True))

    def _head_rows(self, rows: Rows) -> Values | None:
        """Returns the input of the last layer for pictures, (picture, feature); None where it is not linear."""
        if self.head is None:
            return None
        self._load()
        with torch.no_grad():
            parts = [
                head_inputs(self.network, self.head, self.workbench.inputs_of(rows[at : at + _AT_ONCE])).numpy()
                for at in range(0, len(rows), _AT_ONCE)
            ]
        return np.concatenate(parts).astype(np.float64)

    def _load(self) -> None:
        """Puts the weights that were handed out into the network."""
        load_vector(self.network.trained, self.weights)
        self.network.trained.eval()

    def _modified(self) -> Modified | None:
        """Returns the attack with modified weights; None where the last layer is not linear."""
        if self.head is None:
            return None
        taken, sights = [], []
        for name, std in (("no noise", 0.0), *([("with the study's noise", self._std)] if self._std > 0 else [])):
            label = f"sums of {len(self.members)} patients under modified weights, {name}"
            self.observer.stage(label)
            found = self._split(std)
            own = self._head_rows(self.patients.rows)
            assert own is not None, "the last layer is linear"
            best = unit_rows(own) @ unit_rows(found).T
            taken.append(int((best.max(axis=1) > _ALONE).sum()))
            shown = []
            for k in range(self.shown):
                row, picture = found[int(best[k].argmax())], None
                if self.sees_pictures:
                    picture = picture_of_row(self.network, self.head, row, self.shape, seconds=_SECONDS_ROW,
                                             progress=self._progress(k, self.shown))  # fmt: skip
                shown.append(self._scored(k, picture, row))
            sights.append(Sight(label, tuple(shown)))
        return Modified(tuple(taken), tuple(sights))

    def _split(self, std: float) -> Values:
        """Returns the row of each bin between two thresholds, (bin, feature), from the sums of successive rounds.

        Thresholds are quantiles of the candidates' own values, which an attacker knows of the public or finds by
        bisection.
        """
        assert self.head is not None, "asked for linear last layers alone"
        assert self._features is not None, "they have inputs"
        rows = self._features
        direction = self.randomness.stream("direction").uniform(rows.shape[1]) - 0.5
        if bias_of(self.head) is None:
            direction[-1] = 0.0  # the constant holds the threshold
        values = rows @ direction
        cuts = np.quantile(values, np.linspace(0.0, 1.0, THRESHOLDS))
        cuts[0], cuts[-1] = values.min() - values.std(), values.max() + values.std()
        sums = []
        for at, cut in enumerate(cuts):
            weights = self._trap(direction, float(cut), float(values.std()), float(rows[:, -1].mean()))
            sums.append(
                self._sum(weights, range(len(self.members)), std, self.randomness.stream("trap", at, str(std)))
            )
            self.observer.progress(at + 1, len(cuts))
        return np.stack([row_of(self.network, self.head, after - before) for before, after in pairwise(sums)])

    def _trap(self, direction: Values, cut: float, spread: float, constant: float) -> Vector:
        """Returns weights that are sure of class 1 above the cut, and of class 0 below, (parameter,)."""
        assert self.head is not None, "asked for linear last layers alone"
        slope = 1e4 / spread
        load_vector(self.network.trained, self.weights)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[1] = torch.from_numpy(slope * direction)
            bias = bias_of(self.head)
            if bias is None:
                self.head.weight[1, -1] = -slope * cut / constant
            else:
                bias.fill_(-1e9)
                bias[0], bias[1] = 0.0, -slope * cut
        return to_vector(self.network.trained)

    def _local(self) -> tuple[Sight, ...]:
        """Returns pictures that are noised before anything is trained, by the same scores."""
        pictures = self.originals[: self.shown]
        generator = np.random.default_rng(int(self.randomness.stream("local").words(1)[0]))
        channels, height, width = shape = self.shape[0], self.shape[1], self.shape[2]
        sights = [
            ("one Laplace draw a picture, as published at epsilon 1", "no epsilon holds",
             brightness_shift(pictures, 1.0, generator)),
        ]  # fmt: skip
        side = next(b for b in (8, 4, 2, 1) if height % b == width % b == 0)
        for name, mechanism in (
            ("Laplace noise on every pixel, scale 1, published as epsilon 1",
             NoisedPixels(Noise.LAPLACE, 1.0, shape)),
            (f"DP-Pix, blocks of {side}, published as epsilon 1",
             NoisedPixels(Noise.LAPLACE, 16 * channels / side**2, shape, side, 16)),
            ("Laplace noise on every pixel at epsilon 8",
             NoisedPixels(Noise.LAPLACE, channels * height * width / 8, shape)),
        ):  # fmt: skip
            noised = mechanism.release(pictures.astype(np.float64), self.randomness.stream("local", name))
            note = f"epsilon of the picture is {mechanism.epsilon:,.0f}"
            sights.append((name, note, np.clip(np.rint(noised), 0, 255).astype(np.uint8)))
        return tuple(
            Sight(name, tuple(self._scored(k, noised[k : k + 1]) for k in range(self.shown)), note)
            for name, note, noised in sights
        )
