"""Masks whose values have a gap, as 1, 2, 4 of BraTS and 0, 255 of most pictures: a class for each, in their order."""

import numpy as np
import pytest
from PIL import Image
from tests.errors import raises_code
from tests.images.nifti_files import nifti_bytes

from wardround.errors import DataError
from wardround.images.load import load_images
from wardround.images.rows.recipe import PictureRecipe, VolumeRecipe


def masked(root, values, classes, *, as_volumes, dtype=np.uint8):
    """Two patients, each with a cube or a square of 8 whose mask has each of the values in a slab."""
    root.mkdir()
    mask = np.repeat(np.array(values, dtype)[:, None], 8 // len(values), axis=0).reshape(8, 1)
    ending = "nii.gz" if as_volumes else "png"
    rows = ["image,patient,mask"]
    for number in range(2):
        drawn = (
            np.random.default_rng(number).integers(1, 200, (8, 8, 8) if as_volumes else (8, 8)).astype(np.uint8)
        )
        names = [f"{number}{what}.{ending}" for what in ("", "_seg")]
        of_mask = np.broadcast_to(mask[..., None] if as_volumes else mask, drawn.shape)
        for name, content in zip(names, (drawn, of_mask), strict=True):
            if as_volumes:
                (root / name).write_bytes(nifti_bytes(np.ascontiguousarray(content), np.eye(4)))
            else:
                Image.fromarray(np.ascontiguousarray(content)).save(root / name)
        rows.append(f"{names[0]},p{number},{names[1]}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    (root / "classes.csv").write_text(
        "index,name\n" + "".join(f"{value},{name}\n" for value, name in classes.items())
    )
    return root


def load(root, *, as_volumes):
    return load_images(
        "manifest", root, cache_dir=root.parent / "cache", task="segmentation",
        recipes=[VolumeRecipe((8, 8, 8)) if as_volumes else PictureRecipe(8, 1)],
    )  # fmt: skip


@pytest.mark.parametrize("as_volumes", [False, True])
@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ((0, 1, 2, 4), {1: "necrosis", 2: "oedema", 4: "enhancing"}),
        ((0, 255), {255: "vessel"}),
        ((0, 85, 170, 255), {85: "a", 170: "b", 255: "c"}),
        ((0, 1), {1: "lesion"}),
    ],
)
def test_each_value_is_the_class_that_the_table_names(tmp_path, as_volumes, values, classes):
    images = load(masked(tmp_path / "set", values, classes, as_volumes=as_volumes), as_volumes=as_volumes)
    assert images.class_names == ("background", *classes.values())
    assert np.unique(images.masks).tolist() == list(range(len(values)))
    sizes = [int((images.masks == label).sum()) for label in range(len(values))]
    assert len(set(sizes)) == 1, "each has its own slab"


@pytest.mark.parametrize("as_volumes", [False, True])
def test_a_value_that_the_table_does_not_name_is_refused(tmp_path, as_volumes):
    root = masked(tmp_path / "set", (0, 1, 3, 4), {1: "a", 2: "b", 4: "c"}, as_volumes=as_volumes)
    with raises_code(DataError, "data-unreadable") as caught:
        load(root, as_volumes=as_volumes)
    assert "a mask must hold the values 0, 1, 2, 4 of classes.csv, got 3" in str(caught.value)


def test_other_numbers_for_the_same_values_are_decoded_anew(tmp_path):
    root = masked(tmp_path / "set", (0, 1, 3, 4), {1: "a", 2: "b", 3: "c", 4: "d"}, as_volumes=False)
    assert np.unique(load(root, as_volumes=False).masks).tolist() == [0, 1, 3, 4]
    (root / "classes.csv").write_text("index,name\n1,a\n3,c\n4,d\n")
    assert np.unique(load(root, as_volumes=False).masks).tolist() == [0, 1, 2, 3]
