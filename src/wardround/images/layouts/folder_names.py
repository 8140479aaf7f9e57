"""Names of folders that are neither classes nor patients: parts of a set, visits, kinds of pictures."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from wardround.errors import DataError
from wardround.images.entries import Entry
from wardround.images.findings import shortened
from wardround.images.identity import folded
from wardround.images.mask_names import WORD_START
from wardround.images.naming import TABLE, proposed_patterns
from wardround.images.table import METADATA, PARTS

_PICTURES_OF_A_KIND = 10
"""Pictures in a folder of words, on average, from which on it is a kind of pictures and no patient."""

_SHARD = r"images?|imgs?|pictures?|parts?|folds?|batch|shard|chunk|split|data|(?:data|sub)?set"
_PERSON = r"p|pat|patients?|id|subj?|subjects?|persons?|participants?|cases?|study|series|visits?|ses|sessions?"
_NUMBERED = re.compile(rf"(.*?{WORD_START}(?:pt|Pt|PT|(?i:{_SHARD}|{_PERSON})))[ _.-]*\d+")
"""A numbered part of a set that was cut for its size, such as `images_001`, `HAM10000_images_part_1`, `fold_0`; or a
patient or a visit, such as `patient00001`, `sub-01`, `study1`; not `pT1`, a stage of a tumour."""

_OF_PICTURES = {
    "image",
    "images",
    "img",
    "imgs",
    "picture",
    "pictures",
    "thumbnail",
    "thumbnails",
    "input",
    "data",
}
_LETTERS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def no_classes(folders: Collection[str]) -> DataError | None:
    """Returns the refusal of folders that are parts of one set or patients, also beside other folders."""
    found = sorted({*_alike_but_for_numbers(folders), *parts_among(folders)})
    if not found:
        return None
    return DataError(
        f"folders must be classes, got parts of one set, patients or visits: {shortened(found)}. Give the labels in a "
        f"{METADATA} (file,label,patient_id) or a manifest.csv (image, patient, label); if classes lie in them, call "
        "them train, val and test; if they are the classes, name them in `[data] classes`.",
        code="data-numbered-parts",
    )


def parts_among(folders: Iterable[str]) -> tuple[str, ...]:
    """Returns the names with a word for a published part, sorted: of two parts or more, or beside a word for pictures.

    >>> parts_among(["a. Training Set", "b. Testing Set", "TestSimple", "validated"])
    ('TestSimple', 'a. Training Set', 'b. Testing Set')
    >>> parts_among(["positive test", "negative test"]), parts_among(["train_images", "train_thumbnails", "other"])
    ((), ('train_images', 'train_thumbnails'))
    """
    words = {name: [word.casefold() for word in _LETTERS.findall(name)] for name in folders}
    named = {name: {PARTS[word] for word in words[name] if word in PARTS} for name in words}
    parts: set[str] = set().union(*named.values())
    if len(parts) < 2:
        named = {name: found for name, found in named.items() if not _OF_PICTURES.isdisjoint(words[name])}
    return tuple(sorted(name for name, found in named.items() if found))


def _alike_but_for_numbers(folders: Iterable[str]) -> list[str]:
    """Returns the names that `_NUMBERED` finds and that differ from another one in the number alone, sorted."""
    stems: dict[str, list[str]] = defaultdict(list)
    for folder in sorted(folders):
        if match := _NUMBERED.fullmatch(folder):
            stems[match[1].casefold()].append(folder)
    return [folder for found in stems.values() if len(found) > 1 for folder in found]


def untrained_classes(entries: Iterable[Entry], class_names: Sequence[str]) -> DataError | None:
    """Returns the refusal of classes that lie in published parts, and not in the training part where there is one."""
    parts: dict[str | None, set[int]] = defaultdict(set)
    for entry in entries:
        parts[entry.split].add(entry.label)
    others = set().union(*parts.values()) - parts["train"]
    if not (parts["train"] and others):
        return None
    return DataError(
        f"every class of published parts must lie in the training part, got only elsewhere: "
        f"{shortened([class_names[label] for label in sorted(others)])}; in training: "
        f"{shortened([class_names[label] for label in sorted(parts['train'])])}. Call a class's folder alike in every "
        "part, or name the classes in `[data] classes` and say in [site.class_names] which of them each folder is.",
        code="data-parts-differ",
    )


def no_patients(entries: Sequence[Entry], num_classes: int) -> DataError | None:
    """Returns the refusal of folder names that are not patients': most stand under every class, or are words.

    Words are names of persons where a folder has few pictures, and kinds of pictures where it has many.
    """
    classes: dict[str, set[int]] = defaultdict(set)
    named = [(folded(entry.patient).casefold(), entry.label) for entry in entries if entry.patient is not None]
    for patient, label in named:
        classes[patient].add(label)
    everywhere = {patient for patient, found in classes.items() if len(found) == num_classes}
    parts = {*(classes.keys() & PARTS.keys()), *parts_among(classes)}
    words = [name for name in classes if not any(letter.isdigit() for letter in name)]
    if (num_classes > 1 and 2 * len(everywhere) > len(classes)) or parts:
        wrong, why = sorted(everywhere | parts), "stand under every class or are those of parts"
    elif 2 * len(words) > len(classes) and len(named) >= _PICTURES_OF_A_KIND * len(classes):
        wrong, why = sorted(words), "are words over many pictures"
    else:
        return None
    proposed = [f"{{pattern = '{one.pattern}'}} ({one.patients:,} patients, such as {one.example})"
                for one in proposed_patterns(entry.file for entry in entries)]  # fmt: skip
    by_names = f", or by the file names, such as {' or '.join(proposed)}" if proposed else ""
    return DataError(
        f"folders below a class must be patients, but {len(wrong)} of {len(classes)} folder names {why}: "
        f"{shortened(wrong)}. If they are patients, set `[site] patients` to "
        "{pattern = '^[^/]+/([^/]+)/'}; if numbers begin anew in each class, to {pattern = '^([^/]+/[^/]+)/'}; "
        f"if they are parts or kinds, name the patients in a {TABLE} (picture, patient){by_names}; if they are the "
        "classes, lay them at the top of the data folder.",
        code="data-patient-in-every-class",
    )
