"""Twelve bits in files of sixteen: found in the pictures, and said by `bits`."""

import numpy as np
import pytest
from PIL import Image
from tests.cases import family

from wardround.config import parse_study
from wardround.errors import WardroundError
from wardround.hospital.pictures import read_images
from wardround.images.load import load_images
from wardround.images.quality.inspection import inspect
from wardround.images.rows.recipe import PictureRecipe


def write(root, top, count=12, lettering=0, kind="png", dtype=np.uint16):
    generator = np.random.default_rng(top)
    for number in range(count):
        values = generator.integers(0, top + 1, (40, 40)).astype(dtype)
        values[:8, :8] = top
        if number < lettering:
            values[-4:, -4:] = np.iinfo(dtype).max
        path = root / f"c{number % 2}" / f"p{number}" / f"a.{kind}"
        path.parent.mkdir(parents=True)
        Image.fromarray(values).save(path)
    return root


def found(root, bits=16):
    images = load_images(
        "folder", root, cache_dir=root.parent / "cache", recipes=[PictureRecipe(32, 1, bits=bits)]
    )
    return images, {notice.code: notice for notice in inspect(images).notices}


@pytest.mark.parametrize(
    ("top", "bits", "kind"),
    family(
        [(*case, kind) for case in ((1023, 10), (4095, 12), (3000, 12), (16383, 14)) for kind in ("png", "tif")],
        keep=[(1023, 10, "png"), (3000, 12, "tif"), (16383, 14, "png")],
    ),
)
def test_few_bits_are_a_finding_and_saying_them_ends_it(tmp_path, top, bits, kind):
    root = write(tmp_path / "data", top, lettering=1, kind=kind)
    _, notices = found(root)
    assert f"bits = {bits}" in notices["few_bits"].advice
    (root / "c0/p0" / f"a.{kind}").unlink()
    images, notices = found(root, bits)
    assert "few_bits" not in notices
    assert images.pixels.max() == round(255 * top / (2**bits - 1))


@pytest.mark.parametrize(
    ("top", "dtype"),
    family(
        [(65535, np.uint16), (30000, np.uint16), (255, np.uint8), (90, np.uint8)],
        keep=[(30000, np.uint16), (90, np.uint8)],
    ),
)
def test_pictures_that_use_their_bits_are_no_finding(tmp_path, top, dtype):
    assert "few_bits" not in found(write(tmp_path / "data", top, dtype=dtype))[1]


def test_a_study_says_the_bits_and_a_brighter_value_is_unreadable(tmp_path):
    root = write(tmp_path / "data", 4095)

    def study(**data):
        tables = {
            "study": {"name": "x"}, "model": {"name": "linear"}, "privacy": {"plan": "none"},
            "performance": {"cache": str(tmp_path / "c")}, "data": {"layout": "folder", "path": str(root), **data},
        }  # fmt: skip
        return parse_study(tables)

    assert read_images(study(bits=12)).pixels.max() == 255
    with pytest.raises(WardroundError, match=r"12 of 12 are not.*up to 2047 for bits = 11"):
        read_images(study(bits=11))
    for wrong in ({"bits": 8}, {"bits": 17}, {"bits": 12, "volume_size": [8, 8, 8]}):
        with pytest.raises(WardroundError, match="bits"):
            study(**wrong)
