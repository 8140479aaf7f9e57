"""Entries to patients, and the same picture under two names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import DataError
from wardround.images.entries import Entry
from wardround.images.group import Duplicates, digest_of, group_by_patient
from wardround.images.listing import Listing

NOBODY: frozenset[int] = frozenset()


def listing(*rows):
    """Entries from (patient, label) with file names in order."""
    entries = tuple(Entry(f"{i}.png", label, patient) for i, (patient, label) in enumerate(rows))
    return Listing(entries, ("a", "b"))


def grouped(rows, digests, duplicates=Duplicates.MERGE, unreadable=NOBODY):
    return group_by_patient(listing(*rows), digests, unreadable, duplicates)


def test_all_images_of_a_person_are_one_patient_and_patients_are_sorted():
    patients, findings = grouped([("z", 0), ("a", 0), ("z", 1)], ["1", "2", "3"])
    assert [(p.id, p.rows, p.labels, p.label) for p in patients] == [
        ("a", (1,), (0,), 0),
        ("z", (0, 2), (0, 1), 1),
    ]
    assert findings.two_labels == ("z",)


def test_the_same_picture_under_two_patients_makes_them_one():
    patients, findings = grouped([("x", 0), ("y", 0), ("y", 0), ("q", 0)], ["1", "1", "2", "3"])
    assert [(p.id, p.rows) for p in patients] == [("q", (3,)), ("x+y", (0, 1, 2))]
    assert findings.shared_pictures == (("0.png", "1.png"),)
    assert findings.repeated_pictures == 1


def test_merging_follows_chains_of_shared_pictures():
    patients, _ = grouped([("a", 0), ("b", 0), ("b", 0), ("c", 0), ("d", 0)], ["1", "1", "2", "2", "3"])
    assert [p.id for p in patients] == ["a+b+c", "d"]


def test_keep_leaves_them_apart_and_says_so():
    patients, findings = grouped([("x", 0), ("y", 1)], ["1", "1"], Duplicates.KEEP)
    assert len(patients) == 2
    assert findings.conflicting_duplicates == findings.shared_pictures == (("0.png", "1.png"),)


def test_refuse_names_the_files():
    with pytest.raises(DataError, match=r"1 groups.*0\.png, 1\.png"):
        grouped([("x", 0), ("y", 1)], ["1", "1"], Duplicates.REFUSE)


def test_a_copy_within_one_patient_is_counted_and_merges_nobody():
    patients, findings = grouped([("x", 0), ("x", 0)], ["1", "1"], Duplicates.REFUSE)
    assert len(patients) == 1
    assert findings.summary()["repeated_pictures"] == 1
    assert findings.shared_pictures == ()


def test_unreadable_rows_are_left_out_and_rows_keep_their_place():
    patients, findings = grouped([("x", 0), ("x", 0), ("y", 0)], ["1", "2", "3"], unreadable=frozenset({0}))
    assert [p.rows for p in patients] == [(1,), (2,)]
    assert findings.unreadable == ("0.png",)


def test_a_patient_with_two_sites_keeps_both_and_belongs_to_neither():
    entries = (
        Entry("0", 0, "x", site="north"),
        Entry("1", 0, "x", site="south"),
        Entry("2", 0, "y", site="north"),
    )
    patients, _ = group_by_patient(Listing(entries, ("a", "b")), ["1", "2", "3"], NOBODY, Duplicates.MERGE)
    assert [(p.site, p.sites) for p in patients] == [(None, ("north", "south")), ("north", ("north",))]


def test_the_digest_knows_contents_labels_and_patients_and_ignores_order():
    def digest(rows, digests):
        return digest_of(grouped(rows, digests)[0])

    first = digest([("x", 0), ("y", 1)], ["1", "2"])
    assert first == digest([("y", 1), ("x", 0)], ["2", "1"])
    others = [
        digest([("x", 0), ("y", 0)], ["1", "2"]),
        digest([("x", 0), ("z", 1)], ["1", "2"]),
        digest([("x", 0), ("y", 1)], ["1", "3"]),
        digest([("x", 0)], ["1"]),
    ]
    assert len({first, *others}) == 5


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1), st.sampled_from("12345678"))))
def test_no_picture_is_lost_and_no_content_stands_in_two_patients(rows):
    patients, _ = grouped([row[:2] for row in rows], [row[2] for row in rows])
    assert sorted(row for p in patients for row in p.rows) == list(range(len(rows)))
    contents = [{image.digest for image in p.images} for p in patients]
    assert sum(map(len, contents)) == len(set().union(*contents))
