"""The layout of the Medical Segmentation Decathlon, small files in the exact form of its tasks."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.images.nifti_files import nifti_bytes

from wardround.errors import DataError
from wardround.images.entries import Target, Task
from wardround.images.layouts.phantom import PhantomOptions
from wardround.images.load import list_entries, load_images
from wardround.images.rows.recipe import PictureRecipe, View, VolumeRecipe
from wardround.images.store import open_store
from wardround.types import Persons

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).resolve().parents[3] / ".." / "shared" / "data"))
HIPPOCAMPUS = DATA / "Task04_Hippocampus"
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
TASKS = {
    "Task01_BrainTumour": (
        {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        {"enhancing tumour": (3,), "tumour core": (2, 3), "whole tumour": (1, 2, 3)},
    ),
    "Task03_Liver": (
        {"0": "CT"},
        {"0": "background", "1": "liver", "2": "cancer"},
        {"liver": (1, 2), "cancer": (2,)},
    ),
    "Task04_Hippocampus": (
        {"0": "MRI"},
        {"0": "background", "1": "Anterior", "2": "Posterior"},
        {"Anterior": (1,), "Posterior": (2,)},
    ),
}


def decathlon(root, task="Task04_Hippocampus", count=3, shape=(6, 8, 5)):
    """A task with volumes of seeded noise, each slice of them marked, and masks of a box."""
    modality, labels, _ = TASKS[task]
    generator = np.random.default_rng(0)
    training = []
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        grid = (shape[0], shape[1], shape[2] + number)
        channels = (len(modality),) if len(modality) > 1 else ()
        values = generator.integers(0, 500, (*grid, *channels)).astype(np.int16)
        mask = np.zeros(grid, dtype=np.uint8)
        mask[2:4, 2:5, 1:3] = 1 + number % (len(labels) - 1)
        name = f"case_{number:03d}.nii.gz"
        image = np.moveaxis(values, 3, 0) if channels else values
        (root / "imagesTr" / name).write_bytes(nifti_bytes(image, AFFINE))
        (root / "labelsTr" / name).write_bytes(nifti_bytes(mask, AFFINE))
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    (root / "imagesTr" / "._case_000.nii.gz").write_bytes(b"the file manager's")
    description = {
        "name": task, "tensorImageSize": "3D", "modality": modality, "labels": labels,
        "numTraining": count, "training": training, "test": ["./imagesTs/case_900.nii.gz"],
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(description, indent=1))
    return root


def edited(root, **changes):
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return root


def read(root):
    return list_entries("decathlon", open_store(root), Task.SEGMENTATION)


def load(root, **options):
    volumes = VolumeRecipe((8, 8, 8), **options)
    return load_images("decathlon", root, cache_dir=root.parent / "cache", recipes=[volumes])


@pytest.mark.parametrize("task", list(TASKS))
def test_channels_classes_and_regions_are_those_of_the_task(tmp_path, task):
    listing = read(decathlon(tmp_path / "data", task))
    modality, labels, regions = TASKS[task]
    assert (listing.target, listing.volumes, listing.channels) == (Target.MASKS, True, len(modality))
    assert listing.class_names == tuple(labels.values())
    assert {region.name: region.classes for region in listing.regions} == regions
    image_set = load(tmp_path / "data")
    assert image_set.pixels.shape == (3, len(modality), 8, 8, 8)
    assert image_set.masks is not None
    assert image_set.masks.max() == len(labels) - 1


def test_persons_are_unnamed_and_volumes_without_masks_said(tmp_path):
    listing = read(decathlon(tmp_path))
    assert [entry.patient for entry in listing.entries] == [f"imagesTr/case_00{k}.nii.gz" for k in range(3)]
    assert listing.persons is Persons.UNNAMED
    assert any("1 volume without a mask" in note for note in listing.notes)


def test_a_table_of_patients_goes_before(tmp_path):
    root = decathlon(tmp_path)
    rows = "\n".join(f"imagesTr/case_00{k}.nii.gz,p{k // 2},site-{k // 2}" for k in range(3))
    (root / "patients.csv").write_text(f"image,patient_id,site\n{rows}\n")
    listing = read(root)
    assert [(entry.patient, entry.site) for entry in listing.entries] == [
        ("p0", "site-0"), ("p0", "site-0"), ("p1", "site-1"),
    ]  # fmt: skip


def test_slices_are_a_view_of_the_volume_and_the_patient_stays_the_unit(tmp_path):
    root = decathlon(tmp_path / "data")
    whole, slices = load(root), load(root, view=View.SLICES)
    assert whole.digest == slices.digest
    assert [len(patient.images) for patient in slices.patients] == [5, 6, 7]  # padding is no picture
    for solid, flat in zip(whole.patients, slices.patients, strict=True):
        rows = list(flat.rows)
        offset = (8 - len(rows)) // 2
        volume, mask = whole.pixels[solid.rows[0]], whole.masks[solid.rows[0]]
        seen = volume[:, :, :, offset : offset + len(rows)]
        np.testing.assert_array_equal(slices.pixels[rows], seen[:, ::-1, ::-1].transpose(3, 0, 2, 1))
        marked = mask[:, :, offset : offset + len(rows)]
        np.testing.assert_array_equal(slices.masks[rows], marked[::-1, ::-1].transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "dataset.json").unlink(), "no dataset.json"),
        (lambda root: (root / "dataset.json").write_text("{"), "must be JSON"),
        (lambda root: (root / "dataset.json").write_text("[" * 100_000), "must be JSON"),
        (lambda root: edited(root, training=[]), "must list volumes"),
        (lambda root: edited(root, training=[{"image": "../../etc/a.nii", "label": "b.nii"}]), "names no image"),
        (lambda root: edited(root, training=["a.nii.gz", 3, None]), "3 problems"),
        (lambda root: (root / "labelsTr/case_001.nii.gz").unlink(), "labelsTr/case_001.nii.gz missing"),
        (lambda root: edited(root, labels={"0": "background", "2": "x"}), "0, 1, 2"),
        (lambda root: edited(root, labels=["background", "x"]), "0, 1, 2"),
        (lambda root: (root / "patients.csv").write_text("image,patient_id\nimagesTr/case_000.nii.gz,"), "line 2"),
    ],
)
def test_what_does_not_hold_is_one_sentence(tmp_path, spoil, said):
    root = decathlon(tmp_path)
    spoil(root)
    with pytest.raises(DataError, match=said):
        load_images("decathlon", root, cache_dir=tmp_path / "cache", recipes=[VolumeRecipe((8, 8, 8))])


def test_a_mask_with_an_unknown_class_is_an_unreadable_finding(tmp_path):
    root = decathlon(tmp_path / "data")
    (root / "labelsTr/case_001.nii.gz").write_bytes(nifti_bytes(np.full((6, 8, 6), 7, np.uint8), AFFINE))
    with pytest.raises(
        DataError, match=r"cannot be read: a mask must hold the classes 0 to 2, got 7 \(1: .*case_001.nii.gz\)"
    ):
        load(root)


def test_volumes_want_a_size_and_pictures_none(tmp_path):
    with pytest.raises(DataError, match="volume_size"):
        load_images("decathlon", decathlon(tmp_path / "data"), cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match="these are pictures"):
        load_images("phantom", PhantomOptions(), cache_dir=tmp_path / "cache", recipes=[VolumeRecipe((8, 8, 8))])


def test_of_two_recipes_that_of_what_lies_there_is_taken(tmp_path):
    recipes = (PictureRecipe(16, 3), VolumeRecipe((8, 8, 9)))
    kept = tmp_path / "cache"
    pictures = load_images("phantom", PhantomOptions(), cache_dir=kept, recipes=recipes)
    assert pictures.pixels.shape[1:] == (3, 16, 16)
    volumes = load_images("decathlon", decathlon(tmp_path / "data"), cache_dir=kept, recipes=recipes)
    assert volumes.pixels.shape[2:] == (8, 8, 9)


@pytest.mark.thorough
@pytest.mark.real_data
@pytest.mark.skipif(
    not HIPPOCAMPUS.is_dir(), reason="the real hippocampus lies beside the project; here it does not"
)
def test_the_real_hippocampus_has_its_known_size_and_nothing_of_it_is_cropped(tmp_path):
    volumes = VolumeRecipe((40, 56, 40), spacing=(1.0, 1.0, 1.0))
    image_set = load_images("decathlon", HIPPOCAMPUS, cache_dir=tmp_path, recipes=[volumes])
    assert image_set.pixels.shape == (260, 1, 40, 56, 40)
    assert len(image_set.patients) == 260
    assert image_set.masks is not None
    assert np.unique(image_set.masks).tolist() == [0, 1, 2]
    # Not a voxel of the 260 masks is cropped: so many were counted with nibabel in the files themselves.
    assert np.count_nonzero(image_set.masks) == 856_754
