"""Patients to hospitals: test patients aside first, then everybody else to exactly one hospital.

A split inside one data set simulates a federation. The scheme `site` uses the hospitals that the data names;
the others share patients out by a seeded draw, more or less unlike each other.

The published split of a data set is offered for comparison with published numbers. Where it has people on
both sides it is marked as leaking, and keeps the mark wherever its numbers appear.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from wardround.errors import DataError
from wardround.images.patients import ImageSet, Patient
from wardround.types import HospitalName

_TEST, _HOSPITALS = 1, 2
"""Names of the two streams derived from one seed: another scheme leaves the test patients as they are."""


class Scheme(StrEnum):
    """How patients are shared out."""

    EVEN = "even"
    SIZES = "sizes"
    DIRICHLET = "dirichlet"
    LABEL_SHARDS = "label-shards"
    SITE = "site"


@dataclass(frozen=True)
class Split:
    """Who is tested on, and who is in which hospital.

    Args:
        test: patients that no hospital trains on.
        hospitals: patients of each hospital, in the order of the names.
        leaking: whether a person stands on both sides, as in some published splits.
        note: what a reader of the numbers should know; empty if nothing.
    """

    test: tuple[Patient, ...]
    hospitals: dict[HospitalName, tuple[Patient, ...]]
    leaking: bool
    note: str


@dataclass(frozen=True)
class _Sharing:
    """What the schemes are asked for: how many hospitals, and each scheme's own number."""

    count: int
    sizes: tuple[int, ...]
    alpha: float
    shards_per_hospital: int


def split_patients(
    image_set: ImageSet,
    *,
    scheme: Scheme,
    seed: int,
    count: int = 5,
    test_fraction: float = 0.2,
    published: bool = False,
    sizes: tuple[int, ...] = (),
    alpha: float = 0.5,
    shards_per_hospital: int = 2,
) -> Split:
    """Share the patients of a data set out, deterministically from `seed`.

    Args:
        image_set: the patients.
        scheme: how they are shared out.
        seed: of the simulation; the draw is no secret and needs no cryptographic noise.
        count: number of hospitals; unused by the schemes `sizes` and `site`.
        test_fraction: share of patients set aside, about equal in each label; unused if `published`.
        published: take the data set's own test part instead.
        sizes: patients of each hospital, for the scheme `sizes`.
        alpha: concentration for `dirichlet`; small means that labels differ much between hospitals.
        shards_per_hospital: for `label-shards`, how many runs of like-labelled patients a hospital gets.

    Raises:
        DataError: a number out of range, more hospitals than patients, a hospital without patients, no
            published or named hospitals where they are asked for, or a person in two hospitals.
    """
    sharing = _Sharing(count, tuple(sizes), alpha, shards_per_hospital)
    _check(sharing, scheme, test_fraction)
    if published:
        test, rest, note = _published(image_set)
    else:
        test, rest = _set_aside(image_set.patients, test_fraction, _generator(seed, _TEST))
        note = ""
    leaking = bool(note)
    if scheme is Scheme.SITE:
        hospitals = _by_site(image_set.patients, rest)
    else:
        groups = _shared_out(rest, scheme, sharing, _generator(seed, _HOSPITALS))
        hospitals = {name: _in_order(group) for name, group in zip(_names(len(groups)), groups, strict=True)}
        unused = len(rest) - sum(map(len, groups))
        if unused:
            note = f"{note} {unused} patients are in no hospital and are not used.".strip()
    split = Split(test, hospitals, leaking, note)
    check_disjoint(split)
    return split


def check_disjoint(split: Split) -> None:
    """Make sure that a patient is in exactly one hospital, and in the test part only if the split is leaking.

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
    both = len({patient.id for patient in split.test} & places.keys())
    if both and not split.leaking:
        raise DataError(
            f"a patient must be either tested on or trained on, but {both} are both. Make a new "
            "split, or mark this one as leaking."
        )


def _generator(seed: int, stream: int) -> np.random.Generator:
    if seed < 0:
        raise DataError(f"the seed of a split must be >= 0, got {seed}. Choose any natural number.")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream,))))


def _check(sharing: _Sharing, scheme: Scheme, test_fraction: float) -> None:
    needs_sizes = scheme is Scheme.SIZES
    rules: tuple[tuple[bool, str, object, str], ...] = (
        (0 < test_fraction < 1, "test_fraction must lie between 0 and 1", test_fraction, "Choose 0.2"),
        (sharing.count >= 1, "the number of hospitals must be >= 1", sharing.count, "Choose 5"),
        (0 < sharing.alpha < np.inf, "alpha must be > 0 and finite", sharing.alpha, "Choose 0.5"),
        (
            sharing.shards_per_hospital >= 1,
            "shards_per_hospital must be >= 1",
            sharing.shards_per_hospital,
            "Choose 2",
        ),
        (
            not needs_sizes or min(sharing.sizes, default=0) >= 1,
            "sizes must name at least one patient for each hospital",
            list(sharing.sizes),
            "Write for example [500, 300]",
        ),
    )
    for holds, rule, came, remedy in rules:
        if not holds:
            raise DataError(f"{rule}, got {came}. {remedy}.")


def _in_order(patients: list[Patient]) -> tuple[Patient, ...]:
    return tuple(sorted(patients, key=lambda patient: patient.id))


def _names(count: int) -> list[HospitalName]:
    width = len(str(count))
    return [HospitalName(f"hospital-{number:0{width}d}") for number in range(1, count + 1)]


def _by_label(patients: tuple[Patient, ...], generator: np.random.Generator) -> list[list[Patient]]:
    """Patients of each label in a random order, lowest label first."""
    groups: dict[int, list[Patient]] = defaultdict(list)
    for patient in patients:
        groups[patient.label].append(patient)
    return [[groups[label][i] for i in generator.permutation(len(groups[label]))] for label in sorted(groups)]


def _set_aside(
    patients: tuple[Patient, ...], fraction: float, generator: np.random.Generator
) -> tuple[tuple[Patient, ...], tuple[Patient, ...]]:
    """Test patients, about `fraction` of each label, and the others."""
    test: list[Patient] = []
    for group in _by_label(patients, generator):
        test += group[: round(fraction * len(group))]
    chosen = {patient.id for patient in test}
    rest = tuple(patient for patient in patients if patient.id not in chosen)
    if not test or not rest:
        raise DataError(
            f"test and training must each have patients, got {len(test)} and {len(rest)} at test_fraction "
            f"{fraction}. Choose another fraction."
        )
    return _in_order(test), rest


def _published(image_set: ImageSet) -> tuple[tuple[Patient, ...], tuple[Patient, ...], str]:
    """The published test part, all other images by patient, and a note if people are in both."""
    patients = image_set.patients
    if not any(image.split == "test" for patient in patients for image in patient.images):
        raise DataError(
            f"a published split must come with the data, but {image_set.name} names no test part. "
            "Set published to false and choose a test_fraction."
        )
    parts: dict[bool, list[Patient]] = {True: [], False: []}
    for patient in patients:
        for is_test, part in parts.items():
            images = tuple(image for image in patient.images if (image.split == "test") is is_test)
            if images:
                part.append(replace(patient, images=images))
    both = len({patient.id for patient in parts[True]} & {patient.id for patient in parts[False]})
    if not parts[False]:
        raise DataError("a published split must leave patients to train on, got none. Set published to false.")
    note = f"The published split is leaking: {both} patients are in both its training and its test part."
    return tuple(parts[True]), tuple(parts[False]), note if both else ""


def _by_site(everyone: tuple[Patient, ...], rest: tuple[Patient, ...]) -> dict[HospitalName, tuple[Patient, ...]]:
    """The hospitals that the data names, in the alphabet's order."""
    several = sum(len(patient.sites) > 1 for patient in everyone)
    if several:
        raise DataError(
            f"a patient must be in exactly one hospital, but {several} have images from two sites "
            "or more. Give all images of a person one site, or choose another scheme."
        )
    unknown = sum(not patient.sites for patient in everyone)
    if unknown:
        raise DataError(
            f"the scheme site must know everybody's site, but {unknown} of {len(everyone)} patients have "
            "none. Fill the column site, or choose another scheme."
        )
    names = sorted({patient.sites[0] for patient in everyone})
    hospitals: dict[HospitalName, list[Patient]] = {HospitalName(name): [] for name in names}
    for patient in rest:
        hospitals[HospitalName(patient.sites[0])].append(patient)
    empty = [name for name, patients in hospitals.items() if not patients]
    if empty:
        raise DataError(
            f"every hospital must have a patient to train on, but {len(empty)} of {len(hospitals)} sites "
            "have none after the test patients were set aside. Choose another seed or test_fraction."
        )
    return {name: _in_order(patients) for name, patients in hospitals.items()}


def _shared_out(
    patients: tuple[Patient, ...], scheme: Scheme, sharing: _Sharing, generator: np.random.Generator
) -> list[list[Patient]]:
    """One group a hospital, none of them empty."""
    needed = {
        Scheme.SIZES: sum(sharing.sizes),
        Scheme.LABEL_SHARDS: sharing.count * sharing.shards_per_hospital,
    }.get(scheme, sharing.count)
    if needed > len(patients):
        raise DataError(
            f"the hospitals must find patients enough, {len(patients)} are left to train on and the scheme "
            f"{scheme} needs {needed}. Ask for fewer or smaller hospitals."
        )
    by_label = _by_label(patients, generator)
    in_turn = [patient for group in by_label for patient in group]
    if scheme is Scheme.EVEN:
        return [in_turn[first :: sharing.count] for first in range(sharing.count)]
    if scheme is Scheme.SIZES:
        mixed = [in_turn[i] for i in generator.permutation(len(in_turn))]
        ends = np.cumsum(sharing.sizes)
        return [mixed[end - size : end] for end, size in zip(ends, sharing.sizes, strict=True)]
    if scheme is Scheme.LABEL_SHARDS:
        cuts = np.linspace(0, len(in_turn), needed + 1).astype(int)
        order = generator.permutation(needed).reshape(sharing.count, -1)
        return [[p for shard in row for p in in_turn[cuts[shard] : cuts[shard + 1]]] for row in order]
    return _dirichlet(by_label, sharing, generator)


def _dirichlet(
    by_label: list[list[Patient]], sharing: _Sharing, generator: np.random.Generator
) -> list[list[Patient]]:
    """Each label shared out by its own Dirichlet draw; an empty hospital gets one patient of the largest."""
    groups: list[list[Patient]] = [[] for _ in range(sharing.count)]
    for patients in by_label:
        shares = generator.dirichlet([sharing.alpha] * sharing.count)
        cuts = np.rint(np.cumsum(shares) * len(patients)).astype(int)
        cuts[-1] = len(patients)
        for group, start, end in zip(groups, [0, *cuts[:-1]], cuts, strict=True):
            group += patients[start:end]
    for group in groups:
        if not group:
            group.append(max(groups, key=len).pop())
    return groups
