"""Patients to hospitals: test and validation patients aside first, everybody else to exactly one hospital.

A split inside one data set simulates a federation. By default each patient's place follows from that patient alone: a
keyed hash of the patient's own id (`wardround.randomness.places`), with the label for the scheme `dirichlet` and the
site for the scheme `site`. Removing a patient therefore moves no other patient, as the guarantee for one patient needs.
The key is public, from the split's seed. Shares are expectations, and a hospital may be left without patients: it still
takes part, answers and adds its noise.

The schemes `sizes`, `images` and `label-shards` and stratified test parts have exact sizes, so that one patient's place
depends on all others. They repeat published experiments. Their guarantee is for the fixed division
(`wardround.accounting.terms.Division`), which statements say.

The published split of a data set is offered for comparison with published numbers. Where it has people on
both sides it is marked as leaking, and keeps the mark wherever its numbers appear.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from wardround.boundary.text import counted
from wardround.config.data import DataSection, HospitalsSection
from wardround.errors import DataError
from wardround.images.findings import shortened
from wardround.images.patients import ImageSet, Patient
from wardround.randomness import Places
from wardround.types import HospitalName

_TEST, _HOSPITALS, _VALIDATION, _SHARES = 1, 2, 3, 4
"""Names of the streams derived from one seed: another scheme leaves the test and validation patients as they are."""


class Scheme(StrEnum):
    """The ways of sharing patients out."""

    EVEN = "even"
    SIZES = "sizes"
    IMAGES = "images"
    DIRICHLET = "dirichlet"
    LABEL_SHARDS = "label-shards"
    SITE = "site"


@dataclass(frozen=True)
class Split:
    """The test patients, and the patients of each hospital.

    Args:
        test: patients that no hospital trains on.
        hospitals: patients of each hospital, in the order of the names.
        leaking: whether a person stands on both sides, as in some published splits.
        note: what a reader of the numbers should know; empty if nothing.
        validation: patients that no hospital trains on, to choose among models by; the test patients are then
            seen by the model that was chosen alone.
    """

    test: tuple[Patient, ...]
    hospitals: dict[HospitalName, tuple[Patient, ...]]
    leaking: bool
    note: str
    validation: tuple[Patient, ...] = ()


def split_patients(image_set: ImageSet, data: DataSection, hospitals: HospitalsSection) -> Split:
    """Shares the patients of a data set out, by public numbers that follow from the split's seed.

    Guarantee:
        With test patients by hash and the schemes `even`, `dirichlet` and `site`, a patient's place is a function of
        the study and of the patient's own id, label and site. Shares are expectations: of n patients a test part of
        fraction f is Binomial(n, f). With the others one patient's place depends on all patients, and the guarantee is
        for this fixed division. Of the scheme `images`, whole patients are dealt, so a hospital misses its number by no
        more than one patient's images.

    Args:
        image_set: the patients.
        data: shares of patients set aside, or the published test part instead.
        hospitals: scheme, seed, and the numbers that the scheme needs.

    Raises:
        DataError: a part set aside that has nobody in it, more patients or images asked for than there are, no
            published or named hospitals where they are asked for, or a person in two hospitals.
    """
    scheme, seed = Scheme(hospitals.scheme), hospitals.split_seed
    places, leaking, note = Places.of_seed(seed), False, ""
    if data.test == "published":
        test, rest, note = _published(image_set)
        leaking = bool(note)
    elif data.test == "stratified":
        test, rest = _stratified(image_set.patients, data.test_fraction, _generator(seed, _TEST), "test")
    else:
        test, rest = _set_aside(image_set.patients, data.test_fraction, places, "test")
    validation: tuple[Patient, ...] = ()
    if data.validation_fraction > 0 and data.test == "stratified":
        generator = _generator(seed, _VALIDATION)
        validation, rest = _stratified(rest, data.validation_fraction, generator, "validation")
    elif data.validation_fraction > 0:
        validation, rest = _set_aside(rest, data.validation_fraction, places, "validation")
    if not rest:
        everybody = counted(len(image_set.patients), "patient")
        raise DataError(
            f"training must have at least one patient, got none of {everybody} beside those set aside. Choose smaller "
            "parts in `[data]`, or another `[hospitals] split_seed`.",
            code="data-part-empty",
        )
    match scheme:
        case Scheme.SITE:
            dealt = _by_site(image_set.patients, rest, hospitals.names)
        case Scheme.EVEN:
            dealt = _by_shares(rest, _even(len(image_set.class_names), hospitals), places)
        case Scheme.DIRICHLET:
            dealt = _by_shares(rest, _dirichlet(len(image_set.class_names), hospitals), places)
        case _:
            groups = _shared_out(rest, scheme, hospitals, _generator(seed, _HOSPITALS))
            dealt = {name: _in_order(group) for name, group in zip(_names(len(groups)), groups, strict=True)}
            unused = len(rest) - sum(map(len, groups))
            if unused:
                one, many = "patient is in no hospital and is", "patients are in no hospital and are"
                note = f"{note} {counted(unused, one, many)} not used.".strip()
    split = Split(test, dealt, leaking, note, validation)
    check_disjoint(split)
    return split


def check_disjoint(split: Split) -> None:
    """Refuses a split unless each patient is in exactly one hospital, and in the test part only if it is leaking.

    Raises:
        DataError: the number of people in two hospitals, or on both sides; no names.
    """
    places = Counter(patient.id for patients in split.hospitals.values() for patient in patients)
    twice = sum(times > 1 for times in places.values())
    if twice:
        raise DataError(
            f"a patient must be in exactly one hospital, but {twice} are in two or more: their "
            "protection would be spent twice. Give each of them one site."
        )
    if any(patient.id in places for patient in split.validation):
        raise DataError("a validation patient must be in no hospital, but some are. Make a new split.")
    both = len({patient.id for patient in split.test} & places.keys())
    if both and not split.leaking:
        raise DataError(
            f"a patient must be either tested on or trained on, but {both} are both. Make a new "
            "split, or mark this one as leaking."
        )


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream)))


def _in_order(patients: list[Patient]) -> tuple[Patient, ...]:
    return tuple(sorted(patients, key=lambda patient: patient.id))


def _names(count: int) -> list[HospitalName]:
    width = len(str(count))
    return [HospitalName(f"hospital-{number:0{width}d}") for number in range(1, count + 1)]


def _by_label(patients: tuple[Patient, ...], generator: np.random.Generator) -> list[list[Patient]]:
    """Returns patients of each label in a random order, lowest label first."""
    groups: dict[int, list[Patient]] = defaultdict(list)
    for patient in patients:
        groups[patient.label].append(patient)
    return [[groups[label][i] for i in generator.permutation(len(groups[label]))] for label in sorted(groups)]


def _set_aside(
    patients: tuple[Patient, ...], fraction: float, places: Places, part: str
) -> tuple[tuple[Patient, ...], tuple[Patient, ...]]:
    """Returns patients whose number for that part is below `fraction`, and the others."""
    aside = [places.of(part, patient.id) < fraction for patient in patients]
    chosen = [patient for patient, is_aside in zip(patients, aside, strict=True) if is_aside]
    if not chosen:
        raise _nobody(
            part, f"by chance none of {counted(len(patients), 'patient')} at {part}_fraction = {fraction:g}"
        )
    rest = tuple(patient for patient, is_aside in zip(patients, aside, strict=True) if not is_aside)
    return _in_order(chosen), rest


def _stratified(
    patients: tuple[Patient, ...], fraction: float, generator: np.random.Generator, part: str
) -> tuple[tuple[Patient, ...], tuple[Patient, ...]]:
    """Returns patients set aside, `fraction` of each label rounded, and the others: places depend on each other."""
    aside: list[Patient] = []
    for group in _by_label(patients, generator):
        aside += group[: round(fraction * len(group))]
    chosen = {patient.id for patient in aside}
    rest = tuple(patient for patient in patients if patient.id not in chosen)
    if not aside or not rest:
        raise _nobody(part, f"{len(aside)}, and {len(rest)} to train on, at {part}_fraction = {fraction:g}")
    return _in_order(aside), rest


def _nobody(part: str, got: str) -> DataError:
    return DataError(
        f"the {part} part must have at least one patient, got {got}. Choose another `[data] {part}_fraction`, or "
        "another `[hospitals] split_seed`.",
        code="data-part-empty",
    )


def _published(image_set: ImageSet) -> tuple[tuple[Patient, ...], tuple[Patient, ...], str]:
    """Returns the published test part, all other images by patient, and a note if people are in both."""
    patients = image_set.patients
    if not any(image.split == "test" for patient in patients for image in patient.images):
        raise DataError(
            f"a published split must come with the data, but {image_set.name} names no test part. "
            'Set `[data] test` to "patients".',
            code="data-no-published-split",
        )
    parts: dict[bool, list[Patient]] = {True: [], False: []}
    for patient in patients:
        for is_test, part in parts.items():
            images = tuple(image for image in patient.images if (image.split == "test") is is_test)
            if images:
                part.append(replace(patient, images=images))
    both = len({patient.id for patient in parts[True]} & {patient.id for patient in parts[False]})
    if not parts[False]:
        raise DataError(
            'a published split must leave patients to train on, got none. Set `[data] test` to "patients".'
        )
    note = (
        f"The published split is leaking: {counted(both, 'patient is', 'patients are')} in both its "
        "training and its test part."
    )
    return tuple(parts[True]), tuple(parts[False]), note if both else ""


def _by_site(
    everyone: tuple[Patient, ...], rest: tuple[Patient, ...], listed: tuple[str, ...] | None
) -> dict[HospitalName, tuple[Patient, ...]]:
    """Returns the hospitals that the study lists, or else those that the data names, in the alphabet's order.

    A hospital that the study lists is there without patients as well. Without a list the hospitals are those of the
    data, and the last patient of one takes it along; `materials.gather` then refuses the study's number of hospitals.
    """
    several = sum(len(patient.sites) > 1 for patient in everyone)
    if several:
        raise DataError(
            "a patient must be in exactly one hospital, but "
            f"{counted(several, 'patient has', 'patients have')} images from two sites "
            "or more. Give all images of a person one site, tell two persons of one id apart in patients.csv, or "
            "choose another scheme.",
            code="data-several-sites",
        )
    unknown = sum(not patient.sites for patient in everyone)
    if unknown:
        raise DataError(
            f"the scheme site must know everybody's site, but that of {unknown} of {counted(len(everyone), 'patient')} "
            "is missing. Fill the column site, or choose another scheme.",
            code="data-no-site",
        )
    found = sorted({patient.sites[0] for patient in everyone})
    names = found if listed is None else listed
    strange = [site for site in found if site not in names]
    if strange:
        raise DataError(
            f"`[hospitals] names` must list every site in the data, and lacks {shortened(strange)}. Add the missing "
            "ones, and set count.",
            code="data-site-not-listed",
        )
    hospitals: dict[HospitalName, list[Patient]] = {HospitalName(name): [] for name in names}
    for patient in rest:
        hospitals[HospitalName(patient.sites[0])].append(patient)
    return {name: _in_order(patients) for name, patients in hospitals.items()}


def _by_shares(
    patients: tuple[Patient, ...], shares: npt.NDArray[np.float64], places: Places
) -> dict[HospitalName, tuple[Patient, ...]]:
    """Returns hospitals that a patient of class k joins with probability shares[k, hospital], by the patient's id."""
    ends = shares.cumsum(axis=1)
    groups: list[list[Patient]] = [[] for _ in range(shares.shape[1])]
    for patient in patients:
        at = int(np.searchsorted(ends[patient.label], places.of("hospital", patient.id), side="right"))
        groups[min(at, len(groups) - 1)].append(patient)
    return {name: _in_order(group) for name, group in zip(_names(len(groups)), groups, strict=True)}


def _even(classes: int, sharing: HospitalsSection) -> npt.NDArray[np.float64]:
    """Returns equal shares, (class, hospital)."""
    return np.full((classes, sharing.count), 1 / sharing.count)


def _dirichlet(classes: int, sharing: HospitalsSection) -> npt.NDArray[np.float64]:
    """Returns the shares of each class, (class, hospital): each a Dirichlet draw from the seed and the class alone."""
    concentration = [sharing.alpha] * sharing.count
    return np.stack(
        [_generator(sharing.split_seed, _SHARES, label).dirichlet(concentration) for label in range(classes)]
    )


def _shared_out(
    patients: tuple[Patient, ...], scheme: Scheme, sharing: HospitalsSection, generator: np.random.Generator
) -> list[list[Patient]]:
    """Returns one group a hospital, none of them empty, by permutations: places depend on each other."""
    sizes = sharing.sizes or ()
    if scheme is Scheme.SIZES and min(sizes, default=0) < 1:
        raise DataError(
            f"sizes must name at least one patient for each hospital, got {list(sizes)}. Write for example [500, 300]."
        )
    needed = {
        Scheme.SIZES: sum(sizes),
        Scheme.LABEL_SHARDS: sharing.count * sharing.shards_per_hospital,
    }.get(scheme, sharing.count)
    if needed > len(patients):
        raise DataError(
            f"the hospitals must find patients enough, {len(patients)} are left to train on and the scheme "
            f"{scheme} needs {needed}. Ask for fewer or smaller hospitals.",
            code="data-too-few-patients",
        )
    in_turn = [patient for group in _by_label(patients, generator) for patient in group]
    if scheme in (Scheme.SIZES, Scheme.IMAGES):
        mixed = [in_turn[i] for i in generator.permutation(len(in_turn))]
        if scheme is Scheme.IMAGES:
            return _by_images(mixed, sharing)
        return [mixed[end - size : end] for end, size in zip(np.cumsum(sizes), sizes, strict=True)]
    cuts = np.linspace(0, len(in_turn), needed + 1).astype(int)
    order = generator.permutation(needed).reshape(sharing.count, -1)
    return [[p for shard in row for p in in_turn[cuts[shard] : cuts[shard + 1]]] for row in order]


def _by_images(patients: list[Patient], sharing: HospitalsSection) -> list[list[Patient]]:
    """Returns whole patients in order, cut where the images dealt so far are nearest to a multiple of `images`."""
    dealt = np.cumsum([0, *(len(patient.images) for patient in patients)])
    wanted = (sharing.images or 0) * np.arange(sharing.count + 1)
    if wanted[-1] > dealt[-1]:
        raise DataError(
            f"the hospitals must find images enough, {dealt[-1]} are left to train on and "
            f"{counted(sharing.count, 'hospital')} "
            f"with {sharing.images} each need {wanted[-1]}. Ask for fewer or smaller hospitals.",
            code="data-too-few-images",
        )
    after = np.searchsorted(dealt, wanted)
    before = np.maximum(after - 1, 0)
    cuts = np.where(wanted - dealt[before] < dealt[after] - wanted, before, after)
    if (np.diff(cuts) == 0).any():
        raise DataError(
            f"every hospital must have a patient, but some patient has more images than {sharing.images}, which is "
            "what a whole hospital was to have. Ask for larger hospitals.",
            code="data-hospital-too-small",
        )
    return [patients[start:end] for start, end in pairwise(cuts)]
