"""BIDS masks of derivatives: each with its image, its classes named, and all others left out with the cause."""

import numpy as np
import pytest
from tests.errors import raises_code
from tests.images.nifti_files import nifti_bytes

from wardround.errors import DataError
from wardround.images.entries import Target, Task
from wardround.images.findings import by_cause
from wardround.images.listing import ReaderOptions
from wardround.images.load import list_entries, load_images
from wardround.images.rows.recipe import VolumeRecipe
from wardround.images.store import open_store

IMAGES = ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii.gz")
DSEG = "derivatives/seg/sub-01/anat/sub-01_desc-manual_dseg.nii.gz"
OTHER = "derivatives/seg/sub-02/ses-a/anat/sub-02_ses-a_run-1_space-orig_desc-manual_dseg.nii.gz"
NAMES = "index\tname\tcolor\n1\tleft\tred\n2\tright\tblue\n"


def volume(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_bytes(values, np.eye(4)))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    for seed, name in enumerate(IMAGES):
        volume(folder / name, np.random.default_rng(seed).integers(0, 900, (5, 6, 7)).astype(np.int16))
    for seed, name in enumerate((DSEG, OTHER)):
        volume(folder / name, np.random.default_rng(seed).integers(0, 3, (5, 6, 7)).astype(np.uint8))
    (folder / "derivatives/seg/dseg.tsv").write_text(NAMES)
    return folder


def read(root, **options):
    return list_entries("bids", open_store(root), Task.SEGMENTATION, ReaderOptions(**options))


def mask(root, name):
    volume(root / "derivatives" / name, np.ones((5, 6, 7), np.uint8))


def test_every_image_has_its_mask_and_its_classes_have_names(root, tmp_path):
    listing = read(root)
    assert [(entry.file, entry.mask, entry.patient) for entry in listing.entries] == [
        (IMAGES[0], (DSEG,), "sub-01"), (IMAGES[1], (OTHER,), "sub-02"),
    ]  # fmt: skip
    assert (listing.target, listing.class_names) == (Target.MASKS, ("background", "left", "right"))
    images = load_images(
        "bids", root, cache_dir=tmp_path / "cache", recipes=[VolumeRecipe((5, 6, 7))], task=Task.SEGMENTATION
    )
    expected = [np.random.default_rng(seed).integers(0, 3, (5, 6, 7)) for seed in range(2)]
    assert np.array_equal(np.asarray(images.masks), expected)


def test_the_table_of_participants_adds_the_site(root):
    (root / "participants.tsv").write_text("participant_id\tsite\tsex\nsub-02\tnorth\tF\n")
    assert [entry.site for entry in read(root).entries] == [None, "north"]


def test_masks_that_are_not_used_are_left_out_with_the_cause(root):
    mask(root, "seg/sub-01/anat/sub-01_space-MNI152NLin2009cAsym_dseg.nii.gz")
    mask(root, "seg/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    mask(root, "seg/sub-03/anat/sub-03_dseg.nii.gz")
    mask(root, "seg/sub-02/ses-a/anat/sub-02_ses-a_dseg.nii.gz")
    volume(root / "sub-04/anat/sub-04_T1w.nii.gz", np.ones((5, 6, 7), np.int16))
    listing = read(root)
    assert len(listing.entries) == 2
    assert {cause: len(names) for cause, names in by_cause(listing.left_out).items()} == {
        "masks in another space than their image": 1, "masks beside a dseg, which goes before": 1,
        "masks of no image that is read": 2, "images with no mask": 1,
    }  # fmt: skip


def test_a_mask_of_one_class_has_the_name_of_its_label(root):
    for name in (DSEG, OTHER):
        (root / name).unlink()
    mask(root, "a/sub-01/anat/sub-01_label-lesion_mask.nii.gz")
    mask(root, "a/sub-02/ses-a/anat/sub-02_ses-a_run-1_label-lesion_mask.nii.gz")
    assert read(root).class_names == ("background", "lesion")
    mask(root, "a/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    with raises_code(DataError, "data-bids-masks"):
        read(root)
    looked = read(root, looking=True)
    assert len(looked.entries) == len(looked.refusals) == 1
    (root / "derivatives/a/sub-01/anat/sub-01_label-lesion_mask.nii.gz").unlink()
    with raises_code(DataError, "data-bids-masks") as caught:
        read(root)
    assert "background, brain; background, lesion" in str(caught.value)


@pytest.mark.parametrize("content", [None, "index\tname\n1\ta\n3\tb\n", "name\na\n"])
def test_a_dseg_without_names_of_its_values_is_refused(root, content):
    table = root / "derivatives/seg/dseg.tsv"
    if content is None:
        table.unlink()
    else:
        table.write_text(content)
    with pytest.raises(DataError, match=r"dseg\.tsv"):
        read(root)


def test_a_table_beside_the_mask_goes_before_one_above(root):
    folder = root / "derivatives/seg/sub-01/anat"
    (folder / "sub-01_desc-other_dseg.tsv").write_text(NAMES.replace("left", "no"))
    assert read(root).class_names[1] == "left"
    for name in ("sub-01/anat/sub-01_desc-manual_dseg.tsv", "sub-02/ses-a/anat/sub-02_ses-a_run-1_dseg.tsv"):
        (root / "derivatives/seg" / name).write_text(NAMES.replace("left", "near"))
    assert read(root).class_names[1] == "near"
