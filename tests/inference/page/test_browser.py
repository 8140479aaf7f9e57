"""The page in Chromium, from disk and without a network: it answers as `wardround predict`, and requests nothing."""

import json
import os
import shutil
import subprocess
import threading
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.backbone import needs_backbone
from tests.inference import every
from tests.inference.every import CASES
from tests.inference.page.test_rows import dicoms, jpegs, pngs, saved_as, smooth
from tests.inference.saved import drawn, picture_input, save

from wardround.inference.answers import Classified, Segmented
from wardround.inference.export.onnx import write_onnx
from wardround.inference.export.write import export_page
from wardround.inference.model import load
from wardround.inference.page import write
from wardround.inference.page.languages import languages_of
from wardround.inference.page.write import RUNTIME
from wardround.inference.reading import Ready
from wardround.inference.serve import Service
from wardround.models.card import PictureInput

HERE = Path(__file__).parent
MOST_BYTES = 30_000_000
RUNTIME_FOLDER = Path(__file__).parents[3] / "src" / "wardround" / "inference" / "page" / "runtime"
CHROMIUM = shutil.which("chromium")
DATA = Path(os.environ.get("WARDROUND_DATA", HERE.parents[3] / "shared" / "data"))

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore"),  # of the exporter's own packages
    pytest.mark.skipif(CHROMIUM is None, reason="the page is opened in Chromium, which is not installed"),
    pytest.mark.skipif(
        not all((RUNTIME_FOLDER / name).exists() for name in RUNTIME),
        reason="the page needs its runtime, which is not there: make page-runtime",
    ),
]

MODELS = {
    "grey": ("small_cnn", picture_input(image_size=64), ("clear", "lesion"), "classes"),
    "quick": ("linear", picture_input(image_size=64), ("clear", "lesion"), "classes"),
    "colour": (
        "small_cnn",
        picture_input(image_size=48, colour="rgb", fit="pad"),
        ("no", "mild", "severe"),
        "grades",
    ),
    "features": ("features", picture_input(image_size=64), ("clear", "lesion"), "classes"),
    "ordinal": ("features", picture_input(image_size=64), ("no", "mild", "severe"), "grades"),
    "patch": ("resnet18", picture_input(image_size=64, patch=48), ("clear", "lesion"), "classes"),
    "masks": ("small_unet", picture_input(image_size=48), ("background", "lesion", "other"), "masks"),
    "masks-pad": (
        "small_unet",
        picture_input(image_size=64, fit="pad", patch=48),
        ("background", "lesion"),
        "masks",
    ),
}
ADVICE = """[en]
always = "This page is part of the study."
uncertain = "Ask the clinic for another picture."
[en.classes]
clear = "No visit is needed for this picture."
lesion = "See a physician this week."
[de]
always = "Diese Seite ist Teil der Studie."
"""


@pytest.fixture(scope="session")
def driver():
    """The folder's own node_modules, which npm fetches once; no browser is downloaded."""
    if not (HERE / "node_modules" / "playwright-core").exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("the page is opened by playwright-core, and npm, which fetches it, is not installed")
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        if subprocess.run(command, cwd=HERE, capture_output=True).returncode:
            pytest.skip("the page is opened by playwright-core, which npm could not fetch")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each model and its page, made once."""
    pytest.importorskip("onnxscript")
    place, found = tmp_path_factory.mktemp("pages"), {}
    (place / "advice.toml").write_text(ADVICE)

    def make(name):
        if name not in found:
            network, recipe, classes, target = MODELS[name]
            head = "ordinal" if name == "ordinal" else "softmax"
            run = save(place / name, drawn(network, recipe, len(classes), head=head), recipe, classes, target)
            advice = place / "advice.toml" if name in ("grey", "features") else None
            export_page(load(run), place / f"{name}.html", advice)
            found[name] = load(run), place / f"{name}.html"
        return found[name]

    return make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place, found = tmp_path_factory.mktemp("pictures"), {}
    for ending, several in (("jpg", jpegs), ("png", pngs), ("dcm", dicoms)):
        for name, content in several():
            path = found[f"{name}.{ending}"] = place / f"{name}.{ending}"
            path.write_bytes(content)
    return found


def browse(page, paths, **task):
    task |= {"chromium": CHROMIUM, "page": str(page), "files": list(map(str, paths))}
    command = ["node", str(HERE / "browser.mjs")]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] == []
    return found


CHOSEN = ["grey.jpg", "colour-4:2:0-True.jpg", "turned-6.jpg", "l.png", "rgba.png", "16.png", "palette.png", "16.dcm",
          "inverted.dcm", "table.dcm", "rgb.dcm", "oblong.dcm"]  # fmt: skip


@pytest.mark.parametrize("name", ["grey", "colour", "features", "ordinal", "patch"])
@pytest.mark.usefixtures("driver")
def test_a_page_answers_as_predict(name, made, pictures):
    model, page = made(name)
    paths = [pictures[one] for one in CHOSEN]
    early = name == "features"  # the first picture is chosen before the model is open
    found = browse(page, paths, quick=name != "grey", drops=name == "colour", early=early)
    assert found["said"] == []
    assert found["isEarly"] or not early
    for path, mine in zip(paths, found["answers"], strict=True):
        (answer,) = model.predict([path])
        assert isinstance(answer, Classified)
        assert mine["fault"] is None
        np.testing.assert_allclose(mine["values"], list(answer.probabilities.values()), rtol=0, atol=1e-4)
        assert mine["label"].rsplit(" ", 1)[0].removesuffix(" >") == answer.label
        assert mine["isUncertain"] == answer.uncertain
        assert len(mine["findings"]) == len(answer.findings)
        if name == "grey":
            of_class = (
                "See a physician this week."
                if answer.label == "lesion"
                else "No visit is needed for this picture."
            )
            expected = "Ask the clinic for another picture." if answer.uncertain else of_class
            assert mine["advice"] == f"{expected}\nThis page is part of the study."
            assert "64 squares" in mine["looked"]


TOO_LARGE = ("vgg11", "vgg16")
"""Networks of more parameters than a page may hold, `MOST_PARAMETERS`."""

PICTURES = {
    name: pytest.param(name, marks=needs_backbone) if case.needs_backbone else name
    for name, case in CASES.items()
    if isinstance(case.recipe, PictureInput) and case.network not in TOO_LARGE
}


@pytest.mark.parametrize("name", PICTURES.values())
@pytest.mark.usefixtures("driver")
def test_a_page_of_every_network_gives_the_logits_of_predict(name, tmp_path, cache):
    """The other ways are in `test_every_way.py`, for the same models and pictures."""
    found = every.made(CASES[name], tmp_path, cache)
    _, size = export_page(found.model, tmp_path / "page.html")
    if CASES[name].needs_backbone:
        assert size < MOST_BYTES
    paths = [found.pictures / file for file in found.expected]
    shown = browse(tmp_path / "page.html", paths, quick=True, logits=True)
    logits = {b64decode(rows): values for rows, values in shown["runs"]}
    ready = found.model.read(paths)
    for mine, one, answer in zip(shown["answers"], ready, found.model.predict(paths), strict=True):
        assert mine["fault"] is None
        assert isinstance(one, Ready)
        assert isinstance(answer, Classified | Segmented)
        assert mine["isUncertain"] == answer.uncertain
        if isinstance(answer, Segmented):
            np.testing.assert_allclose(mine["values"], list(answer.shares.values()), rtol=0, atol=1e-4)
        else:
            np.testing.assert_allclose(mine["values"], list(answer.probabilities.values()), rtol=0, atol=1e-4)
            scale = max(1.0, float(np.abs(answer.logits).max()))
            np.testing.assert_allclose(
                logits[one.rows.tobytes()], answer.logits.ravel(), rtol=0, atol=1e-4 * scale
            )


@pytest.mark.parametrize("name", ["masks", "masks-pad"])
@pytest.mark.usefixtures("driver")
def test_a_page_draws_the_mask_of_predict(name, made, pictures):
    model, page = made(name)
    paths = [pictures[one] for one in ("l.png", "small.jpg", "turned-5.jpg", "16.dcm", "oblong.dcm", "wide.png")]
    for path, mine in zip(paths, browse(page, paths, mask=True)["answers"], strict=True):
        (answer,) = model.predict([path])
        assert isinstance(answer, Segmented)
        np.testing.assert_allclose(mine["values"], list(answer.shares.values()), rtol=0, atol=1e-4)
        assert mine["isUncertain"] == answer.uncertain
        assert np.mean(np.array(mine["mask"]) != (answer.mask.ravel() > 0)) < 1e-3


GUARD = "if (mine !== asked) return;"


def raced(page, pictures, tmp_path):
    """Faults of a page that is given a second file before it has answered the first, by the pair of files."""
    (tmp_path / "text.txt").write_text("no picture\n" * 50)
    files = {name: str(pictures[name]) for name in ("grey.jpg", "l.png", "wide.png")} | {
        "text": str(tmp_path / "text.txt")
    }
    pairs = [
        ("grey.jpg", "l.png", "reading"), ("l.png", "wide.png", "looking"), ("l.png", "text", "reading"),
        ("l.png", "text", "looking"), ("text", "grey.jpg", "reading"),
    ]  # fmt: skip
    seconds = list(dict.fromkeys(second for _, second, _ in pairs))
    races = [
        *((None, files[name], "") for name in seconds),
        *((files[first], files[second], when) for first, second, when in pairs),
    ]
    found = browse(page, [], races=races)["races"]
    alone = {name: one["last"] for name, one in zip(seconds, found, strict=False)}
    assert len({one["picture"] for name, one in alone.items() if name != "text"}) == len(seconds) - 1
    faults = []
    for (first, second, when), race in zip(pairs, found[len(seconds) :], strict=True):
        wanted = alone[second]
        visible = [one for one in (*race["seen"], race["last"]) if not one["hidden"]]
        known = ("label", "values", "picture")
        if any(one[key] != wanted[key] for one in visible for key in known):
            faults.append((first, second, when, "another picture's answer"))
        if any(one["looked"] not in ("", wanted["looked"]) and "measures" not in one["looked"] for one in visible):
            faults.append((first, second, when, "another picture's map"))
        keys = ("hidden", "fault") if wanted["hidden"] else (*known, "hidden", "fault", "overlay", "looked")
        if any(race["last"][key] != wanted[key] for key in keys):
            faults.append((first, second, when, "at the end"))
    return faults


@pytest.mark.usefixtures("driver")
def test_the_answer_shown_belongs_to_the_picture_chosen_last(made, pictures, tmp_path):
    """Two files at once, and a second one while the first is being read, or its map is being measured."""
    assert raced(made("quick")[1], pictures, tmp_path) == []


@pytest.mark.parametrize("number", range(3))
@pytest.mark.usefixtures("driver")
def test_a_page_that_answers_two_pictures_at_once_is_caught(number, made, pictures, tmp_path, monkeypatch):
    """Each of the three places where the page gives up an earlier picture is taken out by itself."""
    model, _ = made("quick")
    true = write._asset

    def without(name):
        if name != "page.js":
            return true(name)
        parts = true(name).split(GUARD)
        assert len(parts) == 4
        parts[number : number + 2] = ["".join(parts[number : number + 2])]
        return GUARD.join(parts)

    monkeypatch.setattr(write, "_asset", without)
    export_page(model, tmp_path / "page.html")
    assert raced(tmp_path / "page.html", pictures, tmp_path)


@pytest.mark.usefixtures("driver")
def test_what_is_no_picture_gets_one_sentence(made, pictures, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    bad = {
        name: tmp_path / name
        for name in ("text.txt", "empty.png", "large.png", "none.dcm", "cut.jpg", "cut.png", "cmyk.jpg",
                     "animated.png", "animated.gif", "frames.dcm")
    }  # fmt: skip
    bad["text.txt"].write_text("no picture\n" * 50)
    bad["empty.png"].write_bytes(b"")
    Image.new("1", (10_000, 10_000)).save(bad["large.png"])
    found = pydicom.Dataset()
    found.file_meta = pydicom.dataset.FileMetaDataset()
    found.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    found.SOPClassUID, found.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3"
    found.Modality, found.PatientName = "SR", "Doe^Jane"
    pydicom.dcmwrite(bad["none.dcm"], found, enforce_file_format=True)
    whole = saved_as(Image.fromarray(smooth(0, (200, 300))), format="JPEG")
    bad["cut.jpg"].write_bytes(whole[: len(whole) // 2])
    whole = saved_as(Image.fromarray(smooth(0, (200, 300))), format="PNG")
    bad["cut.png"].write_bytes(whole[: len(whole) // 2])
    still = Image.fromarray(smooth(0, (80, 90)))
    still.convert("CMYK").save(bad["cmyk.jpg"])
    for name in ("animated.png", "animated.gif"):
        still.save(bad[name], save_all=True, append_images=[still.rotate(90)])
    frames = pydicom.dcmread(pictures["8.dcm"])
    frames.NumberOfFrames, frames.PixelData = 2, 2 * frames.PixelData
    frames.save_as(bad["frames.dcm"])
    good = tmp_path / "cat.jpg"
    Image.fromarray(smooth(0, (200, 300))).save(good)
    answers = browse(made("grey")[1], [*bad.values(), good], quick=True)["answers"]
    for name, answer in zip(bad, answers, strict=False):
        assert answer["fault"], name
        assert answer["fault"].count(".") == 1, "one sentence"
        assert answer["fault"].endswith(".")
    assert len({answer["fault"] for answer in answers[:4]}) == 4
    assert answers[-1]["fault"] is None
    assert answers[-1]["findings"] == ["The picture has colours, and the model reads it in grey."]


@pytest.mark.parametrize("name", ["quick", "masks"])
@pytest.mark.usefixtures("driver")
def test_a_page_of_a_damaged_model_answers_nothing(name, made, pictures, tmp_path):
    """One weight is altered after the graph was held to torch; pages of true graphs answer in all other tests."""
    onnx = pytest.importorskip("onnx")
    model, _ = made(name)
    write_onnx(model, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx")
    weight = next(one for one in graph.graph.initializer if len(one.dims) > 1)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[(0,) * values.ndim] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    (tmp_path / "page.html").write_text(write.page_of(model, graph.SerializeToString()), encoding="utf-8")
    sentence = languages_of(None, ())["en"]["words"]["unequal"]
    for answer in browse(tmp_path / "page.html", [pictures["l.png"], pictures["grey.jpg"]], quick=True)["answers"]:
        assert (answer["fault"], answer["label"], answer["values"]) == (sentence, "", [])


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.usefixtures("driver")
def test_axe_finds_no_fault_and_keys_reach_everything(colours, width, made, pictures):
    shape = {"width": width, "height": 800}
    found = browse(
        made("features")[1], [pictures["grey.jpg"]], axe=True, keys=5, colours=colours, shape=shape, shows=True
    )
    assert found["axe"] == []
    assert {"language", "file", "camera", "show"} <= set(found["keys"]) | {"language"}


@pytest.mark.usefixtures("driver")
def test_the_page_from_a_server_is_the_same(made, pictures):
    model, page = made("grey")
    with Service.of_model(model, page.read_text()) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        try:
            (mine,) = browse(page, [pictures["l.png"]], url=service.url, quick=True)["answers"]
        finally:
            service.shutdown()
            thread.join()
    (answer,) = model.predict([pictures["l.png"]])
    assert isinstance(answer, Classified)
    np.testing.assert_allclose(mine["values"], list(answer.probabilities.values()), rtol=0, atol=1e-4)


@pytest.mark.real_data
@pytest.mark.usefixtures("driver")
def test_published_x_rays_get_the_answers_of_predict(made):
    paths = sorted((DATA / "chest_xray" / "test").rglob("*.jpeg"))[::26]
    if not paths:
        pytest.skip("the published X-rays are not beside the project")
    model, page = made("features")
    assert page.stat().st_size < MOST_BYTES
    for mine, answer in zip(browse(page, paths, quick=True)["answers"], model.predict(paths), strict=True):
        assert isinstance(answer, Classified)
        np.testing.assert_allclose(mine["values"], list(answer.probabilities.values()), rtol=0, atol=1e-4)
