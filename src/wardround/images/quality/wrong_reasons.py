"""The shortcut check: the AUROC that a model could reach without seeing anything a physician would look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np

from wardround.images.entries import Target
from wardround.images.patients import ImageSet
from wardround.images.quality.facts import FileFacts
from wardround.images.quality.measure import Measures
from wardround.images.quality.notice import Level, Notice
from wardround.images.quality.shortcut import Rule, cross_validated_auroc

_GUESSING = 0.5
_WORTH_SAYING = 0.6
"""An AUROC below this is no shortcut that a model would gain from."""


@dataclass(frozen=True)
class Shortcut:
    """The predictions of a few numbers alone.

    Args:
        name: short, for programs.
        auroc: over five folds of patients, none scored by a rule that has seen them.
        margin: 1.96 standard errors, with patients as the unit.
    """

    name: str
    what: str
    auroc: float
    margin: float

    @property
    def is_there(self) -> bool:
        """True if the label is predicted better than chance would by far."""
        return self.auroc - self.margin > _WORTH_SAYING

    @property
    def sentence(self) -> str:
        """The meaning of the figure for a model."""
        if self.auroc - self.margin <= _GUESSING:
            return "Not surely better than guessing (0.5) with this many patients."
        if not self.is_there:
            return "Little better than guessing (0.5): a model gains little from this."
        return f"A model must beat {self.auroc:.2f} before its AUROC says anything about the patients."


def shortcuts_of(image_set: ImageSet, measures: Measures, facts: FileFacts) -> tuple[Shortcut, ...]:
    """Returns the shortcuts by brightness and borders, weaker rules first; by the size of the file where known."""
    if image_set.target is Target.MASKS:
        return ()
    tried = [
        ("borders", "brightness, contrast and each border, linear", measures.borders, Rule.LINEAR),
        ("linear", "brightness, contrast, dark and bright ends, border; linear", measures.six, Rule.LINEAR),
        ("squares", "the same with their squares", measures.six, Rule.SQUARES),
    ]
    sizes = np.array([facts.num_bytes.get(image.file, 0) for image in measures.images], float)
    if sizes.min() > 0:
        tried.append(("file_size", "the size of the file alone", np.log(sizes)[:, None], Rule.SQUARES))
    labels = np.array([image.label for image in measures.images], dtype=np.int64)
    people = [str(patient.id) for patient in measures.patients]
    found = []
    for name, what, numbers, rule in tried:
        auroc = cross_validated_auroc(numbers, labels, people, len(image_set.class_names), rule)
        if auroc is not None:
            found.append(Shortcut(name, what, auroc, 1.96 * _standard_error(auroc, image_set)))
    return tuple(found)


def shortcut_notices(shortcuts: tuple[Shortcut, ...]) -> Iterator[Notice]:
    """Yields one notice for the strongest shortcut, if it is worth saying."""
    there = {shortcut.name: shortcut.auroc for shortcut in shortcuts if shortcut.is_there}
    if not there:
        return
    weakest, strongest = min(there.values()), max(there.values())
    reach = f"{strongest:.2f}" if len(there) == 1 else f"{weakest:.2f} to {strongest:.2f}"
    numbers = ["brightness and borders"] * bool(there.keys() - {"file_size"})
    numbers += ["the size of the file"] * ("file_size" in there)
    yield Notice(
        "shortcut", Level.LOOK, 1,
        f"The label can be told without looking at the patient: AUROC {reach} from {' and '.join(numbers)} alone",
        "the classes differ in device, exposure or processing, and guessing would give 0.5: a model must beat "
        f"{strongest:.2f} before its AUROC says anything about what a physician looks at.",
        "report these figures beside every result, and test on another hospital's pictures.",
    )  # fmt: skip


def _standard_error(auroc: float, image_set: ImageSet) -> float:
    """Returns equation 1 of Hanley and McNeil (1982) for the smallest class against the rest, patients as the unit."""
    counts = np.bincount([patient.label for patient in image_set.patients])
    positives = int(counts[counts > 0].min())
    negatives = max(1, len(image_set.patients) - positives)
    both_above, both_below = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = (
        auroc * (1 - auroc) + (positives - 1) * (both_above - auroc**2) + (negatives - 1) * (both_below - auroc**2)
    ) / (positives * negatives)
    return sqrt(max(0.0, variance))
