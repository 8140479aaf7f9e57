"""Small data sets in every layout, and their neighbours: the same files but for one person's."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from tests.images.dicom.write import write_picture
from tests.images.nifti_files import nifti_bytes

SITES = ("east", "west")


@dataclass(frozen=True)
class Person:
    """One made-up person: everything about their files follows from the number."""

    number: int

    @property
    def id(self):
        return f"p{self.number:03d}"

    @property
    def label(self):
        return self.number % 2

    @property
    def site(self):
        return SITES[self.number // 2 % 2]

    @property
    def pictures(self):
        """Number of pictures, 1 to 4."""
        return 1 + self.number * 7 % 4

    def values(self, shape):
        """Noise, new in every picture, brighter where the label is 1."""
        generator = np.random.default_rng(self.number)
        for _ in range(self.pictures):
            yield generator.integers(0, 180, shape, dtype=np.uint8) + np.uint8(60 * self.label)


def _csv(root, name, header, rows):
    (root / name).write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


class Pictures:
    """A layout of picture files that are named by `name`, and of one table."""

    data: ClassVar[dict[str, object]] = {}

    def __init__(self, name, table, header, row):
        self.name, self.table, self.header, self.row = name, table, header, row

    def files(self, person):
        return [self.name(person, number) for number in range(person.pictures)]

    def gone(self, person):
        return self.files(person)

    def write(self, root, person):
        for file, values in zip(self.files(person), person.values((16, 16)), strict=True):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / file)

    def describe(self, root, people):
        rows = [self.row(person, file) for person in people for file in self.files(person)]
        if self.table:
            _csv(root, self.table, self.header, rows)


class Dicom(Pictures):
    """An export: identifiers are random, so a neighbour has to be a copy."""

    def write(self, root, person):
        for file, values in zip(self.files(person), person.values((16, 16)), strict=True):
            write_picture(values[None], root / file, patient_id=person.id)

    def describe(self, root, people):
        _csv(root, "labels.csv", "label,patient_id,site", [(f"c{p.label}", p.id, p.site) for p in people])


class Volumes(Pictures):
    """Decathlon: volumes with a bright box, and its mask."""

    data: ClassVar[dict[str, object]] = {"volume_size": [8, 8, 8], "spacing": [1.0, 1.0, 1.0]}

    def write(self, root, person):
        for file, values in zip(self.files(person), person.values((8, 8, 8)), strict=True):
            mask = np.zeros((8, 8, 8), dtype=np.uint8)
            mask[2:6, 2:6, 1 : 4 + 2 * person.label] = 1
            for folder, content in (("imagesTr", values + mask * np.int16(300)), ("labelsTr", mask)):
                path = root / folder / Path(file).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(nifti_bytes(content, np.eye(4)))

    def describe(self, root, people):
        files = [(person, file) for person in people for file in self.files(person)]
        training = [{"image": f"./{f}", "label": f"./{f.replace('images', 'labels')}"} for _, f in files]
        labels = {"0": "background", "1": "box"}
        (root / "dataset.json").write_text(
            json.dumps({"name": "boxes", "modality": {"0": "MRI"}, "labels": labels, "training": training})
        )
        _csv(root, "patients.csv", "image,patient_id,site", [(f, p.id, p.site) for p, f in files])


class NnUnet(Volumes):
    """nnU-Net: the same volumes, a file a channel."""

    def write(self, root, person):
        super().write(root, person)
        for file in self.files(person):
            (root / "imagesTr" / Path(file).name).rename(root / self.image(file))

    def image(self, file):
        return file.replace(".nii", "_0000.nii")

    def files(self, person):
        return [f"imagesTr/{person.id}x{number}.nii.gz" for number in range(person.pictures)]

    def gone(self, person):
        return [self.image(file) for file in self.files(person)]

    def describe(self, root, people):
        labels = {"background": 0, "box": 1}
        description = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
        (root / "dataset.json").write_text(json.dumps(description))
        rows = [(self.image(file), p.id, p.site) for p in people for file in self.files(p)]
        _csv(root, "patients.csv", "image,patient_id,site", rows)


class Bids(Pictures):
    """Participants, each with a session a picture."""

    data: ClassVar[dict[str, object]] = {"volume_size": [8, 8, 8], "spacing": [1.0, 1.0, 1.0]}

    def write(self, root, person):
        for file, values in zip(self.files(person), person.values((8, 8, 8)), strict=True):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(nifti_bytes(values, np.eye(4)))

    def describe(self, root, people):
        rows = [f"sub-{p.id}\tc{p.label}\t{p.site}" for p in people]
        (root / "participants.tsv").write_text("\n".join(["participant_id\tgroup\tsite", *rows]) + "\n")


class Arrays(Pictures):
    """MedMNIST: one file, in which a person has one picture."""

    def files(self, person):
        return []

    def write(self, root, person):
        pass

    def describe(self, root, people):
        images = np.stack([next(p.values((16, 16))) for p in people])
        np.savez_compressed(root / "set.npz", train_images=images, train_labels=[[p.label] for p in people])


def _chest(person, number):
    if person.label:
        return f"train/PNEUMONIA/person{person.number}_bacteria_{number}.jpeg"
    return f"train/NORMAL/IM-{person.number:04d}-{number:04d}.jpeg"


class Graded(Pictures):
    """Fundus photographs, read as referable or not."""

    data: ClassVar[dict[str, object]] = {"task": "referable"}


LAYOUTS: dict[str, Pictures] = {
    "folder": Pictures(
        lambda p, k: f"c{p.label}/{p.id}/{k}.png", "metadata.csv", "file,label,patient_id,site",
        lambda p, f: (f, f"c{p.label}", p.id, p.site),
    ),
    "chest_xray": Pictures(_chest, "metadata.csv", "file,patient_id,site", lambda p, f: (f, p.id, p.site)),
    "aptos": Graded(
        lambda p, k: f"train_images/{p.id}x{k}.png", "train.csv", "id_code,diagnosis,patient_id,site",
        lambda p, f: (Path(f).stem, 3 * p.label, p.id, p.site),
    ),
    "decathlon": Volumes(lambda p, k: f"imagesTr/{p.id}x{k}.nii.gz", "", "", None),
    "nnunet": NnUnet(None, "", "", None),
    "bids": Bids(lambda p, k: f"sub-{p.id}/ses-{k}/anat/sub-{p.id}_ses-{k}_T1w.nii.gz", "", "", None),
    "medmnist": Arrays(None, "", "", None),
    "manifest": Pictures(
        lambda p, k: f"any/{k}/{p.id}.png", "manifest.csv", "image,patient,label,site",
        lambda p, f: (f, p.id, f"c{p.label}", p.site),
    ),
    "dicom": Dicom(lambda p, k: f"{k}/{p.id}", "", "", None),
}  # fmt: skip
"""Of every layout on disk; the phantom is generated, and its neighbour has one person fewer."""


def write(layout, root, people):
    """Writes a data set."""
    root.mkdir()
    for person in people:
        LAYOUTS[layout].write(root, person)
    LAYOUTS[layout].describe(root, people)


def write_neighbour(layout, known, root, people, without, more):
    """Copies a data set of some people, without one person, and with some more."""
    shutil.copytree(known, root)
    for file in LAYOUTS[layout].gone(without):
        (root / file).unlink()
        (root / file.replace("imagesTr", "labelsTr").replace("_0000", "")).unlink(missing_ok=True)
    for person in more:
        LAYOUTS[layout].write(root, person)
    LAYOUTS[layout].describe(root, [*(p for p in people if p != without), *more])
