"""What the card says, and what of it may leave the hospital."""

import json
from dataclasses import replace

import pytest

from wardround.errors import DataError
from wardround.images.quality.card import NOT_STATED, read_stated
from wardround.images.quality.inspection import inspect

LICENCE = 'licence = "CC BY 4.0"\ntitle = "Lungs"\nsource = "an archive"\ncitation = "Somebody 2018"\n'


def test_the_card_has_the_counts_and_hashes_of_the_set(made):
    read = json.loads(json.dumps(inspect(made.taken()).card.to_json()))
    assert read["id"] == made.taken().digest
    assert (read["patients"], read["images"]) == (40, len(made.entries))
    assert read["schema"]["axes"] == ["channel", "height", "width"]
    assert len(read["checksum"]) == 64


def test_what_may_leave_holds_no_count_no_hash_and_no_name(made, tmp_path):
    (tmp_path / "dataset.toml").write_text(LICENCE)
    made.root = tmp_path
    for row, entry in enumerate(made.entries):
        made.change(row, file=f"canary/{entry.file}", patient=f"canary-{entry.patient}", site="canary")
    card = inspect(made.taken()).card
    told = json.dumps(card.shareable())
    assert "CC BY 4.0" in told
    assert "canary" not in told
    assert str(tmp_path) not in told
    for secret in (card.id, card.checksum, "40", str(card.images), *map(str, card.images_of_class.values())):
        assert secret not in told


def test_what_may_leave_is_the_same_whoever_the_patients_are(made):
    before = inspect(made.taken()).card
    made.add(255 - made.pixels[0])
    made.pixels[5] = 7
    after = inspect(made.taken()).card
    assert before != after
    assert before.shareable() == after.shareable()


def test_the_checksum_is_of_the_files_and_the_id_of_patients_and_labels_too(made):
    before = inspect(made.taken()).card
    made.change(0, label=1 - made.entries[0].label)
    after = inspect(made.taken()).card
    assert before.checksum == after.checksum
    assert before.id != after.id


def test_what_is_not_stated_is_a_notice(made, tmp_path):
    made.root = tmp_path
    unsaid = next(notice for notice in inspect(made.taken()).notices if notice.code == "not_stated")
    assert unsaid.what == "Not stated: licence, source, citation"
    (tmp_path / "dataset.toml").write_text(LICENCE)
    seen = inspect(made.taken())
    assert "not_stated" not in {notice.code for notice in seen.notices}
    assert seen.card.stated.title == "Lungs"


def test_the_decathlons_words_are_understood(tmp_path):
    (tmp_path / "dataset.json").write_text('{"name": "A", "licence": "B", "reference": "C", "numTraining": 3}')
    stated = read_stated(tmp_path)
    assert (stated.title, stated.licence, stated.citation, stated.source) == ("A", "B", "C", NOT_STATED)


def test_a_statement_is_words_on_one_line_of_bounded_length(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"title": "a\nb" + "c" * 9000, "licence": ["x"], "url": 3}))
    stated = read_stated(tmp_path)
    assert stated.title.startswith("a b")
    assert len(stated.title) == 500
    assert replace(stated, title=NOT_STATED) == read_stated(None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset.toml", b"licence = "),
        ("dataset.toml", b"\xff\xfe\x00"),
        ("dataset.json", b"{"),
        ("dataset.json", b"[1]"),
        ("dataset.json", b"[" * 100_000),
    ],
)
def test_a_damaged_statement_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} must be .* Correct it\."):
        read_stated(tmp_path)
