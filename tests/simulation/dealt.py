"""Patients of no pictures, and their division among hospitals."""

from typing import Any

import numpy as np

from wardround.config import Study
from wardround.config.data import DataSection, HospitalsSection
from wardround.images.findings import Findings
from wardround.images.patients import ImageRef, ImageSet, Patient
from wardround.simulation.dealing import Scheme, split_patients
from wardround.types import PatientId


def patient(number, label=0, site=None, splits=(None,)):
    images = tuple(
        ImageRef(f"{number}/{i}.png", label, row=100 * number + i, split=split, digest=f"{number}-{i}", site=site)
        for i, split in enumerate(splits)
    )
    return Patient(PatientId(f"p{number:04d}"), images, () if site is None else (site,))


def image_set(patients):
    return ImageSet(
        "made", None, ("a", "b", "c"), tuple(patients), np.zeros((0, 1, 2, 2), np.uint8), Findings(), "0" * 64
    )


def crowd(size=100, sites=3, ill=0.3):
    return image_set(patient(i, int(i < ill * size), f"site-{i % sites}") for i in range(size))


def split(patients, scheme=Scheme.EVEN, **options):
    chosen: dict[str, Any] = {"split_seed": 0, "count": 4, "sizes": (20, 10, 5), "images": 12} | options
    aside = {key: chosen.pop(key) for key in ("test_fraction", "validation_fraction", "test") if key in chosen}
    hospitals = HospitalsSection.model_construct(scheme=scheme.value, **chosen)  # numbers of every scheme at once
    return split_patients(patients, DataSection(**aside), hospitals)


def study_of(scheme, **data):
    """A study with that scheme, as far as `division_of` reads it."""
    hospitals = HospitalsSection.model_construct(scheme=scheme.value)
    return Study.model_construct(hospitals=hospitals, data=DataSection(**data))


def ids(patients):
    return [one.id for one in patients]


def everywhere(result):
    return [*ids(result.test), *(one for group in result.hospitals.values() for one in ids(group))]


def places(result):
    """The place of each patient, by id."""
    parts = {"test": result.test, "validation": result.validation} | result.hospitals
    return {one.id: name for name, part in parts.items() for one in part}
