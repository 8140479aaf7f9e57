"""`wardround demo`: a study and pictures, in a new folder."""

import numpy as np
from PIL import Image

from wardround.config import read_study
from wardround.images.layouts.phantom import PhantomOptions, draw_phantom


def test_the_demo_is_a_study_and_four_pictures_of_others(wardround, tmp_path):
    done = wardround("demo", str(tmp_path / "demo"))
    assert done.code == 0
    study = read_study(tmp_path / "demo" / "demo.toml")
    pictures = sorted((tmp_path / "demo" / "pictures").iterdir())
    assert [path.name for path in pictures] == ["clear-1.png", "clear-2.png", "lesion-1.png", "lesion-2.png"]
    phantom = study.site.phantom
    trained = next(draw_phantom(PhantomOptions(2, phantom.max_images, phantom.sites, 64, phantom.seed)))
    assert not any(np.array_equal(np.asarray(Image.open(path)), trained[0]) for path in pictures)
    assert phantom.seed != 1  # the seed of the pictures: other persons throughout


def test_a_folder_that_is_there_is_left_alone(wardround, tmp_path):
    done = wardround("demo", str(tmp_path))
    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert "is there already" in done.err
