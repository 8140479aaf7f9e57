"""Every file of an export looked at once: the headers that can be used, and counts of the others, by reason."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from wardround.errors import DataError
from wardround.images.dicom.headers import Header, Kind, read_header
from wardround.images.dicom.labels import LABELS
from wardround.images.dicom.series import without_repeats
from wardround.images.store import Store


@dataclass(frozen=True)
class Survey:
    """The content of an export.

    Args:
        pictures: files of two-dimensional modalities.
        slices: files of CT, MR and PT.
        segmentations: files of masks.
        notes: sentences with counts.
        num_files: of the export.
    """

    pictures: tuple[Header, ...]
    slices: tuple[Header, ...]
    segmentations: tuple[Header, ...]
    notes: tuple[str, ...]
    num_files: int


def survey(store: Store, name_for: Callable[[str, str], str], *, reviewed: bool) -> Survey:
    """Looks at every header.

    Args:
        store: the export.
        name_for: from a kind and a value to a pseudonym.
        reviewed: somebody has looked at pictures that may show a name.

    Raises:
        MissingExtra: a compression needs a decoder that is not installed.
    """
    names = [name for name in store.names() if name != LABELS]
    counts: Counter[str] = Counter()
    headers = []
    for name in names:
        try:
            header = read_header(store, name, name_for)
        except DataError:
            counts[_DAMAGED] += 1
            continue
        if header.kind not in _USED:
            counts[header.kind.value] += 1
        elif header.patient is None:
            counts[_NOBODYS] += 1
        else:
            headers.append(header)
    kept, repeats = without_repeats(headers)
    refused = Counter(header.refusal for header in kept if header.refusal is not None)
    notes = [f"{count} {what} were passed over" for what, count in sorted(counts.items())]
    if repeats:
        notes.append(f"{repeats} files repeat an image that was there before and were passed over")
    for reason, count in sorted(refused.items()):
        verdict = "let in as reviewed" if reviewed else "refused; look at them, and set reviewed to let them in"
        notes.append(f"{count} images ({reason}) were {verdict}")
    used = [header for header in kept if reviewed or header.refusal is None]
    silent = sum(header.is_silent for header in used if header.kind is not Kind.SEGMENTATION)
    if silent:
        notes.append(f"{silent} images do not say whether text is burned in; look at some of them")
    pictures, slices, segmentations = (tuple(h for h in used if h.kind is kind) for kind in _USED)
    return Survey(pictures, slices, segmentations, tuple(notes), len(names))


_USED = (Kind.PICTURE, Kind.SLICE, Kind.SEGMENTATION)
_DAMAGED = "damaged DICOM files"
_NOBODYS = "files without a PatientID, who belong to nobody that could be protected,"
