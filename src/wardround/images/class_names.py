"""Names of classes: their order, and the words that are no class.

The classes of a study are the study's own, in its order (`listing.Classes`). Where it states none, they are those of
the data: numbers by value, then words in the order of the alphabet. That order has a meaning for numbers only, so words
are no grades until a study states their order.
"""

import re
from collections.abc import Collection, Iterable
from fractions import Fraction

from wardround.errors import DataError
from wardround.images.entries import Target
from wardround.images.identity import folded, is_missing

_NUMBER = re.compile(r"[-+]?\d{1,18}(\.\d{1,18})?", re.ASCII)
_UNKNOWN = ("-1", "-1.0")
"""A number that tables write for a label that is not known."""


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
    """Returns the labels, folded, that hold no value: missing ones, and -1.

    A label in `listed`, the names of a study and a site, is a class. So is -1 where -2 is a label too: then the numbers
    are a scale.

    >>> sorted(unlabelled(["0", "nan", "None", "-1"], ["None"]))
    ['-1', 'nan']
    >>> unlabelled(["-2", "-1", "0"], [])
    frozenset()
    """
    found, known = {folded(label) for label in labels}, {folded(name) for name in listed}
    is_scale = any(number_of(label) == -2 for label in found)
    return frozenset(label for label in found - known if is_missing(label) or (label in _UNKNOWN and not is_scale))


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
        f"{what} of a class must have a name that is no missing value, got {', '.join(wrong)}. Name it in `[data] "
        "classes` if it is a class, or leave it out with `[site] leave_out`.",
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
