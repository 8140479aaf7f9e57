"""Tables as the world writes them: one reader, the same content in every spelling, or a sentence with the line."""

import csv
import io
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cases import family
from tests.errors import raises_code

from wardround.errors import DataError
from wardround.images import csv_file
from wardround.images.csv_file import SEPARATORS, column_name, read_table
from wardround.images.entries import Task
from wardround.images.identity import folded
from wardround.images.layouts.guess import guess_layout
from wardround.images.listing import Classes, ReaderOptions
from wardround.images.load import list_entries
from wardround.images.store import open_store

HEADER = ["image", "patient", "label"]
ROWS = [["a0.png", "José, P.", "x"], ["b/a1.png", 'the "second"', "y"], ["a2.png", "3", "x; y"]]


def written(separator=",", encoding="utf-8", ends="\n", header=HEADER, rows=ROWS):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=ends)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def values(data):
    table = read_table("t.csv", data, ("image", "patient"))
    assert not table.ragged
    return [[row.values[column] for column in ("image", "patient", "label")] for row in table.rows]


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252")


@pytest.mark.parametrize(
    ("separator", "encoding", "ends"),
    family(
        itertools.product(SEPARATORS, ENCODINGS, ("\n", "\r\n", "\r")),
        keep=[
            *itertools.product(SEPARATORS, ["utf-8"], ["\n"]),
            *itertools.product([";"], ENCODINGS[1:], ["\r\n"]),
        ],
    ),
)
def test_the_same_table_is_read_whatever_wrote_it(separator, encoding, ends):
    assert values(written(separator, encoding, ends)) == ROWS


@pytest.mark.parametrize(
    "header",
    [
        ["Image", "PATIENT", " Label "],
        ["\ufeffimage", "Patient\u200b", "LABEL"],
        ["IMAGE ", "  patient", "label", "", ""],
    ],
)
def test_the_case_and_the_blanks_of_a_header_do_not_count(header):
    rows = [[*row, *([""] * (len(header) - 3))] for row in ROWS]
    assert values(written(header=header, rows=rows)) == ROWS


def test_columns_have_one_spelling_and_subgroups_keep_theirs():
    assert {column_name(name) for name in ("Patient ID", "patient-id", "PatientID", "PATIENT_ID")} == {
        "patient_id"
    }
    assert column_name("GROUP: Sex") == "group:Sex"


def test_a_line_that_names_the_separator_decides():
    assert values(b"sep=|\r\n" + written("|", ends="\r\n")) == ROWS
    assert values(b"\n  \n" + written("\t")) == ROWS


def test_empty_lines_and_empty_cells_at_the_end_do_no_harm_and_lines_are_counted():
    data = b"image,patient,label\n\n,,\na.png,p,x,,\n  \nb.png,q,y\n,,,,,\n"
    table = read_table("t.csv", data, ("image",))
    assert [(row.line, row.values["patient"]) for row in table.rows] == [(4, "p"), (6, "q")]


def test_an_index_without_a_name_in_front_is_passed_over():
    assert values(b",image,patient,label\n0,a,p,x\n1,b,q,y\n") == [["a", "p", "x"], ["b", "q", "y"]]


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (["a.png,x, y,p1", "b.png,p2,y"], [2]),
        (["a.png,p1,x", "b.png,p2", "c.png,p3,y,z"], [3, 4]),
        (["a.png,p1,x", "", '"b\n.png",p2,y', "c.png"], [6]),
    ],
)
def test_ragged_rows_are_problems_with_their_lines(rows, lines):
    table = read_table("t.csv", "\n".join(["image,patient,label", *rows]).encode(), ("image",))
    assert [int(problem.split()[1]) for problem in table.ragged] == lines
    assert len(table.rows) + len(lines) == sum(bool(row) for row in rows)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"image,patient,Image\na,b,c\n", "data-column-twice"),
        (b"image,patient,patient_id\na,b,c\n", "data-column-twice"),
        (b"image;patient;note;Note\na;b;c;d\n", "data-column-twice"),
        (b"image/patient/label\na/b/c\n", "data-column-missing"),
        (b"", "data-column-missing"),
        (b"PK\x03\x04 a workbook", "data-no-table"),
        (b"\xd0\xcf\x11\xe0 an old one", "data-no-table"),
        (b"\x89PNG\r\n\x1a\n\x81\x8d", "data-no-table"),
        (b'image,patient,label\na.png,"p,x\n', "data-no-table"),
        (b"image,patient,label\na.png," + b"p" * 200_000 + b",x\n", "data-no-table"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(data, code):
    with raises_code(DataError, code):
        read_table("t.csv", data, ("image", "patient"), other_names={"patient_id": "patient"})


def test_an_open_quote_is_said_with_the_line_in_which_it_begins():
    with raises_code(DataError, "data-no-table") as caught:
        read_table("t.csv", b'image,patient\na,b\n"c,d\ne,f\n', ("image",))
    assert "t.csv" in str(caught.value)
    assert "line 3" in str(caught.value)


def test_a_missing_column_is_said_with_the_separator_that_was_tried():
    with raises_code(DataError, "data-column-missing") as caught:
        read_table("t.csv", b"file;who\na;b\n", ("image", "patient"))
    assert "separated by semicolon" in str(caught.value)


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_LINES", "MAX_CELLS"])
def test_limits_refuse_a_table_and_its_neighbour_is_read(monkeypatch, limit):
    data = written()
    size = {"MAX_BYTES": len(data), "MAX_LINES": 4, "MAX_CELLS": 9}[limit]
    monkeypatch.setattr(csv_file, limit, size)
    assert values(data) == ROWS
    monkeypatch.setattr(csv_file, limit, size - 1)
    with raises_code(DataError, "data-table-size"):
        values(data)


@pytest.mark.thorough
def test_reading_takes_a_few_times_the_size_of_the_table():
    data = b"image,patient,label\n" + b"\n" * 200_000 + b"a,p,x\n" * 20_000
    tracemalloc.start()
    read_table("t.csv", data, ("image",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(data)


# ---- tables of every layout, and the files that they name -----------------------------------------------------------


def picture(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(level).integers(0, 255, (6, 6)).astype(np.uint8)
    Image.fromarray(values).save(path)


LAYOUTS = {
    "manifest": ("manifest.csv", ["image", "patient", "label"], ["{}.png", "p{}", "{}"]),
    "folder": ("metadata.csv", ["file", "label", "patient_id"], ["{}.png", "{}", "p{}"]),
    "aptos": ("train.csv", ["id_code", "diagnosis", "patient_id"], ["{}", "{}", "p{}"]),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    name, header, row = LAYOUTS[request.param]
    rows = [[cell.format(n) for cell in row] for n in range(3)]
    root = tmp_path / "data"
    for n in range(3):
        picture(root / ("train_images" if request.param == "aptos" else "") / f"{n}.png", n)
    return request.param, root, name, header, rows


@pytest.mark.parametrize("ragged", ["", "extra"])
def test_every_layout_reads_the_tables_of_spreadsheets_and_refuses_shifted_rows(layout, ragged):
    name, root, table, header, rows = layout
    rows = [[*rows[0], ragged], *rows[1:]]
    (root / table).write_bytes(written(";", "utf-16", "\r\n", [cell.title() for cell in header], rows))
    store = open_store(root)
    assert guess_layout(store) == name
    if ragged:
        with raises_code(DataError, "data-row-length") as caught:
            list_entries(name, store, None)
        assert f"{table} must hold; 1 problem: line 2" in str(caught.value)
    else:
        assert [entry.patient for entry in list_entries(name, store, None).entries] == ["p0", "p1", "p2"]


def test_the_table_of_every_layout_may_lie_elsewhere(layout, tmp_path):
    name, root, table, header, rows = layout
    elsewhere = tmp_path / "tables" / table
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(written("\t", header=header, rows=rows))
    found = list_entries(name, open_store(root), None, ReaderOptions(labels=elsewhere))
    assert len(found.entries) == 3
    assert guess_layout(open_store(root), elsewhere) == name


@pytest.mark.parametrize(
    "spelling", ["0.png", "./0.png", ".\\0.png", "../data/0.png", "sub/../0.png", "{root}/0.png"]
)
def test_paths_are_relative_to_the_data_folder_or_to_the_table(tmp_path, spelling):
    root, table = tmp_path / "data", tmp_path / "tables" / "t.csv"
    for n in range(2):
        picture(root / f"{n}.png", n)
    table.parent.mkdir()
    table.write_text(f"image,patient,label\n{spelling.format(root=root)},p,x\n1.png,q,y\n")
    found = list_entries("manifest", open_store(root), None, ReaderOptions(labels=table))
    assert [entry.file for entry in found.entries] == ["0.png", "1.png"]


def test_a_name_that_is_two_files_is_asked_about(tmp_path):
    root = tmp_path / "data"
    for n, file in enumerate(("a.png", "in/a.png", "in/b.png")):
        picture(root / file, n)
    table = root / "in" / "t.csv"
    table.write_text("image,patient,label\na.png,p,x\nb.png,q,y\n")
    with raises_code(DataError, "data-rows") as caught:
        list_entries("manifest", open_store(root), None, ReaderOptions(labels=table))
    assert "line 2: a.png is a file below the data folder, and another one beside the table" in str(caught.value)


def test_a_name_in_another_unicode_form_is_the_same_file(tmp_path):
    picture(tmp_path / "Jose\u0301.png")
    picture(tmp_path / "b.png", 1)
    (tmp_path / "manifest.csv").write_text("image,patient,label\nJos\u00e9.png,p,x\nb.png,q,y\n")
    assert len(list_entries("manifest", open_store(tmp_path), None).entries) == 2


@pytest.mark.parametrize("place", ["gone.csv", "folder", "/dev/zero"])
def test_a_table_that_is_no_file_is_refused(tmp_path, place):
    picture(tmp_path / "data" / "0.png")
    (tmp_path / "folder").mkdir()
    with raises_code(DataError, "data-no-table"):
        list_entries("manifest", open_store(tmp_path / "data"), None, ReaderOptions(labels=Path(tmp_path / place)))


def test_a_table_of_persons_is_read_as_any_other(tmp_path):
    for n in range(3):
        picture(tmp_path / "xy"[n % 2] / f"{n}.png", n)
    rows = [["x\\0.png", "p"], ["./y/1.png", "q"], ["2", "p"]]
    (tmp_path / "patients.csv").write_bytes(written("|", "latin-1", header=["Picture", "Patient ID"], rows=rows))
    found = list_entries("folder", open_store(tmp_path), None)
    assert [entry.patient for entry in found.entries] == ["p", "p", "q"]


# ---- missing values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["nan", "None", "#N/A", "-1", "<NA>", "NULL", "-1.0"])
def test_a_missing_label_is_refused_left_out_or_the_studys(tmp_path, word):
    for n in range(3):
        picture(tmp_path / f"{n}.png", n)
    (tmp_path / "manifest.csv").write_text(f"image,patient,label\n0.png,p,{word}\n1.png,q,0\n2.png,r,1\n")
    store = open_store(tmp_path)

    def read(**options):
        return list_entries("manifest", store, None, ReaderOptions(**options))

    with raises_code(DataError, "data-rows") as caught:
        read()
    assert f"line 2 has no label ({word})" in str(caught.value)
    assert "`[data] classes`" in str(caught.value)
    left_out = read(leave_out=(word,))
    assert left_out.class_names == ("0", "1")
    assert "left out: 1 row of manifest.csv, by [site] leave_out" in left_out.notes
    assert read(classes=Classes(("1", word, "0"))).class_names == ("1", word, "0")
    assert len(read(classes=Classes(("1", word, "0")), leave_out=("nan", "none", "null")).entries) == 3
    looked = read(looking=True)
    assert ([error.code for error in looked.refusals], len(looked.entries)) == (["data-rows"], 2)


def test_a_folder_for_a_missing_label_is_no_class(tmp_path):
    for name in ("nan", "0", "1", "2"):
        picture(tmp_path / name / f"{name}.png")
    store = open_store(tmp_path)
    with raises_code(DataError, "data-missing-class"):
        list_entries("folder", store, Task.CLASSIFICATION)
    found = list_entries("folder", store, None, ReaderOptions(leave_out=("nan",)))
    assert found.class_names == ("0", "1", "2")
    assert found.notes == ("1 picture was left out, by [site] leave_out",)
    without = list_entries("folder", store, None, ReaderOptions(leave_out=("nan", "0")))
    assert (without.class_names, without.notes) == (("1", "2"), ("2 pictures were left out, by [site] leave_out",))
    listed = ReaderOptions(leave_out=("nan", "0"), classes=Classes(("0", "1", "2")))
    assert list_entries("folder", store, None, listed).class_names == ("0", "1", "2")
    assert list_entries("folder", store, None, ReaderOptions(classes=Classes(("nan", "0", "1", "2")))).entries


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("header", [["Image", "Patient ID", "备注" * 60], ["备注" * 60, "id", "Image", "patient"]])
def test_utf_16_without_a_mark_is_known_by_a_column(encoding, header):
    """However few of its letters are ASCII, each of which has a zero beside it."""
    rows = [["影像" * 20, "病人" * 20, "肺炎" * 20, "健康" * 20][: len(header)] for _ in range(3)]
    table = read_table("t.csv", written(",", encoding, "\n", header, rows), ("image",))
    assert len(table.rows) == 3
    assert table.rows[0].values["image"] in ("影像" * 20, "肺炎" * 20)
    assert table.notes == ("t.csv has no byte order mark and was read as UTF-16",)


def test_utf_16_without_a_known_column_is_to_be_saved_again():
    with raises_code(DataError, "data-no-table"):
        read_table("t.csv", written(",", "utf-16-le", "\n", ["nodule", "name_of_it"], [["a", "b"]]), ("image",))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("padded", ["a0.png", "José", "label", "3,"])
def test_a_zero_byte_in_a_value_makes_no_other_encoding_of_a_table(encoding, padded):
    text = "".join(f"{','.join(row)}\n" for row in [HEADER, ["a0.png", "José", "x"], ["b.png", "3", "y"]])
    data = text.replace(padded, padded.replace(padded[-1], padded[-1] + "\0", 1), 1).encode(encoding)
    table = read_table("t.csv", data, ("image", "patient"))
    assert [folded(row.values["patient"]) for row in table.rows] == ["José", "3"]
    assert not any("UTF-16" in note for note in table.notes)


@pytest.mark.parametrize("text", ["a" * 100_000, "a," * 100_000], ids=["one name", "many names"])
def test_the_sentence_of_a_first_line_that_names_no_columns_stays_short(text):
    with raises_code(DataError, "data-column-missing") as caught:
        read_table("t.csv", text.encode(), ("image", "patient"))
    assert len(str(caught.value)) < 2000
