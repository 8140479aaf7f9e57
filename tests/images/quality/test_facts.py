"""What the files themselves tell."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from wardround.images.quality.facts import FileFacts, facts_of_folder


def test_sizes_and_bytes_are_read_from_the_headers_of_a_folder(made, tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    made.change(0, file="a.png")
    made.change(1, file="b.png")
    made.root = tmp_path
    facts = facts_of_folder(made.taken())
    assert facts.sizes == {"a.png": (20, 30)}
    assert facts.num_bytes == {"a.png": (tmp_path / "a.png").stat().st_size, "b.png": 10}


def test_a_generated_set_and_an_archive_have_no_facts(made, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"")
    for root in (None, tmp_path / "set.zip"):
        assert facts_of_folder(replace(made.taken(), root=root)) == FileFacts()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_spacings_of_volumes_are_along_right_front_and_head(made_volumes, tmp_path, ending):
    nibabel = pytest.importorskip("nibabel")
    # Stored head first, then right, then back: 3 mm, 1 mm and 2 mm.
    affine = np.array([[0, 1, 0, 5.0], [0, 0, -2, 6.0], [3, 0, 0, 7.0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), affine), tmp_path / f"a{ending}")
    (tmp_path / f"b{ending}").write_bytes(b"no volume")
    made_volumes.change(0, file=f"a{ending}")
    made_volumes.change(1, file=f"b{ending}")
    facts = facts_of_folder(replace(made_volumes.taken(), root=tmp_path))
    assert facts.spacings_mm == {f"a{ending}": (1.0, 2.0, 3.0)}
    assert set(facts.num_bytes) == {f"a{ending}", f"b{ending}"}
