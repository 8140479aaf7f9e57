"""One picture twice: encoded, scaled, lightened or shifted anew."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from tests.cases import family

from wardround.images.quality import lookalikes
from wardround.images.quality.inspection import inspect


def copies_in(made):
    return [pair for pair in inspect(made.taken()).lookalikes if pair.is_copy]


def picture(array):
    return Image.fromarray(array[0])


def jpeg(array, quality=60):
    buffer = io.BytesIO()
    picture(array).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def scaled(array, share):
    """Cropped by a few pixels on each side and scaled back."""
    image = picture(array)
    edge = share * image.width
    return image.resize(
        image.size, Image.Resampling.BICUBIC, box=(edge, edge, image.width - edge, image.height - edge)
    )


CHANGES = {
    "encoded again": jpeg,
    "brighter": lambda array: picture(array).point(lambda value: min(255, value + 15)),
    "more contrast": lambda array: ImageEnhance.Contrast(picture(array)).enhance(1.15),
    "through a small size": lambda array: picture(array).resize((40, 40)).resize((64, 64)),
    "cropped by 1 %": lambda array: scaled(array, 0.01),
    "cropped by 2 %": lambda array: scaled(array, 0.02),
    "brighter, then encoded": lambda array: jpeg(np.clip(array.astype(int) + 10, 0, 255).astype(np.uint8)),
}


@pytest.mark.parametrize("change", family(CHANGES, keep=["encoded again", "cropped by 2 %"]))
def test_a_changed_copy_under_another_patient_is_found(made, change):
    copies = {made.add(np.asarray(CHANGES[change](made.pixels[row]))[None]): row for row in (0, 20, 40, 60)}
    assert {pair.rows for pair in copies_in(made)} == {(row, copy) for copy, row in copies.items()}


def test_a_copy_in_the_other_published_part_leaks(made):
    for row in range(len(made.entries)):
        made.change(row, split="train")
    copy = made.add(np.asarray(jpeg(made.pixels[3]))[None], split="test")
    seen = inspect(made.taken())
    assert [pair.crosses_parts for pair in seen.lookalikes if pair.is_copy] == [True]
    assert [notice.rows for notice in seen.notices if notice.code == "lookalikes_across_parts"] == [((3, copy),)]


def test_two_pictures_of_one_patient_in_one_part_are_no_finding(made):
    made.add(np.asarray(jpeg(made.pixels[3]))[None], patient=made.entries[3].patient)
    assert copies_in(made) == []


def test_a_copied_volume_is_found(made_volumes):
    noisy = np.clip(made_volumes.pixels[4].astype(int) + 3, 0, 255)
    copy = made_volumes.add(noisy)
    made_volumes.masks = np.concatenate([made_volumes.masks, made_volumes.masks[:1]])
    assert [pair.rows for pair in copies_in(made_volumes)] == [(4, copy)]


def test_two_pictures_are_enough_to_be_compared(made):
    made.entries, made.digests, made.pixels = made.entries[:1], made.digests[:1], made.pixels[:1]
    made.add(np.asarray(jpeg(made.pixels[0]))[None])
    assert len(copies_in(made)) == 1


def test_a_copy_of_the_same_patient_in_the_other_published_part_leaks_as_well(made):
    made.change(3, split="train")
    made.add(np.asarray(jpeg(made.pixels[3]))[None], patient=made.entries[3].patient, split="test")
    assert [pair.crosses_parts for pair in copies_in(made)] == [True]


def test_of_too_many_likely_pairs_the_likeliest_are_looked_at_and_the_rest_is_said(made, monkeypatch):
    copy = made.add(np.asarray(jpeg(made.pixels[3]))[None])
    monkeypatch.setattr(lookalikes, "MAX_CLOSE", 1)
    seen = inspect(made.taken())
    assert [pair.rows for pair in seen.lookalikes] == [(3, copy)]
    assert any("more pairs that are alike" in sentence for sentence in seen.not_checked)
