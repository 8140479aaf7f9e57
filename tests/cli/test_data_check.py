"""`wardround data check`: it says everything at once, and reads what a study would be refused for."""

import json
import os
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tests.images.dicom.write import write_dicom, write_picture

from wardround.images import store
from wardround.images.dicom import headers as headers_room
from wardround.images.dicom.parse import header_of
from wardround.images.layouts.guess import guess_layout
from wardround.images.rows import pixels
from wardround.images.store import Store, open_store


def save(path, level=None, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(seed).integers(0, 255, (20, 20)) if level is None else np.full((20, 20), level)
    Image.fromarray(drawn.astype(np.uint8)).save(path)


def one_class(root):
    for n in range(3):
        save(root / "ill" / f"p{n}" / "a.png", seed=n)


def one_patient(root):
    for n in range(2):
        save(root / f"{n}.png", seed=n)
    (root / "manifest.csv").write_text("image,patient,label\n0.png,p,x\n1.png,p,y\n")


def constant(root):
    for n in range(4):
        save(root / ("ill", "well")[n % 2] / f"p{n}" / "a.png", level=40 * n)


def some_unnamed(root):
    save(root / "ill" / "p" / "a.png")
    save(root / "well" / "q" / "b.png", seed=1)
    save(root / "well" / "c.png", seed=2)


def every_class(root):
    for n in range(4):
        save(root / ("ill", "well")[n % 2] / "photos" / f"{n}.png", seed=n)


def unordered(root):
    for n, label in enumerate(("mild", "severe", "nan", "mild")):
        save(root / f"{n}.png", seed=n)
        with (root / "manifest.csv").open("a") as table:
            table.write("image,patient,label\n" * (n == 0) + f"{n}.png,p{n},{label}\n")


def ragged(root):
    unordered(root)
    with (root / "manifest.csv").open("a") as table:
        table.write("0.png,p,x,y\nnone.png,q,mild\n")


READ = {one_class: "one_class", one_patient: "two_labels", constant: "constant"}
REFUSED = {
    some_unnamed: ["every picture must name its patient"],
    every_class: ["stand under every class"],
    unordered: ["line 4 has no label (nan)", "grades must be numbers"],
    ragged: [
        "4 values for 3 columns",
        "none.png is missing",
        "line 4 has no label (nan)",
        "grades must be numbers",
    ],
}


@pytest.mark.parametrize("make", READ, ids=lambda make: make.__name__)
def test_sets_that_no_study_could_use_alone_are_looked_at(wardround, tmp_path, make):
    make(tmp_path / "data")
    page = tmp_path / "page.html"
    ended = wardround("data", "check", tmp_path / "data", "--page", page, "--card", tmp_path / "card.json")
    assert ended.code == 0, ended.err
    assert page.exists()
    notices = json.loads(wardround("data", "check", tmp_path / "data", "--json").out)["notices"]
    assert READ[make] in notices


def test_files_that_are_too_large_or_do_not_open_are_left_out_with_the_cause(wardround, tmp_path, monkeypatch):
    for n in range(6):
        save(tmp_path / ("ill", "well")[n % 2] / f"{n}.png", seed=n)
    (tmp_path / "ill" / "2.png").write_bytes(bytes(3000))
    (tmp_path / "well" / "1.png").write_bytes(b"no picture")
    monkeypatch.setattr(store, "MAX_BYTES", 2000)
    ended = wardround("data", "check", tmp_path)
    assert ended.code == 0, ended.err
    said = ended.out.splitlines()[0]
    assert "cannot be read: a file must have at most" in said
    assert "cannot be read: a picture must be one of" in said


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_every_refusal_is_said_and_the_rest_is_looked_at(wardround, tmp_path, make):
    make(tmp_path / "data")
    task = ["--task", "grading"] if make in (unordered, ragged) else []
    page = tmp_path / "page.html"
    ended = wardround("data", "check", tmp_path / "data", *task, "--page", page)
    assert ended.code == 2
    for sentence in REFUSED[make]:
        assert sentence in ended.err
        assert sentence in ended.out
    assert "not checked: " in ended.out, "it went on to the end"
    assert page.exists()


def test_where_nothing_is_left_the_refusal_is_the_sentence(wardround, tmp_path):
    save(tmp_path / "0.png")
    (tmp_path / "manifest.csv").write_text("image,patient,label\n0.png,unknown,x\n")
    ended = wardround("data", "check", tmp_path)
    assert (ended.code, ended.error.code) == (2, "data-rows")
    assert "line 2 has no patient (unknown)" in ended.err


def test_options_say_what_a_study_would(wardround, tmp_path):
    unordered(tmp_path)
    ended = wardround(
        "data", "check", tmp_path, "--task", "grading", "--classes", "severe,mild", "--leave-out", "nan"
    )
    assert ended.code == 0, ended.err
    assert "grades, from the least on: severe, mild" in ended.out
    table = tmp_path.parent / "elsewhere.csv"
    (tmp_path / "manifest.csv").rename(table)
    assert wardround("data", "check", tmp_path, "--labels", table, "--leave-out", "nan").code == 0


def test_modalities_are_chosen_by_an_option_given_several_times(wardround, tmp_path):
    pytest.importorskip("pydicom")
    for n in range(4):
        kind, picture = ("CR", "DX", "MG", "MG")[n], np.full((1, 6, 7), 50 * n, np.uint8)
        write_picture(picture, tmp_path / f"{n}.dcm", patient_id=f"p{n}", modality=kind)
    write_dicom(np.ones((3, 3, 2)), np.eye(4), tmp_path / "ct", patient_id="p4", modality="CT")
    (tmp_path / "labels.csv").write_text("patient_id,label\n" + "".join(f"p{n},{'xy'[n % 2]}\n" for n in range(5)))
    refused = wardround("data", "check", tmp_path)
    assert (refused.code, refused.error.code) == (2, "data-modalities")
    for way in ("`[data] modalities`", "`--modality CT` of `wardround data check`"):
        assert way in refused.err
    ended = wardround("data", "check", tmp_path, "--modality", "cr", "--modality", "DX")
    assert ended.code == 0, ended.err
    assert "files of another modality than CR or DX (4" in ended.out


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (["images/a.png", "masks/a.png"], "data-masks-beside-images"),
        (["ill/Images/a.png", "ill/Masks/a.png", "well/Images/b.png"], "data-masks-beside-images"),
        (["train/img/a.png", "train/gt/a.png"], "data-masks-beside-images"),
        (["set/train/ill/a.png", "set/test/well/b.png"], "data-parts-inside"),
        (["train/ill/a.png", "well/b.png"], "data-parts-beside-classes"),
        (["ill/Train/a.png", "ill/p1/b.png", "well/p2/c.png"], "data-patient-in-every-class"),
        (["ill/p/a.png", "well/p/b.png"], "data-patient-in-every-class"),
    ],
)
def test_folders_that_are_no_classes_are_refused_with_what_to_do(wardround, tmp_path, files, code):
    for n, file in enumerate(files):
        save(tmp_path / file, seed=n)
    assert guess_layout(open_store(tmp_path)) == "folder"
    ended = wardround("data", "check", tmp_path)
    assert (ended.code, ended.error.code) == (2, code)


@pytest.mark.parametrize("parts", [("train", "test"), ("Training", "validation"), ("val", "TEST")])
def test_published_parts_are_read_as_parts(wardround, tmp_path, parts):
    for n in range(4):
        save(tmp_path / parts[n % 2] / ("ill", "well")[n // 2] / f"{n}.png", seed=n)
    ended = wardround("data", "check", tmp_path)
    assert ended.code == 0, ended.err
    assert "classes, in the model's order: ill, well" in ended.out


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_study_file_with_a_byte_order_mark_is_read(wardround, study_file, encoding):
    path = study_file()
    path.write_text(path.read_text(), encoding=encoding)
    ended = wardround("check", path)
    assert ended.code == 0, ended.err
    assert "classes, in the model's order: " in ended.out


def test_no_plural_stands_beside_a_one(wardround, tmp_path):
    """Every count of this set is one, or two classes: images, patients, sites, causes, rows, problems, files."""
    for n in range(2):
        save(tmp_path / f"{n}.png", seed=n)
    (tmp_path / "2.png").write_bytes(b"no picture")
    save(tmp_path / "unlisted.png", seed=3)
    rows = ["0.png,p0,a,x", "1.png,p1,b,y", "2.png,p2,b,y", "2.png,p2,nan,y", "0.png,p0,a,x,z"]
    (tmp_path / "manifest.csv").write_text("\n".join(["image,patient,label,site", *rows]) + "\n")
    said = wardround("data", "check", tmp_path, "--leave-out", "nan").out
    assert "class a: 1 image of 1 patient" in said
    wrong = [found[0] for found in re.finditer(r"(?<![\d.,])1 (?!series)[a-z]{2,}[a-rt-z]s\b", said)]
    assert wrong == []


@pytest.mark.parametrize(("kept", "of_one", "of_frames"), [(64_000_000, 1, 1), (0, 2, 1 + 3)])
def test_headers_are_read_once_and_frames_of_a_file_together(
    kept, of_one, of_frames, wardround, tmp_path, monkeypatch
):
    """A file that is not kept is read once to be hashed, and once for 16 frames to decode them."""
    monkeypatch.setattr(pixels, "_MOST_KEPT", kept)
    pydicom = pytest.importorskip("pydicom")
    drawn = np.random.default_rng(0).integers(0, 255, (40, 6, 7), np.uint8)
    for n in range(2):
        path = write_picture(drawn[n : n + 1], tmp_path / f"{n}.dcm", patient_id=f"p{n}")
    found = pydicom.dcmread(path)
    found.NumberOfFrames, found.PixelData = 40, drawn.tobytes()
    found.save_as(path)
    (tmp_path / "labels.csv").write_text("patient_id,label\np0,x\np1,y\n")
    headers, reads = [], []
    read = Store.read

    def head_noted(store, name, keywords):
        headers.append(name)
        return header_of(store, name, keywords)

    def read_noted(store, name):
        reads.append(name)
        return read(store, name)

    monkeypatch.setattr(headers_room, "header_of", head_noted)
    monkeypatch.setattr(Store, "read", read_noted)
    ended = wardround("data", "check", tmp_path, "--layout", "dicom")
    assert ended.code == 0, ended.err
    assert "dicom: 41 images of 2 patients, 1 to 40 each" in ended.out
    assert sorted(headers) == ["0.dcm", "1.dcm"]
    assert Counter(reads) == {"labels.csv": 1, "file 1 of 3": of_one, "file 2 of 3": of_frames}


@pytest.mark.parametrize(("coloured", "channels"), [(False, 1), (True, 3)])
def test_colours_that_a_study_would_not_read_are_said(wardround, tmp_path, coloured, channels):
    drawn = np.random.default_rng(0).integers(0, 255, (8, 20, 20, 1)).astype(np.uint8).repeat(3, axis=3)
    drawn[..., 1:] //= 3 if coloured else 1
    for n, values in enumerate(drawn):
        (tmp_path / "ab"[n % 2]).mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / "ab"[n % 2] / f"{n}.png")
    ended = wardround("data", "check", tmp_path)
    assert (ended.code, f"pictures: {channels} x 64 x 64" in ended.out) == (0, True)
    assert ('set `[data] colour = "rgb"`' in ended.out) is coloured


def test_names_in_no_encoding_of_texts_are_looked_at(wardround, tmp_path):
    """Files of other systems have names that are no UTF-8: they are shown escaped, on the page as well."""
    for n in range(12):
        path = os.fsencode(tmp_path / "data") + b"/%s/p\xe9%d/\xe9%d.png" % (b"ab"[n % 2 : n % 2 + 1], n, n)
        os.makedirs(os.path.dirname(path))
        drawn = np.random.default_rng(n).integers(0, 255, (20, 20)).astype(np.uint8)
        Image.fromarray(drawn).save(os.fsdecode(path))
    ended = wardround("data", "check", tmp_path / "data", "--page", tmp_path / "page.html")
    assert ended.code == 0, ended.err
    assert b"\\udce9" in (tmp_path / "page.html").read_bytes()
