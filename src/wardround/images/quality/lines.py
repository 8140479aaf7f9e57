"""An inspection as lines for the terminal."""

from collections.abc import Iterator, Mapping

from wardround.boundary.text import counted, shown
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
    return [shown(line) for line in _lines(inspection, file_of, is_unnamed=is_unnamed)]


def _lines(inspection: Inspection, file_of: Mapping[int, str], *, is_unnamed: bool) -> Iterator[str]:
    card, balance = inspection.card, inspection.balance
    said = (
        f"{card.schema.layout}: {counted(balance.images, 'image that names', 'images that name')} no patient"
        if is_unnamed
        else f"{card.schema.layout}: {counted(balance.images, 'image')} of {counted(balance.patients, 'patient')}, "
        f"{balance.range_per_patient}"
    )
    yield "; ".join([said, *not_used(inspection.findings)])
    axes = f"({', '.join(card.schema.axes)})"
    yield f"pictures: {' x '.join(str(side) for side in card.schema.shape)} {axes}"
    if len(balance.shown) > 1:
        order = (
            "grades, from the least on" if card.schema.target == Target.GRADES else "classes, in the model's order"
        )
        yield f"{order}: {', '.join(one.name for one in balance.shown)}"
    for what, counts in (("class", balance.shown), ("site", balance.sites)):
        for one in counts:
            of = "" if is_unnamed else f" of {counted(one.patients, 'patient')}"
            yield f"{what} {one.name}: {counted(one.images, 'image')}{of}"
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


def not_used(findings: Findings) -> list[str]:
    """Returns all that a study would be refused for and all that is left out, by cause with its count."""
    said = []
    if refusals := findings.refusals:
        each = " ".join(f"({number}) {error}" for number, error in enumerate(refusals, start=1))
        said.append(f"a study is refused for {counted(len(refusals), 'cause')}: {each}".rstrip("."))
    if left_out := findings.left_out:
        said.append(f"left out: {causes(left_out)}")
    if findings.notes:
        said.append(f"notes: {'; '.join(findings.notes)}")
    return said


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
