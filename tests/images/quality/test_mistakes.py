"""The page of wrong calls: the surest first, for the owner's screen alone."""

import numpy as np
import pytest

from wardround.images.quality.mistakes import MOST, write_mistakes

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def wrong_of(made, tmp_path):
    """Writes the page of a set of evil names, all called class 1."""

    def write(*, named):
        for row in range(len(made.entries)):
            made.change(row, file=f"{EVIL}{row}.png")
        image_set = made.taken()
        rows = np.array([image.row for patient in image_set.patients for image in patient.images])
        sure = np.linspace(0.6, 0.99, len(rows))
        path = tmp_path / "own.html"
        write_mistakes(image_set, rows, np.stack([1 - sure, sure], axis=1), path, named=named)
        held = {image.row: image for patient in image_set.patients for image in patient.images}
        return path, [held[row] for row in rows.tolist()], sure, image_set.class_names

    return write


def test_wrong_calls_stand_surest_first_and_right_ones_are_not_shown(wrong_of):
    path, images, sure, names = wrong_of(named=False)
    text = path.read_text()
    wrong = [each for image, each in zip(images, sure, strict=True) if image.label == 0]
    shown = [f"called {names[1]}, {100 * each:.1f}&nbsp;%" for each in sorted(wrong, reverse=True)[:MOST]]
    places = [text.index(words) for words in shown]
    assert places == sorted(places)
    assert text.count("<img") == min(MOST, len(wrong))
    assert f"{len(wrong)} pictures of {len(wrong)}" in text
    assert "Shows patients." in text


def test_the_page_is_the_owners_and_names_files_only_where_asked(wrong_of):
    path, images, *_ = wrong_of(named=False)
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(image.file in text for image in images)
    path, *_ = wrong_of(named=True)
    text = path.read_text()
    assert ".png" in text
    assert EVIL not in text
