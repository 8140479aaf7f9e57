"""What is written about answers and models: names, tables and pages that a hostile card or picture cannot bend."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.errors import raises_code
from tests.images.dicom.write import write_picture
from tests.inference.saved import drawn, picture_input, save

from wardround.errors import ModelError
from wardround.inference.answers import Classified, Unanswered
from wardround.inference.export.bundle import write_bundle
from wardround.inference.export.model_card import markdown_of_card
from wardround.inference.files import Folder
from wardround.inference.model import load
from wardround.inference.tables import csv_of
from wardround.models import load as loading


def model_of(folder, classes=("clear", "lesion")):
    return load(save(folder, drawn("linear", picture_input(), 2), picture_input(), classes=classes))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_of_a_table_is_a_formula(tmp_path, start):
    hostile = f'{start}HYPERLINK("http://example.org")'
    model = model_of(tmp_path / "run", classes=("clear", hostile))
    answer = Classified(hostile, hostile, {"clear": 0.1, hostile: 0.9}, False, (hostile,), np.zeros(2, np.float32))
    text = csv_of(model, [answer, Unanswered("a.png", hostile)])
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert not [cell for cell in cells if cell.startswith(start)]
    assert cells.count(f"'{hostile}") == 4


def test_no_file_about_a_picture_takes_the_place_of_anothers(tmp_path):
    folder = Folder(tmp_path / "masks")
    names = ["a/x.png", "x-2.png", "b/x.png", "X.png", "c/x.png"]
    paths = [folder.write(name, ".nii.gz", name.encode()) for name in names]
    assert [path.read_bytes().decode() for path in paths] == names
    assert len({path.name.casefold() for path in paths}) == len(names)


def test_a_card_for_people_holds_no_link_picture_or_code_of_a_class_name(tmp_path):
    name = "![x](http://example.org/x.png) `code` \\| <img src=x>"
    model = model_of(tmp_path / "run", classes=("clear", name))
    page = markdown_of_card(model)
    line = next(
        line for line in page.splitlines() if line.startswith("| Definitions") or "Definitions of data" in line
    )
    assert line.count("|") - line.count("\\|") == 3
    assert r"!\[x\](http" in line
    assert r"\`code\` \\\| &lt;img" in line


def test_no_memory_is_taken_for_the_sizes_of_a_card_before_they_are_the_files(tmp_path, monkeypatch):
    folder = save(tmp_path / "run", drawn("linear", picture_input(), 2), picture_input())
    card = json.loads((folder / "model.json").read_text())
    card["network"] |= {"size": [4096, 4096], "channels": 3}
    card["recipe"] |= {"image_size": 4096, "colour": "rgb"}
    (folder / "model.json").write_text(json.dumps(card))

    def built(*_, **__):
        raise AssertionError("100 million parameters were asked for")

    monkeypatch.setattr(loading, "build", built)
    with raises_code(ModelError, "model-weights"):
        load(folder)


def test_a_file_may_have_any_name(tmp_path):
    model = model_of(tmp_path / "run")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8))
    paths = [tmp_path / name for name in ("a#1.png", "a", "b.png#", "#c.png", "d\ne.png")]
    for path in paths:
        picture.save(path, format="PNG")
    paths.append(tmp_path / "missing#2.png")
    answers = model.predict(paths)
    assert [answer.file for answer in answers] == [str(path) for path in paths]
    assert [isinstance(answer, Classified) for answer in answers].count(True) >= 3
    assert isinstance(answers[-1], Unanswered)


@pytest.mark.parametrize("start", ["$", "@", "%"])
def test_no_class_name_is_an_expression_of_a_bundle(tmp_path, start):
    """MONAI runs texts of the metadata that begin with "$" when a workflow asks for the names of the channels."""
    name = f"{start}__import__('os').getcwd()"
    model = model_of(tmp_path / "run", classes=("clear", name))
    (tmp_path / "bundle").mkdir()
    write_bundle(model, tmp_path / "bundle")
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "clear", "1": f"'{name}"}


def test_a_sentence_stays_whole_whatever_its_file_is_called(tmp_path):
    """Scanners name files 1, 2, ..., and a short name is a part of many words."""
    pydicom = pytest.importorskip("pydicom")
    large = write_picture(np.zeros((1, 8, 8), dtype=np.uint8), tmp_path / "scan", patient_id="p")
    header = pydicom.dcmread(large)
    header.Rows = header.Columns = 65000
    header.save_as(large)
    names = ["1", "a", "pixels", "picture.dcm"]
    for name in names:
        (tmp_path / name).write_bytes(Path(large).read_bytes())
    model = model_of(tmp_path / "run")
    answers = model.predict([tmp_path / name for name in names]) + model.predict(tmp_path / "run")
    reasons = {answer.reason for answer in answers[:-1] if isinstance(answer, Unanswered)}
    assert len(answers) == 5
    assert len(reasons) == 1
    assert "1 to" in reasons.pop()
    assert isinstance(answers[-1], Unanswered), "a folder without a picture"


def test_an_archive_that_is_gone_or_damaged_has_its_sentence(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    gone, damaged = model_of(tmp_path / "run").predict([tmp_path / "gone.zip", tmp_path / "a.zip"])
    assert isinstance(gone, Unanswered)
    assert gone.reason.startswith("a file must be there")
    assert isinstance(damaged, Unanswered)
    assert damaged.reason == "an archive must be whole, this one is damaged or of another kind. Copy it again"
