"""Pictures and masks unlike the others."""

import numpy as np
import pytest
from tests.cases import family

from wardround.images.quality.facts import FileFacts
from wardround.images.quality.inspection import inspect


def rows_of(made, code, **options):
    for notice in inspect(made.taken(), **options).notices:
        if notice.code == code:
            return {row for rows in notice.rows for row in rows}
    return set()


@pytest.mark.parametrize("shade", family([0, 128, 255]))
def test_a_constant_picture_is_found(made, shade):
    picture = np.full((1, 64, 64), shade)
    picture[:, :3, :3] = 255 - shade
    row = made.add(picture)
    assert rows_of(made, "constant") == {row}


def test_a_far_too_bright_picture_is_found(made):
    row = made.add(200 + made.pixels[0] // 5)
    assert rows_of(made, "exposure") == {row}


def test_an_inverted_picture_is_found(made):
    row = made.add(255 - made.pixels[7])
    assert rows_of(made, "inverted") == {row}


def test_a_picture_of_something_else_is_found(made):
    stripes = np.tile(80 + 60 * np.sin(np.arange(64) / 3), (64, 1)).T
    row = made.add(stripes[None])
    assert rows_of(made, "another_view") == {row}


def test_a_colour_picture_among_grey_ones_is_found(made):
    made.pixels = made.pixels.repeat(3, axis=1)
    red = made.pixels[0].copy()
    red[1:] //= 2
    assert rows_of(made, "colour") == set()
    row = made.add(red)
    assert rows_of(made, "colour") == {row}
    assert rows_of(made, "in_colour") == set(), "one of many is found as unlike the others"


def test_a_set_in_colour_is_said(made):
    made.pixels = made.pixels.repeat(3, axis=1)
    assert rows_of(made, "in_colour") == set()
    made.pixels[:, 1:] //= 2
    assert rows_of(made, "in_colour") == set(range(len(made.pixels)))
    assert rows_of(made, "colour") == set()


def test_sizes_far_from_the_others_are_found(made):
    sizes = {entry.file: (900 + row, 1200) for row, entry in enumerate(made.entries)}
    assert rows_of(made, "size", facts=FileFacts(sizes=sizes)) == set()
    sizes[made.entries[3].file] = (300, 2400)
    sizes[made.entries[4].file] = (4000, 5000)
    sizes[made.entries[5].file] = (40, 50)
    facts = FileFacts(sizes=sizes)
    assert rows_of(made, "size", facts=facts) == {3, 4, 5}
    assert rows_of(made, "smaller_than_grid", facts=facts) == {5}


def test_a_volume_with_thick_slices_is_found(made_volumes):
    spacings = {entry.file: (1.0, 1.0, 1.0) for entry in made_volumes.entries}
    assert rows_of(made_volumes, "spacing", facts=FileFacts(spacings_mm=spacings)) == set()
    spacings["volume-4.nii.gz"] = (1.0, 1.0, 5.0)
    assert rows_of(made_volumes, "spacing", facts=FileFacts(spacings_mm=spacings)) == {4}


def test_empty_and_tiny_masks_are_found(made_volumes):
    made_volumes.masks[2] = 0
    made_volumes.masks[5][made_volumes.masks[5] == 2] = 0
    made_volumes.masks[5][10, 14, 8] = 2
    assert rows_of(made_volumes, "empty_mask") == {2}
    assert rows_of(made_volumes, "tiny_mask") == {5}
