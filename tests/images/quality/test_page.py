"""The page and the terminal: what they show, and that nothing untrusted is anything but text."""

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from wardround.errors import MachineError, MissingExtra
from wardround.images.quality.inspection import inspect
from wardround.images.quality.lines import lines
from wardround.images.quality.page import GROUPS, render, write_page
from wardround.images.quality.thumbnails import MASK_COLOURS, thumbnail

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, html):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data):
        self.text += data


def page_of(made):
    image_set = made.taken()
    return Page(render(inspect(image_set), image_set))


@pytest.fixture
def faulty(made):
    """A set with a fault of many kinds."""
    made.add(np.zeros((1, 64, 64)), file="empty.png")
    made.add(255 - made.pixels[7], file="inverted.png")
    made.add(np.clip(made.pixels[0].astype(int) + 12, 0, 255), file="copy.png")
    made.change(4, split="train", patient="both")
    made.change(9, split="test", patient="both")
    return made


def test_the_page_says_whom_it_shows_and_that_it_must_stay(made):
    page = page_of(made)
    assert "Shows patients. For this hospital’s own screen: do not send." in " ".join(page.text.split())


def test_the_page_is_for_its_owner_alone(made, tmp_path):
    image_set = made.taken()
    path = tmp_path / "check.html"
    path.write_text("an earlier page")
    path.chmod(0o644)
    write_page(inspect(image_set), image_set, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["check.html"]
    with pytest.raises(MachineError, match="No such file"):
        write_page(inspect(image_set), image_set, tmp_path / "nowhere" / "check.html")


def test_the_page_asks_for_nothing_from_anywhere(faulty):
    image_set = faulty.taken()
    html = render(inspect(image_set), image_set)
    page = Page(html)
    assert not [tag for tag, _ in page.elements if tag in ("script", "link", "iframe", "object", "form", "a")]
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in page.elements if tag == "img")
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_names_of_files_patients_classes_and_hospitals_are_text(faulty, tmp_path):
    (tmp_path / "dataset.json").write_text('{"title": "<script>alert(2)</script>", "licence": "<b>free</b>"}')
    faulty.root = tmp_path
    faulty.class_names = (EVIL, "lesion")
    faulty.notes = (EVIL,)
    faulty.unreadable = frozenset({11})
    faulty.change(11, file=EVIL + "2")
    for row in range(len(faulty.entries)):
        entry = faulty.entries[row]
        faulty.change(row, file=entry.file + EVIL, patient=entry.patient + EVIL, site=EVIL)
    page = page_of(faulty)
    assert not [tag for tag, _ in page.elements if tag in ("script", "b")]
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert "<script>alert(1)</script>" in page.text


def test_each_notice_is_there_with_the_pictures_in_question(faulty):
    image_set = faulty.taken()
    inspection = inspect(image_set)
    codes = {notice.code for notice in inspection.notices}
    assert {"straddling", "constant", "inverted", "lookalikes"} <= codes
    page = page_of(faulty)
    for notice in inspection.notices:
        assert notice.what in page.text
    alts = [attrs["alt"] for tag, attrs in page.elements if tag == "img"]
    assert {"empty.png", "inverted.png", "copy.png"} <= set(alts)


def test_of_many_groups_a_few_are_shown_and_the_rest_is_counted(made):
    for number in range(GROUPS + 3):
        made.add(np.full((1, 64, 64), 10 * number))
    assert "and 3 more" in page_of(made).text


def test_a_set_of_masks_shows_them_in_their_colours(made_volumes):
    page = page_of(made_volumes)
    assert "the patient’s right is on the left" in page.text
    marks = [attrs["style"] for _, attrs in page.elements if attrs.get("class") == "mark"]
    assert len(marks) == 2


def test_a_volume_hangs_with_the_front_up_and_the_right_on_the_left(made_volumes):
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    made_volumes.pixels[0] = 0
    made_volumes.masks[0] = 0
    made_volumes.pixels[0, 0, -3:, -3:, :] = 200  # right and front
    made_volumes.masks[0, :3, :3, 11] = 1  # left and back
    shown = np.asarray(Image.open(BytesIO(b64decode(thumbnail(made_volumes.taken(), 0).split(",")[1]))))
    assert shown.shape == (24, 20, 3)
    assert (shown[:3, :3] == 200).all()
    np.testing.assert_allclose(shown[-1, -1], 0.45 * np.array(MASK_COLOURS[0]), atol=1)
    assert shown[:3, -3:].max() == 0


def test_the_same_inspection_gives_the_same_page(faulty):
    image_set = faulty.taken()
    assert render(inspect(image_set), image_set) == render(inspect(image_set), image_set)


def test_without_jinja_a_sentence_says_what_to_install(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "wardround.boundary.pages", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'wardround\[report\]'"):
        page_of(made)


def test_the_terminal_says_what_each_finding_means(faulty):
    image_set = faulty.taken()
    text = "\n".join(lines(inspect(image_set), image_set))
    assert "STOP  1 patient has pictures in both published parts" in text
    assert "the published test set leaks" in text.lower()
    assert "What to do: set test = 'patients'" in text
    assert "empty.png" in text
    assert re.search(r"\n +0\.\d{3}  brightness, contrast and each border, linear\n", text)
    assert "not checked: " in text


def test_a_file_name_moves_no_cursor(made):
    made.add(np.zeros((1, 64, 64)), file="\x1b[2J\nempty.png")
    image_set = made.taken()
    printed = lines(inspect(image_set), image_set)
    assert all(line.isprintable() for line in printed)
    assert any(r"\u001b[2J\u000aempty.png" in line for line in printed)
