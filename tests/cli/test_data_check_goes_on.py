"""`wardround data check` goes on after every refusal: it is said first, and what lies there is looked at."""

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from tests.cases import family
from tests.images.dicom.write import write_dicom, write_picture
from tests.images.nifti_files import nifti_bytes

KEPT = 4


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 20)).astype(np.uint8)).save(path)


def classes(root):
    for n in range(KEPT):
        save(root / ("ill", "well")[n % 2] / f"p{n}" / "a.png", seed=n)


def volume(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        nifti_bytes(np.random.default_rng(seed).integers(0, 2, (5, 6, 7)).astype(np.int16), np.eye(4))
    )


def masks_beside_images(root):
    for n in range(KEPT):
        save(root / "images" / f"{n}.png", seed=n)
        save(root / "masks" / f"{n}.png", seed=9 + n)


def parts_beside_classes(root):
    for n in range(KEPT):
        save(root / ("train/ill/a.png", "train/well/b.png", "ill/c.png", "well/d.png")[n], seed=n)


def parts_inside(root):
    for n in range(KEPT):
        save(root / "set" / ("train", "test")[n // 2] / ("ill", "well")[n % 2] / "a.png", seed=n)


def links_outside(root):
    classes(root)
    for n in range(3):
        (root / f"{n}.png").symlink_to("/etc/passwd")


def damaged_table(root):
    classes(root)
    (root / "metadata.csv").write_text("picture;class\na;b\n")


def damaged_persons(root):
    classes(root)
    (root / "patients.csv").write_bytes(b"PK\x03\x04")


def control_names(root):
    for n in range(KEPT):
        save(root / f"{n}.png", seed=n)
    names = ("a\u202eb", "c")
    rows = (f"{n}.png,x{n % 2},p{n},{names[n % 2]}\n" for n in range(KEPT))
    (root / "metadata.csv").write_text("file,label,patient_id,site\n" + "".join(rows))


def manifest_without_a_column(root):
    classes(root)
    (root / "manifest.csv").write_text("image,who\nill/p0/a.png,x\n")


def every_row_wrong(root):
    classes(root)
    (root / "manifest.csv").write_text("image,patient,label\nill/p0/a.png,unknown,x\n")


def chest_names(root):
    for n in range(KEPT + 2):
        name = f"person{n}_virus_1.jpeg" if n < KEPT else f"scan{n}.jpeg"
        save(root / "train" / ("PNEUMONIA", "NORMAL")[n >= KEPT] / name, seed=n)


def volumes_of_a_description(root, description):
    for n in range(KEPT):
        volume(root / "imagesTr" / f"{n}_0000.nii", seed=n)
        volume(root / "labelsTr" / f"{n}.nii", seed=n)
    (root / "dataset.json").write_text(description if isinstance(description, str) else json.dumps(description))


def damaged_json(root):
    volumes_of_a_description(root, "{")


def decathlon_without_labels(root):
    listed = [{"image": f"imagesTr/{n}_0000.nii", "label": f"labelsTr/{n}.nii"} for n in range(KEPT + 1)]
    volumes_of_a_description(root, {"training": listed})


def nnunet_of_three_faults(root):
    volumes_of_a_description(root, {"channel_names": {"3": "x"}, "labels": {"a": 1}, "file_ending": ".mha"})


def nnunet_without_masks(root):
    labels = {"background": 0, "organ": 1}
    volumes_of_a_description(root, {"channel_names": {"0": "x"}, "labels": labels, "file_ending": ".nii"})
    volume(root / "imagesTr" / "9_0000.nii")


def participants(root, lines):
    for n in range(KEPT):
        volume(root / f"sub-{n}" / "anat" / f"sub-{n}_T1w.nii", seed=n)
    (root / "participants.tsv").write_text("\n".join(lines))


def bids_without_a_label(root):
    participants(root, ["participant_id\tage", "sub-0\t3"])


def bids_of_two_kinds_and_no_rows(root):
    participants(root, ["participant_id\tgroup", *(f"sub-{n}\t{'xy'[n % 2]}" for n in range(KEPT))])
    volume(root / "sub-0" / "anat" / "sub-0_T2w.nii")
    volume(root / "sub-9" / "anat" / "sub-9_T1w.nii")


def export(root, labels):
    for n in range(KEPT):
        picture = np.random.default_rng(n).integers(0, 255, (1, 6, 7)).astype(np.uint8)
        write_picture(picture, root / f"{n}.dcm", patient_id=f"p{n}", modality="CR")
    if labels is not None:
        (root / "labels.csv").write_text(labels)


def dicom_without_labels(root):
    export(root, None)


def dicom_with_a_damaged_table(root):
    export(root, "who,what\n1,2\n")


def dicom_of_other_patients(root):
    export(root, "patient_id,label\nx,1\ny,2\n")


def dicom_of_two_kinds(root):
    export(root, "patient_id,label\n" + "".join(f"p{n},{'xy'[n % 2]}\n" for n in range(KEPT)))
    write_dicom(np.ones((3, 3, 2)), np.eye(4), root / "ct", patient_id="p4", modality="CT")


REFUSED = {
    masks_beside_images: ["data-masks-beside-images"],
    parts_beside_classes: ["data-parts-beside-classes"],
    parts_inside: ["data-parts-inside"],
    links_outside: ["data-link-outside"],
    damaged_table: ["data-column-missing"],
    damaged_persons: ["data-no-table"],
    control_names: ["data-name"],
    manifest_without_a_column: ["data-column-missing"],
    every_row_wrong: ["data-rows"],
    chest_names: ["data"],
    damaged_json: ["data"],
    decathlon_without_labels: ["data", "data"],
    nnunet_of_three_faults: ["data-nnunet", "data-nnunet", "data-nnunet"],
    nnunet_without_masks: ["data-nnunet"],
    bids_without_a_label: ["data-bids"],
    bids_of_two_kinds_and_no_rows: ["data-bids", "data-bids"],
    dicom_without_labels: ["data"],
    dicom_with_a_damaged_table: ["data-column-missing"],
    dicom_of_other_patients: ["data-nothing-left"],
    dicom_of_two_kinds: ["data-modalities"],
}  # fmt: skip


@pytest.mark.parametrize("make", family(list(REFUSED), keep=[masks_beside_images, bids_of_two_kinds_and_no_rows]))
def test_every_refusal_stands_first_and_the_pictures_are_looked_at(wardround, tmp_path, make):
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    page = tmp_path / "page.html"
    ended = wardround("data", "check", root, "--page", page, "--volume-size", "8", "8", "8")
    assert ended.code == 2, ended.out
    refusals = ended.error.several or (ended.error,)
    assert sorted(error.code for error in refusals) == REFUSED[make]
    first, *_ = ended.out.splitlines()
    assert f": {KEPT} images " in first, first
    assert f"a study is refused for {len(refusals)} cause" in first
    for error in refusals:
        assert str(error).rstrip(".")[:60] in first
    assert "data:image/png" in page.read_text()
    found = json.loads(wardround("data", "check", root, "--json", "--volume-size", "8", "8", "8").out)
    assert sum(found["refusals"].values()) == len(refusals)


def test_files_of_more_than_a_gigabyte_are_left_out_or_refused_unread(wardround, tmp_path):
    """The files are sparse: they take no room on disk, and reading one would fill memory with zeros."""
    classes(tmp_path)
    large = ["ill/p0/b.png", "patients.csv", "dataset.toml"]
    for name in large:
        with (tmp_path / name).open("wb") as file:
            file.truncate(1_500_000_000)
    tracemalloc.start()
    ended = wardround("data", "check", tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (ended.code, ended.error.code) == (2, "data-table-size")
    first, *_ = ended.out.splitlines()
    for said in (
        "patients.csv must have at most",
        "cannot be read: a file must have at most",
        "dataset.toml must",
    ):
        assert said in first
    assert peak < 200_000_000
