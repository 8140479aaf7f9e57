"""An inspection: all checks of a set before it is trained on, in one value.

Guarantee: none. An inspection holds private facts, names of files and of patients: it is for the hospital's own
screen. Only what is charged to the ledger leaves the hospital.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.images.entries import Target
from wardround.images.findings import Findings, by_cause
from wardround.images.patients import ImageSet
from wardround.images.quality.balance import Balance, balance_notices, balance_of
from wardround.images.quality.card import NOT_STATED, STATEMENTS, DataCard, Stated, data_card, read_stated
from wardround.images.quality.facts import FileFacts
from wardround.images.quality.found import found_notices
from wardround.images.quality.lookalikes import Lookalike, search_lookalikes
from wardround.images.quality.measure import Measures, measure
from wardround.images.quality.notice import Level, Notice
from wardround.images.quality.outliers import LEAST_PICTURES, depth_notices, mask_notices, outlier_notices
from wardround.images.quality.wrong_reasons import Shortcut, shortcut_notices, shortcuts_of
from wardround.types import Progress

_FEW = 20


@dataclass(frozen=True)
class Inspection:
    """The notices of a set, and the checks that were not made.

    The gravest notices come first; shortcuts are empty where nothing is to be predicted.
    """

    card: DataCard
    balance: Balance
    notices: tuple[Notice, ...]
    shortcuts: tuple[Shortcut, ...]
    lookalikes: tuple[Lookalike, ...]
    not_checked: tuple[str, ...]
    findings: Findings

    def num_of(self, level: Level) -> int:
        """Returns the number of notices of one level."""
        return sum(notice.level is level for notice in self.notices)

    def to_json(self) -> dict[str, object]:
        """Returns counts and figures without the name of a file or patient; private facts all the same."""
        return {
            "patients": self.balance.patients,
            "images": self.balance.images,
            "notices": {notice.code: {"level": notice.level, "count": notice.count} for notice in self.notices},
            "shortcuts": {shortcut.name: shortcut.auroc for shortcut in self.shortcuts},
            "refusals": dict(Counter(error.code for error in self.findings.refusals)),
            "left_out": {cause: len(names) for cause, names in by_cause(self.findings.left_out).items()},
            "card": self.card.to_json(),
            "not_checked": list(self.not_checked),
        }


def inspect(
    image_set: ImageSet, *, facts: FileFacts | None = None, progress: Progress | None = None
) -> Inspection:
    """Looks at every picture of a set once, and at every pair of pictures.

    The set has at least one patient; `facts` are of its files (`wardround.images.quality.facts.facts_of_folder`). A
    statement beside the data that cannot be read is a notice.
    """
    known = facts or FileFacts()
    measures = measure(image_set, progress)
    balance = balance_of(image_set, measures)
    stated, damaged = _stated(image_set)
    card = data_card(image_set, balance, stated)
    findings = replace(image_set.findings, notes=(*image_set.findings.notes, *(notice.what for notice in damaged)))
    pairs, passed_over = search_lookalikes(image_set, measures)
    shortcuts = shortcuts_of(image_set, measures, known)
    notices = [
        *found_notices(image_set),
        *damaged,
        *_lookalike_notices(pairs, image_set.persons.one),
        *shortcut_notices(shortcuts),
        *outlier_notices(measures, known, image_set.pixels.shape[2:]),
        *mask_notices(measures),
        *depth_notices(measures, image_set.pixels.ndim - 2),
        *balance_notices(balance, image_set.persons),
        *_card_notices(card),
    ]
    gravest_first = sorted(notices, key=lambda notice: list(Level).index(notice.level))
    not_checked = tuple(_not_checked(image_set, measures, known, shortcuts, passed_over))
    return Inspection(card, balance, tuple(gravest_first), shortcuts, pairs, not_checked, findings)


def _stated(image_set: ImageSet) -> tuple[Stated, list[Notice]]:
    """Returns the statement beside the data; a notice where it cannot be read."""
    try:
        return read_stated(image_set.root), []
    except DataError as error:
        meaning, advice = "the card says nothing of licence and origin.", "as the sentence says."
        return Stated(), [Notice("statement", Level.LOOK, 1, str(error).rstrip("."), meaning, advice)]


def _lookalike_notices(pairs: tuple[Lookalike, ...], one: str) -> Iterator[Notice]:
    where = "in two files" if one == "picture" else "under two patients"

    def notice(
        code: str, level: Level, found: list[Lookalike], what: str, meaning: str, advice: str
    ) -> Iterator[Notice]:
        if found:
            rows = tuple(pair.rows for pair in found)
            yield Notice(
                code, level, len(found), f"{counted(len(found), 'pair')} of {what}", meaning, advice, rows
            )

    copies = [pair for pair in pairs if pair.is_copy]
    alike = [pair for pair in pairs if not pair.is_copy]
    yield from notice(
        "lookalikes_across_parts", Level.LOOK, [pair for pair in copies if pair.crosses_parts],
        "near-identical pictures, one in each published part",
        "if they are one picture encoded twice, the published test set leaks.",
        "compare them below; set test = 'patients', and give both the same patient id if they are one.",
    )  # fmt: skip
    yield from notice(
        "lookalikes", Level.LOOK, [pair for pair in copies if not pair.crosses_parts],
        f"near-identical pictures {where}",
        "if the two are one person, that person is protected half as well as promised, and may be in training and "
        "test at once.",
        "compare them below; give both the same patient id if they are one person.",
    )  # fmt: skip
    if len(alike) <= _FEW:  # where many are alike, being alike says nothing
        yield from notice(
            "alike", Level.NOTE, alike, f"pictures {where}, alike but less so than copies are",
            "now and then two exposures of one person who was entered twice.",
            "give the first few a glance.",
        )  # fmt: skip


def _card_notices(card: DataCard) -> Iterator[Notice]:
    missing = [name for name in ("licence", "source", "citation") if getattr(card.stated, name) == NOT_STATED]
    if missing:
        yield Notice(
            "not_stated", Level.NOTE, len(missing), f"Not stated: {', '.join(missing)}",
            "nobody can tell from the data whether they may be used for this.",
            f"write {' and '.join(missing)} into a {STATEMENTS[0]} beside the data.",
        )  # fmt: skip


def _not_checked(
    image_set: ImageSet, measures: Measures, facts: FileFacts, shortcuts: tuple[Shortcut, ...], passed_over: int
) -> Iterator[str]:
    if not facts.sizes:
        yield "sizes and shapes of the files: not at hand, only the grid that pictures were brought to"
    if image_set.pixels.ndim == 5 and not facts.spacings_mm:
        yield "spacing of the volumes: not at hand, only the grid that volumes were brought to"
    if image_set.target is Target.MASKS:
        yield "the shortcut: there is no label to predict, only masks"
    elif not shortcuts:
        yield "the shortcut: too few patients in a class for five folds"
    if len(measures.images) < LEAST_PICTURES:
        yield f"pictures unlike the others: fewer than {LEAST_PICTURES} pictures"
    if passed_over:
        yield f"{passed_over:,} more pairs that are alike, but less than those looked at"
    yield "mirrored, turned, shifted and cropped copies"
