"""Images and patients of each class and each hospital, and the number of images of a patient."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from wardround.boundary.text import counted
from wardround.images.entries import Target
from wardround.images.patients import ImageSet
from wardround.images.quality.measure import Measures
from wardround.images.quality.notice import Level, Notice
from wardround.types import Persons

FEW_PATIENTS = 10
"""A class with fewer patients can be neither learnt nor tested."""

_SMALL_SHARE = 0.05


@dataclass(frozen=True)
class Count:
    """The images of one class or hospital, and the patients with at least one; of a hospital, images by class."""

    name: str
    images: int
    patients: int
    images_of_class: tuple[int, ...] = ()


@dataclass(frozen=True)
class Balance:
    """Counts of a set.

    Args:
        images: of all patients; the slices of one volume are one image.
        classes: in the order of the labels. With masks: the images in which a class is drawn.
        sites: by name; empty where the layout names none.
        images_per_patient: number of images, and of the patients who have as many, ascending.
        has_background: class 0 is the part that no mask covers, and not a finding.
    """

    images: int
    patients: int
    classes: tuple[Count, ...]
    sites: tuple[Count, ...]
    images_per_patient: tuple[tuple[int, int], ...]
    has_background: bool

    @property
    def shown(self) -> tuple[Count, ...]:
        """The classes that a person asks about."""
        return self.classes[self.has_background :]

    @property
    def range_per_patient(self) -> str:
        """The fewest to the most images of one patient, in words."""
        least, most = self.images_per_patient[0][0], self.images_per_patient[-1][0]
        return f"{least} each" if least == most else f"{least} to {most} each"


def balance_of(image_set: ImageSet, measures: Measures) -> Balance:
    """Returns the counts of a set."""
    held = list(zip(measures.patients, measures.images, strict=True))
    people = [patient.id for patient, _ in held]
    labels = [{image.label} for _, image in held]
    if image_set.target is Target.MASKS and measures.mask_shares is not None:
        labels = [set(shares.nonzero()[0].tolist()) for shares in measures.mask_shares]
    sites = [image.site or patient.site for patient, image in held]
    numbers = range(len(image_set.class_names))

    def count(name: str, places: list[int], is_site: bool) -> Count:
        of_class = tuple(sum(label in labels[place] for place in places) for label in numbers) if is_site else ()
        return Count(name, len(places), len({people[place] for place in places}), of_class)

    return Balance(
        images=len(held),
        patients=len(image_set.patients),
        classes=tuple(
            count(image_set.class_names[label], [place for place, of in enumerate(labels) if label in of], False)
            for label in numbers
        ),
        sites=tuple(
            count(site, [place for place, of in enumerate(sites) if of == site], True)
            for site in sorted({site for site in sites if site is not None})
        ),
        images_per_patient=tuple(sorted(Counter(Counter(people).values()).items())),
        has_background=image_set.target is Target.MASKS,
    )


def balance_notices(balance: Balance, persons: Persons) -> Iterator[Notice]:
    """Yields small classes, classes that a hospital lacks, and a set in which each named patient has one picture."""
    shown = list(enumerate(balance.classes))[balance.has_background :]
    for label, one in shown:
        if one.images and (one.patients < FEW_PATIENTS or one.images < _SMALL_SHARE * balance.images):
            yield Notice(
                f"small_class_{label}", Level.LOOK, one.images,
                f"The class {one.name} has {counted(one.images, 'image')} of {counted(one.patients, 'patient')}, "
                f"{100 * one.images / balance.images:.1f} % of all",
                "a model that never gives this answer has a high accuracy; few patients teach little, and with noise "
                "for privacy less.",
                "judge by balanced accuracy and AUROC, or join classes.",
            )  # fmt: skip
    lacking = [
        f"{site.name} has no {one.name}"
        for site in balance.sites
        for label, one in shown
        if not site.images_of_class[label]
    ]
    if lacking:
        yield Notice(
            "class_missing_at_site", Level.LOOK, len(lacking),
            f"A class is missing at a hospital, {counted(len(lacking), 'time')}",
            "where one class is missing, the scanner of that hospital tells the label, and a model trained there "
            "alone learns to give one answer.",
            "report quality per hospital, and read the shortcut check below.",
            names=tuple(lacking),
        )  # fmt: skip
    if persons is Persons.NAMED and balance.images_per_patient[-1][0] == 1 and balance.patients >= 20:
        yield Notice(
            "one_image_each", Level.NOTE, balance.patients,
            f"All {balance.patients:,} patients have one picture",
            "either this is so, or the pictures of one person were counted as several people; then the guarantee "
            "holds for a picture and not for the person.",
            "make sure that patient ids were read where there are any.",
        )  # fmt: skip
