"""The data card: form, origin and terms of use of a set.

The hospital states them in `dataset.toml` beside the data, or in a `dataset.json` as the Decathlon has it:

    title = "Chest X-rays of children"
    licence = "CC BY 4.0"
    citation = "Kermany, Zhang and Goldbaum 2018"
    source = "https://doi.org/10.17632/rscbjbr9sj.2"

An absent word is "not stated"; nothing is guessed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from wardround import __version__
from wardround.boundary.documents import Unfit, load_table
from wardround.errors import DataError
from wardround.images.patients import ImageSet
from wardround.images.quality.balance import Balance

NOT_STATED = "not stated"
STATEMENTS = ("dataset.toml", "dataset.json")

_WORDS = {
    "title": ("title", "name"),
    "licence": ("licence", "license"),
    "citation": ("citation", "reference"),
    "source": ("source", "provenance", "url"),
}
_LONGEST = 500
_MAX_BYTES = 16_000_000


@dataclass(frozen=True)
class Stated:
    """A set in the words of people, each on one line and cut after 500 characters: name, terms, citation, origin."""

    title: str = NOT_STATED
    licence: str = NOT_STATED
    citation: str = NOT_STATED
    source: str = NOT_STATED


@dataclass(frozen=True)
class Schema:
    """The form of a set, as a study file fixes it: nothing in it depends on any patient.

    `shape` is of one picture on the grid that is trained on, and `spacing_mm` of that grid; None for pictures without a
    size in mm.
    """

    layout: str
    target: str
    classes: tuple[str, ...]
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    dtype: str


@dataclass(frozen=True)
class DataCard:
    """Everything about a set on one page.

    Guarantee: none for the card as a whole. Its counts and hashes are private facts of the hospital: a hash of all
    contents confirms to a holder of all patients but one that this one is among them. Only what is charged to
    the ledger leaves the hospital; `shareable` is the part that holds no such fact.

    `id` is `ImageSet.digest`, by which the privacy ledger knows the set; `checksum` is sha256 over the sorted sha256 of
    all files, without labels and patients.
    """

    id: str
    checksum: str
    stated: Stated
    schema: Schema
    images: int
    patients: int
    images_of_class: Mapping[str, int]
    patients_of_site: Mapping[str, int]
    created_by: str

    def to_json(self) -> dict[str, object]:
        """Returns the whole card, for the hospital alone."""
        return asdict(self)

    def shareable(self) -> dict[str, object]:
        """Returns the words of people and the form that the study fixes: no count, hash, path or hospital.

        Nothing here was computed from a picture or a patient, so it costs no privacy. The statement
        is passed on word for word: a count in the title would be their own release.
        """
        return {"stated": asdict(self.stated), "schema": asdict(self.schema), "created_by": self.created_by}


def data_card(image_set: ImageSet, balance: Balance, stated: Stated) -> DataCard:
    """Returns the card of a set, with the statement in its folder (`read_stated`)."""
    contents = sorted(image.digest for patient in image_set.patients for image in patient.images)
    is_volume = image_set.pixels.ndim == 5
    return DataCard(
        id=image_set.digest,
        checksum=hashlib.sha256("\n".join(contents).encode()).hexdigest(),
        stated=stated,
        schema=Schema(
            layout=image_set.name,
            target=str(image_set.target),
            classes=image_set.class_names,
            axes=("channel", "x", "y", "z") if is_volume else ("channel", "height", "width"),
            shape=image_set.pixels.shape[1:],
            spacing_mm=image_set.spacing,
            dtype=str(image_set.pixels.dtype),
        ),
        images=balance.images,
        patients=balance.patients,
        images_of_class={one.name: one.images for one in balance.classes},
        patients_of_site={site.name: site.patients for site in balance.sites},
        created_by=f"wardround {__version__}",
    )


def read_stated(root: Path | None) -> Stated:
    """Returns the statement of `dataset.toml`, or else of `dataset.json`, in the data folder.

    Raises:
        DataError: the file is damaged, too large or no table of words.
    """
    path = next((root / name for name in STATEMENTS if (root / name).is_file()), None) if root else None
    if path is None:
        return Stated()
    table = _table(path)
    words = {}
    for field, names in _WORDS.items():
        found = next((word for name in names if isinstance(word := table.get(name), str)), "")
        words[field] = " ".join(found.split())[:_LONGEST] or NOT_STATED
    return Stated(**words)


def _table(path: Path) -> Mapping[str, object]:
    try:
        read = load_table(path, _MAX_BYTES)
    except (OSError, Unfit) as error:
        raise DataError(
            f"{path.name} must be readable {path.suffix[1:].upper()} in UTF-8, got: {error}. Correct it."
        ) from None
    if not isinstance(read, dict):
        raise DataError(f"{path.name} must be one table of names and values, got a list or a value. Correct it.")
    return read
