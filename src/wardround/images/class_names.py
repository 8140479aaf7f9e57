"""Names of classes: their order, and the words that are no class.

The classes of a study are the study's own, in its order (`listing.Classes`). Where it states none, they are those of
the data: numbers by value, then words in the order of the alphabet. That order has a meaning for numbers only, so words
are no grades until a study states their order.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction

from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.images.entries import Target
from wardround.images.findings import shortened
from wardround.images.identity import folded, is_missing

_NUMBER = re.compile(r"[-+]?\d{1,18}(\.\d{1,18})?", re.ASCII)
_UNKNOWN = ("-1", "-1.0")
"""A number that tables write for a label that is not known."""

_TO_PREDICT = frozenset({"pred", "predict", "prediction", "predictions", "unlabelled", "unlabeled"})
"""Names, in lower case, of pictures that have no label."""

MOST_CLASSES = 20
"""More names with digits, or with few pictures, are those of persons or values unless a study names its classes."""

_FEW_PICTURES = 5
_JOINED = re.compile(r"\s*[|;,+&]\s*")


def number_of(name: str) -> Fraction | None:
    """Returns the value of a name that is a number; None for a word.

    >>> number_of("-2.50"), number_of("4A")
    (Fraction(-5, 2), None)
    """
    return Fraction(name) if _NUMBER.fullmatch(name) else None


def numbers_first(name: str) -> tuple[bool, Fraction, str]:
    """Sorts numbers by value, and words after them in the order of the alphabet.

    >>> sorted(["10", "2.0", "b", "-1", "a"], key=numbers_first)
    ['-1', '2.0', '10', 'a', 'b']
    """
    number = number_of(name)
    return (number is None, number or Fraction(0), name)


def unlabelled(labels: Iterable[str], listed: Collection[str]) -> frozenset[str]:
    """Returns the labels, folded, that hold no value: missing ones, words for pictures without a label, and -1.

    A label in `listed`, the names of a study and a site, is a class. So is -1 where -2 is a label too: then the numbers
    are a scale.

    >>> sorted(unlabelled(["0", "nan", "None", "-1", "Unlabeled"], ["None"]))
    ['-1', 'Unlabeled', 'nan']
    >>> unlabelled(["-2", "-1", "0"], [])
    frozenset()
    """
    found, known = {folded(label) for label in labels}, {folded(name) for name in listed}
    is_scale = any(number_of(label) == -2 for label in found)
    return frozenset(
        label
        for label in found - known
        if is_missing(label) or label.lower() in _TO_PREDICT or (label in _UNKNOWN and not is_scale)
    )


def missing_class(
    what: str, labels: Collection[str], listed: Collection[str], left_out: Collection[str]
) -> tuple[frozenset[str], frozenset[str], DataError | None]:
    """Returns the labels, folded, that hold no value; those that a site leaves out; and the refusal of the others.

    Args:
        what: has such a name, for the sentence.
        labels: folded.
        listed: names of the study's classes.
        left_out: `ReaderOptions.left_out_values`.
    """
    empty, known = unlabelled(labels, listed), {folded(name) for name in listed}
    meant = frozenset(
        name for name in labels if name not in known and ("" if is_missing(name) else name.lower()) in left_out
    )
    wrong = sorted(empty - meant)
    error = DataError(
        f"{what} of a class must have a name that is no missing value and no word for pictures without a label, got "
        f"{', '.join(wrong)}. Name it in `[data] classes` if it is a class, or leave it out with `[site] leave_out`.",
        code="data-missing-class",
    )
    return empty, meant, error if wrong else None


def unordered(class_names: tuple[str, ...], target: Target) -> DataError | None:
    """Returns the refusal of grades whose order nobody stated; None where numbers state it, or no grades are asked for.

    >>> unordered(("0", "1", "2.5"), Target.GRADES)
    """
    words = [name for name in class_names if number_of(name) is None]
    if target is not Target.GRADES or not words:
        return None
    order = ", ".join(f'"{name}"' for name in class_names)
    return DataError(
        f"grades must be numbers, or words whose order the study states, got the words {', '.join(words)}. Set `[data] "
        f"classes` to the names from the least grade to the highest: [{order}], in the right order (`--classes` of "
        "`wardround data check`).",
        code="data-grades-order",
    )


def strange(class_names: Sequence[str], num_pictures: int) -> list[DataError]:
    """Returns the refusals of names that are hardly classes: several labels in one, and too many of them.

    Names of classes leave with a model. Ids of persons among them would leave as well, and the persons' folders would
    not be what is protected.

    >>> [error.code for error in strange(["Effusion", "Mass", "Effusion|Mass"], 90)]
    ['data-multi-label']
    >>> strange(["benign", "malignant", "cyst, benign"], 90)
    []
    """
    names = {_bare(name) for name in class_names}
    joined = [name for name in class_names if _is_joined(name, names)]
    several = DataError(
        f"a picture must have one label, got several in one: {shortened(joined)}. Multi-label sets are not read: give "
        "each picture one class, such as one column's yes or no; if these are classes, name them in `[data] classes`.",
        code="data-multi-label",
    )
    with_digit = sum(any(letter.isdigit() for letter in name) for name in class_names)
    are_few = num_pictures < _FEW_PICTURES * len(class_names)
    many = len(class_names) > MOST_CLASSES and (2 * with_digit > len(class_names) or are_few)
    too_many = DataError(
        f"more than {MOST_CLASSES} classes must have words as names and {_FEW_PICTURES} pictures or more each, got "
        f"{len(class_names)} for {counted(num_pictures, 'picture')}: {shortened([*class_names])}. If they are "
        "patients, give the labels in a manifest.csv (image, patient, label); if they are values, such as an age, make "
        "classes of ranges; if they are classes, name them in `[data] classes`.",
        code="data-many-classes",
    )
    return [*([several] if joined else []), *([too_many] if many else [])]


def _bare(name: str) -> str:
    return name.strip("[]'\" ")


def _is_joined(name: str, names: Collection[str]) -> bool:
    """Returns True for a list, for labels joined by a bar, and by another separator where each is a label by itself."""
    parts = [_bare(part) for part in _JOINED.split(_bare(name))]
    is_list = name.startswith("[") or "|" in name
    return len(parts) > 1 and all(parts) and (is_list or all(part in names for part in parts))
