"""Who there is: images and patients of each class and each hospital, and how many images a patient has."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from wardround.images.entries import Target
from wardround.images.patients import ImageSet
from wardround.images.quality.measure import Measures
from wardround.images.quality.notice import Level, Notice, counted

FEW_PATIENTS = 10
"""A class with fewer patients can be neither learnt nor tested."""

_SMALL_SHARE = 0.05


@dataclass(frozen=True)
class ClassCount:
    """One class: its images, and the patients with at least one of them."""

    name: str
    images: int
    patients: int


@dataclass(frozen=True)
class SiteCount:
    """One hospital named in the data: its images, its patients, and the images of each class."""

    name: str
    images: int
    patients: int
    images_of_class: tuple[int, ...]


@dataclass(frozen=True)
class Balance:
    """Counts of a set.

    Args:
        images: of all patients; the slices of one volume are one image.
        patients: people.
        classes: in the order of the labels. With masks: the images in which a class is drawn.
        sites: by name; empty where the layout names none.
        images_per_patient: how many patients have 1, 2, ... images: (images, patients), ascending.
        has_background: class 0 is what no mask covers, and nobody's finding.
    """

    images: int
    patients: int
    classes: tuple[ClassCount, ...]
    sites: tuple[SiteCount, ...]
    images_per_patient: tuple[tuple[int, int], ...]
    has_background: bool = False

    @property
    def shown(self) -> tuple[ClassCount, ...]:
        """The classes that a person asks about."""
        return self.classes[1:] if self.has_background else self.classes

    @property
    def range_per_patient(self) -> str:
        """From the fewest to the most images of one patient, in words."""
        least, most = self.images_per_patient[0][0], self.images_per_patient[-1][0]
        return f"{least} each" if least == most else f"{least} to {most} each"


def balance_of(image_set: ImageSet, measures: Measures) -> Balance:
    """The counts of a set."""
    labels_of = list(_labels_of_images(image_set, measures))
    numbers = range(len(image_set.class_names))
    people = [patient.id for patient in measures.patients]
    classes = tuple(
        ClassCount(
            name=image_set.class_names[label],
            images=sum(label in labels for labels in labels_of),
            patients=len({who for who, labels in zip(people, labels_of, strict=True) if label in labels}),
        )
        for label in numbers
    )
    site_of = [
        image.site or patient.site for patient, image in zip(measures.patients, measures.images, strict=True)
    ]
    sites = []
    for site in sorted({site for site in site_of if site is not None}):
        places = [place for place, name in enumerate(site_of) if name == site]
        sites.append(
            SiteCount(
                name=site,
                images=len(places),
                patients=len({people[place] for place in places}),
                images_of_class=tuple(sum(label in labels_of[place] for place in places) for label in numbers),
            )
        )
    counts = Counter(Counter(people).values())
    return Balance(
        images=len(measures.images),
        patients=len(image_set.patients),
        classes=classes,
        sites=tuple(sites),
        images_per_patient=tuple(sorted(counts.items())),
        has_background=image_set.target is Target.MASKS,
    )


def balance_notices(balance: Balance) -> Iterator[Notice]:
    """Small classes, classes that a hospital lacks, and sets in which nobody has two pictures."""
    start = len(balance.classes) - len(balance.shown)
    for label, one in list(enumerate(balance.classes))[start:]:
        if one.patients < FEW_PATIENTS or one.images < _SMALL_SHARE * balance.images:
            yield _small_class(label, one, balance)
    lacking = [
        f"{site.name} has no {balance.classes[label].name}"
        for site in balance.sites
        for label in range(start, len(balance.classes))
        if site.images_of_class[label] == 0
    ]
    if lacking:
        yield Notice(
            code="class_missing_at_site",
            level=Level.LOOK,
            count=len(lacking),
            what=f"A class is missing at a hospital, {counted(len(lacking), 'time')}",
            meaning="where one class is missing, the scanner of that hospital tells the label, and a model "
            "trained there alone learns to give one answer.",
            advice="report quality per hospital, and read the shortcut check below.",
            names=tuple(lacking),
        )
    if balance.images_per_patient[-1][0] == 1 and balance.patients >= 20:
        yield Notice(
            code="one_image_each",
            level=Level.NOTE,
            count=balance.patients,
            what=f"All {balance.patients:,} patients have one picture",
            meaning="either this is so, or the pictures of one person were counted as several people; then the "
            "guarantee holds for a picture and not for the person.",
            advice="make sure that patient ids were read where there are any.",
        )


def _small_class(label: int, one: ClassCount, balance: Balance) -> Notice:
    return Notice(
        code=f"small_class_{label}",
        level=Level.LOOK,
        count=one.images,
        what=f"The class {one.name} has {counted(one.images, 'image')} of {counted(one.patients, 'patient')}, "
        f"{100 * one.images / balance.images:.1f} % of all",
        meaning="a model that never gives this answer has a high accuracy; few patients teach little, and with "
        "noise for privacy less.",
        advice="judge by balanced accuracy and AUROC, or join classes.",
    )


def _labels_of_images(image_set: ImageSet, measures: Measures) -> Iterator[tuple[int, ...]]:
    if image_set.target is Target.MASKS and measures.mask_shares is not None:
        yield from (tuple(int(label) for label in shares.nonzero()[0]) for shares in measures.mask_shares)
    else:
        yield from ((image.label,) for image in measures.images)
