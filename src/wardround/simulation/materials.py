"""The materials of a study: its pictures, its hospitals and test patients, and its network."""

from dataclasses import dataclass, replace

import numpy as np

from wardround.agreed.network import build_network
from wardround.config import Study
from wardround.coordinator.observer import Observer
from wardround.errors import DataError
from wardround.hospital.pictures import read_images, recipe_of, workbench_of
from wardround.images.group import group_by_patient
from wardround.images.listing import Listing
from wardround.images.patients import ImageSet
from wardround.simulation.dealing import Split, split_patients
from wardround.training.patients import TrainingPatients, training_patients
from wardround.training.workbench import Workbench
from wardround.types import HospitalName

Hospitals = dict[HospitalName, TrainingPatients]


@dataclass(frozen=True)
class Materials:
    """The pictures, patients and network of a study, before its first round.

    Attributes:
        images: the patients and their decoded pictures.
        split: the place of each patient.
        hospitals: each hospital's patients, ready for training.
        test: the patients set aside.
        validation: those set aside to choose by; often none.
        workbench: the one copy of the network.
        originals: the materials before noise was put on pictures and labels; None where none was.
    """

    images: ImageSet
    split: Split
    hospitals: Hospitals
    test: TrainingPatients
    validation: TrainingPatients
    workbench: Workbench
    originals: "Materials | None" = None


def gather(study: Study, observer: Observer) -> Materials:
    """Reads the pictures, deals out the patients and builds the network.

    Raises:
        DataError: pictures, patients or hospitals that do not hold.
        ModelError: a network that does not fit the pictures, or that mixes patients.
    """
    observer.stage("reading pictures")
    images = read_images(study, observer.progress)
    observer.stage(f"dealing out {images.persons.one}s")
    split = dealt(study, images)
    observer.stage(f"building {study.model.name}")
    network = build_network(
        study, target=images.target, num_classes=len(images.class_names), shape=images.pixels.shape[1:]
    )
    bound = study.privacy.images_per_patient
    if network.encode_once:
        observer.stage("encoding pictures")
    workbench = workbench_of(study, images, network, progress=observer.progress)
    return Materials(
        images=images,
        split=split,
        hospitals={name: training_patients(patients, bound) for name, patients in split.hospitals.items()},
        test=training_patients(split.test, None),
        validation=training_patients(split.validation, None),
        workbench=workbench,
    )


def dealt(study: Study, images: ImageSet) -> Split:
    """Returns the place of each patient, the hospitals named as the study names them.

    Raises:
        DataError: see `split_patients`; or the data have another number of hospitals than the study.
    """
    options = study.hospitals
    split = split_patients(images, study.data, options)
    if options.names is not None and options.scheme != "site":
        named = dict(zip(map(HospitalName, options.names), split.hospitals.values(), strict=True))
        split = replace(split, hospitals=named)
    if len(split.hospitals) != options.count:  # noise shares are sized by the number the study file gives
        raise DataError(
            f"hospitals.count must be the number of sites in the data, {len(split.hospitals)}, got "
            f"{options.count}; correct the study file, or list all of them in hospitals.names.",
            code="data-site-count",
        )
    return split


def foreseen(study: Study, listing: Listing) -> Split | None:
    """Returns the place of each listed patient, as `dealt` will have it if every picture can be read.

    None of the scheme `images`, whose places follow from the copies inside patients, which are not known before
    pictures are opened; that there are too few of them, copies and all, is known.

    Raises:
        DataError: see `dealt`.
    """
    options, rows = study.hospitals, recipe_of(study).rows  # at most
    names = [str(number) for number in range(len(listing.entries))]
    patients, findings = group_by_patient(listing, names, frozenset(), lambda number: range(rows))
    nothing = np.zeros((0, 1), dtype=np.uint8)
    listed = ImageSet(study.site.layout, None, listing.class_names, patients, nothing, findings, digest="")
    try:
        split = dealt(study, listed)
    except DataError as error:
        if options.images is not None and error.code == "data-hospital-too-small":
            return None
        raise
    return split if options.images is None else None
