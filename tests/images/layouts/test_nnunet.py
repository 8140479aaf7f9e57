"""The layout of nnU-Net v2, small files in the exact form of its documentation, against nibabel's own reading."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from tests.cases import family
from tests.images.nifti_files import nifti_bytes

from wardround.errors import DataError
from wardround.images.entries import Target, Task
from wardround.images.layouts.guess import guess_layout
from wardround.images.load import list_entries, load_images
from wardround.images.rows.recipe import VolumeRecipe
from wardround.images.store import open_store
from wardround.types import Persons

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
PLAIN = {"background": 0, "left": 1, "right": 2}
BRATS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
CASES = ("BRATS_001", "case_0000", "c7")


def written(root, channels=("CT",), labels=None, ending=".nii.gz", cases=CASES, **more):
    """A set of volumes, one file a channel, whose masks have every value; returns what was written by case."""
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    labels = PLAIN if labels is None else labels
    values = 1 + max(n for v in labels.values() for n in (v if isinstance(v, list) else [v]) if isinstance(n, int))
    made = {}
    for number, case in enumerate(cases):
        generator = np.random.default_rng(number)
        image = generator.integers(0, 900, (len(channels), 6, 8, 5)).astype(np.int16)
        mask = generator.integers(0, values, (6, 8, 5)).astype(np.uint8)
        for channel in range(len(channels)):
            (root / f"imagesTr/{case}_{channel:04d}{ending}").write_bytes(nifti_bytes(image[channel], AFFINE))
        (root / f"labelsTr/{case}{ending}").write_bytes(nifti_bytes(mask, AFFINE))
        made[case] = image, mask
    (root / f"imagesTs/case_900_0000{ending}").write_bytes(b"")
    names = {str(number): name for number, name in enumerate(channels)}
    described = {"channel_names": names, "labels": labels, "numTraining": len(cases), "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(described | more))
    return made


def edited(root, **changes):
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def read(root, layout="nnunet"):
    return list_entries(layout, open_store(root), Task.SEGMENTATION)


@pytest.mark.parametrize(
    ("channels", "layout"),
    family(
        itertools.product([("CT",), ("T1", "T1ce", "T2", "FLAIR")], ["nnunet", "decathlon"]),
        keep=[(("CT",), "decathlon"), (("T1", "T1ce", "T2", "FLAIR"), "nnunet")],
    ),
)
def test_every_case_has_its_channels_in_order_and_its_mask(tmp_path, channels, layout):
    made = written(tmp_path / "data", channels)
    listing = read(tmp_path / "data", layout)
    assert (listing.target, listing.volumes, listing.channels) == (Target.MASKS, True, len(channels))
    assert listing.class_names == ("background", "left", "right")
    assert listing.persons is Persons.UNNAMED
    assert "passed over: 1 case without a mask" in listing.notes
    store = open_store(tmp_path / "data")
    assert guess_layout(store) == "nnunet"
    for entry, case in zip(listing.entries, sorted(made), strict=True):
        raw = listing.decoder.decode(
            entry, [store.read(name) for name in entry.files], [store.read(name) for name in entry.mask], None
        )
        np.testing.assert_array_equal(raw.values, made[case][0])
        np.testing.assert_array_equal(raw.mask, made[case][1])
    volumes = VolumeRecipe((8, 8, 8))
    images = load_images(layout, tmp_path / "data", cache_dir=tmp_path / "cache", recipes=[volumes])
    assert images.pixels.shape == (3, len(channels), 8, 8, 8)


def test_regions_are_scored_and_numbers_without_a_name_have_one(tmp_path):
    written(tmp_path, labels=BRATS, regions_class_order=[1, 2, 3])
    listing = read(tmp_path)
    assert listing.class_names == ("background", "label 1", "label 2", "enhancing tumor")
    assert {region.name: region.classes for region in listing.regions} == {
        "whole tumor": (1, 2, 3), "tumor core": (2, 3), "enhancing tumor": (3,),
    }  # fmt: skip


def test_cases_may_lie_where_the_description_says(tmp_path):
    written(tmp_path, cases=("a", "b"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "imagesTr/a_0000.nii.gz").rename(tmp_path / "elsewhere/x.nii.gz")
    listed = {"a": {"images": ["./elsewhere/x.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    edited(tmp_path, dataset=listed)
    assert [entry.files for entry in read(tmp_path).entries] == [("elsewhere/x.nii.gz",)]
    edited(tmp_path, dataset={"a": {"images": ["../x.nii.gz"], "label": "labelsTr/a.nii.gz"}})
    with pytest.raises(DataError, match="below the data folder"):
        read(tmp_path)


@pytest.mark.parametrize(("ending", "colours"), [(".png", 1), (".png", 3), (".tif", 1), (".bmp", 3)])
def test_pictures_are_read_as_pictures(tmp_path, ending, colours):
    written(tmp_path / "data", ("R", "G", "B")[:colours], file_ending=ending)
    generator = np.random.default_rng(3)
    for folder in ("imagesTr", "labelsTr"):
        for path in (tmp_path / "data" / folder).iterdir():
            path.unlink()
    for number in range(2):
        values = generator.integers(0, 256, (9, 7, 3) if colours == 3 else (9, 7)).astype(np.uint8)
        mask = generator.integers(0, 3, (9, 7)).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / f"data/imagesTr/c{number}_0000{ending}")
        Image.fromarray(mask).save(tmp_path / f"data/labelsTr/c{number}{ending}")
    listing = read(tmp_path / "data")
    assert not listing.volumes
    store = open_store(tmp_path / "data")
    last = listing.entries[-1]
    raw = listing.decoder.decode(last, [store.read(last.files[0])], [store.read(last.mask[0])], None)
    np.testing.assert_array_equal(raw.values, values[None] if colours == 1 else values.transpose(2, 0, 1))
    np.testing.assert_array_equal(raw.mask, mask)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "dataset.json").unlink(), "no dataset.json"),
        (lambda root: edited(root, file_ending=".nrrd"), "a file_ending of"),
        (lambda root: edited(root, file_ending=7), "a file_ending of"),
        (lambda root: edited(root, channel_names={}), "channel_names 0, 1"),
        (lambda root: edited(root, channel_names={"0": "CT", "2": "MR"}), "channel_names 0, 1"),
        (
            lambda root: edited(root, channel_names={"0": "CT", "1": "MR"}),
            "3 problems: BRATS_001: 1 of 2 channels",
        ),
        (lambda root: edited(root, labels={"0": "background", "1": "a"}), "labels by name"),
        (lambda root: edited(root, labels={"background": 0, "a": 2}), "labels by name"),
        (lambda root: edited(root, labels={"background": 0, "a": True}), "labels by name"),
        (lambda root: edited(root, labels={"background": 0, "a": {"x": 1}}), "labels by name"),
        (lambda root: edited(root, labels={"background": 0, "a": 1, "b": 1}), "another number"),
        (lambda root: edited(root, labels=PLAIN | {"ignore": 3}), "no label 'ignore'"),
        (lambda root: (root / "labelsTr/c7.nii.gz").unlink(), "c7: labelsTr/c7.nii.gz missing"),
        (lambda root: (root / "imagesTr/c7_0000.nii.gz").unlink(), "1 without: labelsTr/c7.nii.gz"),
    ],
)
def test_what_does_not_hold_is_one_sentence(tmp_path, spoil, said):
    written(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=said):
        read(tmp_path)


def test_channels_on_two_grids_are_unreadable(tmp_path):
    written(tmp_path / "data", ("CT", "PET"))
    (tmp_path / "data/imagesTr/c7_0001.nii.gz").write_bytes(nifti_bytes(np.zeros((6, 8, 6), np.int16), AFFINE))
    with pytest.raises(DataError, match="channels of a volume must lie on one grid"):
        load_images("nnunet", tmp_path / "data", cache_dir=tmp_path / "cache", recipes=[VolumeRecipe((8, 8, 8))])
