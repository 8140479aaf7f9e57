"""An inspection as lines for the terminal."""

from collections.abc import Iterator, Mapping

from wardround.images.entries import Target
from wardround.images.findings import Findings, causes, shortened
from wardround.images.patients import ImageSet
from wardround.images.quality.inspection import Inspection
from wardround.images.quality.notice import Level, Notice
from wardround.types import Persons

_GROUPS = 3
_NAMES_OF_GROUP = 3
_WORDS = {Level.STOP: "STOP", Level.LOOK: "LOOK", Level.NOTE: "note"}


def lines(inspection: Inspection, image_set: ImageSet) -> list[str]:
    """Returns the lines that `wardround data check` prints. Names files and patients: for the hospital's own screen."""
    file_of = {image.row: image.file for patient in image_set.patients for image in patient.images}
    is_unnamed = image_set.persons is Persons.UNNAMED
    found = image_set.findings
    return [printable(line) for line in _lines(inspection, file_of, found, is_unnamed=is_unnamed)]


def printable(text: str) -> str:
    r"""Returns one line without control characters: a file name must not move the cursor.

    >>> printable("a\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _lines(
    inspection: Inspection, file_of: Mapping[int, str], findings: Findings, *, is_unnamed: bool
) -> Iterator[str]:
    card, balance = inspection.card, inspection.balance
    if is_unnamed:
        yield f"{card.schema.layout}: {balance.images:,} images that name no patient"
    else:
        yield (
            f"{card.schema.layout}: {balance.images:,} images of {balance.patients:,} patients, "
            f"{balance.range_per_patient}"
        )
    if found := findings.left_out:
        yield f"left out: {causes(found)}"
    axes = f"({', '.join(card.schema.axes)})"
    yield f"pictures: {' x '.join(str(side) for side in card.schema.shape)} {axes}"
    if len(balance.shown) > 1:
        order = (
            "grades, from the least on" if card.schema.target == Target.GRADES else "classes, in the model's order"
        )
        yield f"{order}: {', '.join(one.name for one in balance.shown)}"
    for what, counts in (("class", balance.shown), ("site", balance.sites)):
        for one in counts:
            yield f"{what} {one.name}: {one.images:,} images" + f" of {one.patients:,} patients" * (not is_unnamed)
    yield f"licence: {card.stated.licence}; source: {card.stated.source}"
    yield f"digest: {card.id}"
    yield ""
    for notice in inspection.notices:
        yield from _notice(notice, file_of)
    if inspection.shortcuts:
        yield "what a model must beat (AUROC over five folds of patients; guessing gives 0.5):"
        for shortcut in inspection.shortcuts:
            yield f"      {shortcut.auroc:.3f}  {shortcut.what}"
    for missing in inspection.not_checked:
        yield f"not checked: {missing}"


def _notice(notice: Notice, file_of: Mapping[int, str]) -> Iterator[str]:
    yield f"{_WORDS[notice.level]}  {notice.what}"
    yield f"      {notice.meaning[:1].upper()}{notice.meaning[1:]}"
    yield f"      What to do: {notice.advice}"
    groups = []
    for rows in notice.rows:
        files = [file_of[row] for row in rows[:_NAMES_OF_GROUP]]
        groups.append(" = ".join(files + ["..."] * (len(rows) > _NAMES_OF_GROUP)))
    if groups or notice.names:
        yield f"      {shortened([*groups, *notice.names], _GROUPS)}"
