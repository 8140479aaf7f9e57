"""BIDS: participants, their anatomical images and their labels."""

import numpy as np
import pytest
from tests.images.nifti_files import nifti_bytes

from wardround.errors import DataError
from wardround.images.entries import Target, Task
from wardround.images.layouts.guess import guess_layout
from wardround.images.listing import ReaderOptions
from wardround.images.load import Volumes, list_entries, load_images
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
    images = load_images("bids", root, cache_dir=tmp_path / "cache", volumes=Volumes((8, 8, 8)))
    assert images.pixels.shape == (4, 1, 8, 8, 8)
    assert read(root, Task.GRADING).target is Target.GRADES


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("column", ["label", "diagnosis", "dx", "Group"])
def test_the_label_may_be_called_as_the_field_calls_it(root, column, ending):
    table(root, *(line.replace("group", column) for line in TABLE), ending=ending)
    assert read(root).class_names == ("control", "patient, severe")


@pytest.mark.parametrize(("chosen", "count"), [(("T1w",), 4), (("T2w",), 2), (("T1w", "T2w"), 6)])
def test_of_several_kinds_the_study_chooses(root, chosen, count):
    for name in ("sub-01/anat/sub-01_T2w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes((root / IMAGES[0]).read_bytes())
    with pytest.raises(DataError, match=r"modalities in \[data\].*got T1w 4, T2w 2"):
        read(root)
    listing = read(root, modalities=chosen)
    assert len(listing.entries) == count
    assert any("of other kinds were passed over" in note for note in listing.notes) == (count < 6)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("participant_id\tage", "sub-01\t3"), "a column of label, diagnosis"),
        (("id\tgroup", "sub-01\ta"), "a first line of participants.tsv with participant_id"),
        (("participant_id\tgroup\tgroup", "sub-01\ta\tb"), "each column once"),
        (("participant_id\tgroup", "sub-01\ta\tb", "sub-02"), "line 2 has 3 cells of 2, line 3 has 1 cells"),
        (("participant_id\tgroup", "sub-01\ta", "sub-01\tb"), "line 3 contradicts"),
        (("participant_id\tgroup", "n/a\ta"), "line 2 has no participant_id"),
        (("participant_id\tgroup",), "a participant in every line"),
        (("participant_id\tgroup", "sub-01\ta", "sub-02\tb"), "1 without: sub-03"),
        (("participant_id\tgroup", "01\ta", "02\ta", "03\ta"), "two values of group"),
        (("participant_id\tgroup", "01\ta", "02\tn/a", "03\tb"), "2 without: sub-02"),
    ],
)
def test_a_table_that_does_not_hold_is_one_sentence(root, lines, said):
    table(root, *lines)
    with pytest.raises(DataError, match=said) as error:
        read(root)
    assert error.value.code == "data-bids"


def test_missing_labels_are_left_out_where_the_site_says_so(root):
    table(root, "participant_id\tgroup", "01\ta", "02\tn/a", "03\tb")
    listing = read(root, leave_out=("nan",))
    assert [entry.patient for entry in listing.entries] == ["sub-01", "sub-03"]
    assert "2 images with a label of [site] leave_out were passed over" in listing.notes
