"""The identity of a person: the one spelling of an id, words that name nobody, and spellings that look alike.

`folded` is the only owner of the form of an id. Everything that follows (grouping, places, ledger) takes its result.
An id is folded where there is one right answer, and no further:

- control and invisible characters are removed (Unicode `Cc`, `Cf` and the other default-ignorable code points);
- whitespace around it is removed, and whitespace in it becomes one space;
- the rest is brought to Unicode's form NFC (Unicode Standard Annex 15), which joins what renders alike by definition.

The form NFKC is not used: it would join `x²` and `x2`. Case, leading zeros and `.0` are left as they are. Two ids that
differ in these only may be one person or two, so `alike` finds them and a person is asked.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

MISSING = frozenset(
    {"", "nan", "na", "n/a", "n.a.", "#n/a", "<na>", "nat", "none", "null", "nil", "missing"}
    | {"#value!", "#ref!", "#div/0!", "#name?", "#num!", "#null!", "#nv", "#n/d"}
)
"""Cells of a table, folded and in lower case, that hold no value; the last ones are errors of spreadsheets."""

NOBODY = MISSING | {
    "-1", "-1.0", "unknown", "unk", "anonymous", "anonymized", "anonymised", "anon", "removed", "redacted", "withheld",
    "deidentified", "de-identified", "not available", "not applicable", "?", "-", "--",
}  # fmt: skip
"""Ids, folded and in lower case, that name no person: pictures that share one are not of one patient."""

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Default-ignorable code points outside the categories `Cc` and `Cf` (Unicode, DerivedCoreProperties.txt)."""

_SIDES = {"left", "right", "l", "r", "lt", "rt", "od", "os"}
_VIEWS = {"cc", "mlo", "ml", "lm", "ap", "pa", "lat", "lateral", "frontal"}
_SESSION = re.compile(r"-(?:mr|ses|session|visit|timepoint|tp|scan|day|month|baseline|followup)-?[0-9]*\Z")
"""The end of an id of a person's session, as `likeness` writes it: `OAS1_0028_MR2`, `case101_day20`."""

_PADDING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_DECIMAL_ZEROS = re.compile(r"(?<=\d)\.0+$")
_SEPARATORS = re.compile(r"[\s_\-]+")


def folded(text: str) -> str:
    r"""Returns the one spelling of an id or a label; empty where nothing visible is left.

    Folding a folded text changes nothing.

    >>> folded(" Jose\u0301\u200b "), folded("7\0"), folded("A \t B")
    ('José', '7', 'A B')
    >>> folded("007"), folded("7.0"), folded("x\u00b2")
    ('007', '7.0', 'x²')
    """
    if text.isascii() and text.isprintable():  # most texts, and nothing below changes them
        return " ".join(text.split())
    visible = "".join(
        letter
        for letter in _INVISIBLE.sub("", text)
        if letter.isspace() or unicodedata.category(letter) not in ("Cc", "Cf")
    )
    return unicodedata.normalize("NFC", " ".join(visible.split()))


def is_missing(cell: str) -> bool:
    """Returns True for a cell of a table that holds no value: empty, nan, NA, None, null.

    >>> is_missing(" NaN "), is_missing("0")
    (True, False)
    """
    return folded(cell).lower() in MISSING


def names_nobody(patient: str) -> bool:
    """Returns True for an id that names no person: a missing value, -1, unknown.

    >>> names_nobody("None"), names_nobody("-1"), names_nobody("1")
    (True, True, False)
    """
    return folded(patient).lower() in NOBODY


def alike(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Returns groups of different folded names that may mean the same, each sorted: `7`, `7.0`, `007`; `p1`, `P1`.

    >>> alike(["7", "007", "7.0", "8", "p1", "P1", "p-1", "p_1"])
    (('007', '7', '7.0'), ('P1', 'p1'), ('p-1', 'p_1'))
    """
    return several((likeness(name), name) for name in names)


def alike_persons(ids: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Returns groups of different ids that may be one person's: `alike`, or one id with two sides, views or sessions.

    >>> alike_persons(["7", "007", "P_12_LEFT_CC", "P_12_RIGHT_MLO", "13_left", "14_left", "left", "right"])
    (('007', '7'), ('P_12_LEFT_CC', 'P_12_RIGHT_MLO'))
    >>> alike_persons(["OAS1_0028_MR1", "OAS1_0028_MR2", "OAS1_0029_MR1"])
    (('OAS1_0028_MR1', 'OAS1_0028_MR2'),)
    """
    return several((likeness_of_person(name), name) for name in ids)


def several(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Returns groups of two or more different names with one key, each sorted, from pairs of key and name."""
    groups: dict[str, set[str]] = defaultdict(set)
    for key, name in pairs:
        groups[key].add(name)
    return tuple(sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1))


def likeness(name: str) -> str:
    """Returns a key that names share whose difference a person could overlook, or a spreadsheet could make."""
    plain = folded(unicodedata.normalize("NFKC", name).casefold())
    return _SEPARATORS.sub("-", _PADDING_ZEROS.sub("", _DECIMAL_ZEROS.sub("", plain)))


def likeness_of_person(name: str) -> str:
    """Returns the key of `likeness` without words for side, view or session, where a number tells persons apart.

    A public mammography set has `Mass-Training_P_00001_LEFT_CC` as PatientID: four patients are one woman.
    """
    plain = likeness(name)
    kept = "-".join(word for word in _SESSION.sub("", plain).split("-") if word not in _SIDES | _VIEWS)
    return kept if any(letter.isdigit() for letter in kept) else plain
