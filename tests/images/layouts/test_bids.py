"""BIDS: participants, their anatomical images and their labels."""

import itertools
import re

import numpy as np
import pytest
from tests.cases import family
from tests.errors import raises_code
from tests.images.nifti_files import nifti_bytes

from wardround.errors import DataError
from wardround.images.entries import Target, Task
from wardround.images.layouts.guess import guess_layout
from wardround.images.listing import Classes, ReaderOptions
from wardround.images.load import list_entries, load_images
from wardround.images.rows.recipe import VolumeRecipe
from wardround.images.store import open_store
from wardround.types import Persons

TABLE = (
    "participant_id\tage\tsex\tgroup\tsite", "sub-01\t60\tF\tcontrol\tnorth",
    "sub-02\t70\tM\tpatient, severe\tn/a", "sub-03\tn/a\tn/a\tcontrol\tsouth",
)  # fmt: skip
IMAGES = (
    "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-a/anat/sub-02_ses-a_acq-mprage_run-1_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii", "sub-03/anat/sub-03_T1w.nii.gz",
)  # fmt: skip
OTHERS = ("sub-01/func/sub-01_task-rest_bold.nii.gz", "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz", "CHANGES",
          "sub-01/anat/sub-02_T1w.nii.gz")  # fmt: skip


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    for seed, name in enumerate((*IMAGES, *OTHERS)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).integers(0, 900, (5, 6, 7)).astype(np.int16)
        (folder / name).write_bytes(nifti_bytes(values, np.eye(4)))
    return table(folder)


def table(root, *lines, ending="\n"):
    (root / "participants.tsv").write_bytes(ending.join(lines or TABLE).encode())
    return root


def read(root, task=Task.CLASSIFICATION, **options):
    return list_entries("bids", open_store(root), task, ReaderOptions(**options))


def test_participants_are_patients_with_all_their_sessions(root, tmp_path):
    listing = read(root)
    assert guess_layout(open_store(root)) == "bids"
    assert [entry.file for entry in listing.entries] == sorted(IMAGES)
    assert [entry.patient for entry in listing.entries] == ["sub-01", "sub-02", "sub-02", "sub-03"]
    assert listing.persons is Persons.NAMED
    assert listing.class_names == ("control", "patient, severe")
    assert [entry.label for entry in listing.entries] == [0, 1, 1, 0]
    assert [entry.site for entry in listing.entries] == ["north", None, None, "south"]
    assert [entry.groups for entry in listing.entries] == [(("sex", "F"),), *[(("sex", "M"),)] * 2, ()]
    images = load_images("bids", root, cache_dir=tmp_path / "cache", recipes=[VolumeRecipe((8, 8, 8))])
    assert images.pixels.shape == (4, 1, 8, 8, 8)
    order = Classes(("control", "patient, severe"))
    assert read(root, Task.GRADING, classes=order).target is Target.GRADES


@pytest.mark.parametrize(
    ("column", "ending"),
    family(
        itertools.product(["label", "diagnosis", "dx", "Group"], ["\n", "\r\n", "\n\n"]),
        keep=[("label", "\n"), ("diagnosis", "\r\n"), ("dx", "\n\n"), ("Group", "\r\n")],
    ),
)
def test_the_label_may_be_called_as_the_field_calls_it(root, column, ending):
    table(root, *(line.replace("group", column) for line in TABLE), ending=ending)
    assert read(root).class_names == ("control", "patient, severe")


@pytest.mark.parametrize(("chosen", "count"), [(("T1w",), 4), (("T2w",), 2), (("T1w", "T2w"), 6)])
def test_of_several_kinds_the_study_chooses(root, chosen, count):
    for name in ("sub-01/anat/sub-01_T2w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes((root / IMAGES[0]).read_bytes())
    with pytest.raises(DataError, match=r"`\[data\] modalities`.*`--modality T1w` of.*got T1w 4, T2w 2"):
        read(root)
    listing = read(root, modalities=chosen)
    assert len(listing.entries) == count
    assert any("of other kinds" in note for note in listing.notes) == (count < 6)
    assert len(listing.left_out) == 6 - count
    with raises_code(DataError, "data-bids"):
        read(root, modalities=("FLAIR",))


@pytest.mark.parametrize(
    ("lines", "said", "code"),
    [
        (("participant_id\tage", "sub-01\t3"), "a column of label, diagnosis", "data-bids"),
        (("id\tgroup", "sub-01\ta"), "columns participant_id; missing: participant_id", "data-column-missing"),
        (("participant_id\tgroup\tgroup", "sub-01\ta\tb"), "twice: group", "data-column-twice"),
        (
            ("participant_id\tgroup", "01\ta", "02\ta", "03\tb", "04\ta\tb", "05"),
            "line 5 has 3 values for 2 columns, line 6 has 1 value for 2 columns",
            "data-row-length",
        ),
        (
            ("participant_id\tgroup", "01\ta", "02\tb", "03\tb", "sub-01\tb"),
            "line 5 contradicts line 2",
            "data-rows",
        ),
        (
            ("participant_id\tgroup", "n/a\ta", "01\ta", "02\tb", "03\tb"),
            r"line 2 has no participant_id \(n/a\)",
            "data-rows",
        ),
        (("participant_id\tgroup",), "rows below its first line", "data-no-rows"),
        (("participant_id\tgroup", "sub-01\ta", "sub-02\tb"), "1 without: sub-03", "data-bids"),
        (("participant_id\tgroup", "01\ta", "02\ta", "03\ta"), "two classes or more, got a", "data-one-class"),
        (("participant_id\tgroup", "01\ta", "02\tn/a", "03\tb"), r"line 3 has no group \(n/a\)", "data-rows"),
    ],
)
def test_a_table_that_does_not_hold_is_one_sentence(root, lines, said, code):
    table(root, *lines)
    with raises_code(DataError, code) as error:
        read(root)
    assert re.search(said, str(error.value))


def test_missing_labels_are_left_out_where_the_site_says_so(root):
    table(root, "participant_id\tgroup", "01\ta", "02\tn/a", "03\tb", "04\tn/a")
    listing = read(root, leave_out=("nan",))
    assert [entry.patient for entry in listing.entries] == ["sub-01", "sub-03"]
    assert "left out: 1 row of participants.tsv, by [site] leave_out" in listing.notes
    assert "1 participant has no image in anat" in listing.notes
    assert sorted(one.name for one in listing.left_out) == sorted(IMAGES[1:3])
    assert [entry.patient for entry in read(root, leave_out=("nan", "sub-01"), looking=True).entries] == ["sub-03"]


def test_somebody_who_only_looks_gets_every_refusal_and_the_rest(root):
    table(root, "participant_id\tgroup", "01\ta", "02\tn/a", "n/a\tb")
    listing = read(root, looking=True)
    assert [entry.patient for entry in listing.entries] == ["sub-01"]
    assert [error.code for error in listing.refusals] == ["data-rows", "data-bids"]
    assert "2 problems" in str(listing.refusals[0])
    assert sorted(one.name for one in listing.left_out) == sorted(IMAGES[1:])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_the_table_is_read_as_any_other_and_may_lie_elsewhere(root, tmp_path, encoding):
    lines = ("Participant_ID\tDiagnosis\tSite", '01\t"d\xe9j\xe0"\tnorth', "02\tb\t", "03\tb\tsouth", "", "\t")
    (root / "participants.tsv").unlink()
    elsewhere = tmp_path / "people.tsv"
    elsewhere.write_bytes("\r\n".join(lines).encode(encoding))
    listing = read(root, labels=elsewhere)
    assert listing.class_names == ("b", "d\xe9j\xe0")
    assert [entry.site for entry in listing.entries] == ["north", None, None, "south"]
