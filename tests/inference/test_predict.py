"""Prediction reads pictures as training does, says what it cannot read, and goes on."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.errors import raises_code
from tests.images.dicom.write import write_dicom, write_picture
from tests.images.nifti_files import nifti_bytes
from tests.inference.saved import drawn, evaluated, picture_input, save, volume_input

from wardround.agreed.model_card import _recipe
from wardround.errors import ModelError
from wardround.images.load import load_images
from wardround.images.rows.recipe import PictureRecipe, View, VolumeRecipe
from wardround.inference.answers import Classified, Segmented, Unanswered
from wardround.inference.model import load
from wardround.inference.reading import recipe_of


def scene(number, height=45, width=60):
    """Noise with one bright box, another in every picture."""
    generator = np.random.default_rng(number)
    values = generator.integers(0, 120, (height, width), dtype=np.uint8)
    values[5 + number : 25 + number, 10:30] += 100
    return values


def write_all_formats(root):
    """Two classes of pictures in every file format that Pillow reads here."""
    for folder in ("a", "b"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(scene(0)).save(root / "a" / "grey.png")
    Image.fromarray(np.stack([scene(1), scene(2), scene(3)], axis=2)).save(root / "a" / "colour.png")
    Image.fromarray(scene(4, 300, 500)).save(root / "a" / "large.jpeg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.stack([scene(5, 200, 260)] * 3, axis=2)
    Image.fromarray(turned).save(root / "b" / "turned.jpg", exif=exif)
    Image.fromarray(scene(6).astype(np.uint16) * 257).save(root / "b" / "deep.tiff")
    Image.fromarray(scene(7)).save(root / "b" / "plain.bmp")
    Image.fromarray(scene(8).astype(np.uint16) * 200).save(root / "b" / "deep.png")


def files_of(images):
    return [image.file for patient in images.patients for image in patient.images]


def rows_of(images):
    return [image.row for patient in images.patients for image in patient.images]


QUICK = ["features", "small_cnn", "linear"]


@pytest.mark.parametrize("name", QUICK)
def test_files_get_the_answers_of_trainings_evaluation(name, tmp_path, cache):
    root = tmp_path / "pictures"
    write_all_formats(root)
    images = load_images("folder", root, cache_dir=cache, recipes=[PictureRecipe(32, 1)])
    recipe = picture_input()
    network = drawn(name, recipe, 2)
    expected = dict(zip(files_of(images), evaluated(images, network)[rows_of(images)], strict=True))
    model = load(save(tmp_path / "run", network, recipe))
    found = model.predict(root)
    assert [answer.file for answer in found] == sorted(expected)
    for answer in found:
        assert isinstance(answer, Classified)
        np.testing.assert_allclose(list(answer.probabilities.values()), expected[answer.file], rtol=0, atol=1e-6)
    assert len({answer.probabilities["clear"] for answer in found if isinstance(answer, Classified)}) == 7


def test_one_by_one_and_in_an_archive_the_answers_are_the_folders(tmp_path):
    import shutil

    root = tmp_path / "pictures"
    write_all_formats(root)
    model = load(save(tmp_path / "run", drawn("small_cnn", picture_input(), 2), picture_input()))
    whole = {answer.file: answer for answer in model.predict(root)}
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    paths = sorted((root / name for name in whole), reverse=True)
    for found, names in (
        (model.predict(archive), list(whole)),
        (model.predict(paths), [path.relative_to(root).as_posix() for path in paths]),
    ):
        for answer, name in zip(found, names, strict=True):
            expected = whole[name]
            assert isinstance(answer, Classified)
            assert isinstance(expected, Classified)
            np.testing.assert_allclose(answer.logits, expected.logits, atol=1e-5)


def test_arrays_get_the_answers_of_their_files(tmp_path):
    model = load(save(tmp_path / "run", drawn("small_cnn", picture_input(), 2), picture_input()))
    values = scene(3)
    Image.fromarray(values).save(tmp_path / "one.png")
    first, second, third = model.predict([values, tmp_path / "one.png", values.astype(np.float64)])
    assert isinstance(first, Classified)
    assert isinstance(second, Classified)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert isinstance(third, Unanswered)
    assert "float64" in third.reason


@pytest.mark.parametrize("view", ["volume", "slices"])
@pytest.mark.parametrize("spacing", [None, pytest.param((1.5, 1.2, 2.0), marks=pytest.mark.thorough)])
def test_volumes_get_the_masks_of_trainings_evaluation(view, spacing, tmp_path, cache):
    root = tmp_path / "volumes"
    affine = np.diag([-1.0, 1.2, 2.0, 1.0])
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number in range(2):
        generator = np.random.default_rng(number)
        mask = np.zeros((18, 14, 20), dtype=np.uint8)
        mask[4:12, 3:10, 5 : 12 + number] = 1
        values = (generator.normal(0, 5, mask.shape) + 90 * mask).astype(np.int16)
        (root / "imagesTr" / f"case{number}.nii.gz").write_bytes(nifti_bytes(values, affine))
        (root / "labelsTr" / f"case{number}.nii.gz").write_bytes(nifti_bytes(mask, affine))
    listed = [{"image": f"./imagesTr/case{n}.nii.gz", "label": f"./labelsTr/case{n}.nii.gz"} for n in range(2)]
    about = {
        "name": "boxes",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "box"},
        "training": listed,
    }
    (root / "dataset.json").write_text(json.dumps(about))
    images = load_images(
        "decathlon",
        root,
        cache_dir=cache,
        recipes=[VolumeRecipe((16, 12, 16), 1, spacing, None, View(view))],
        task="segmentation",
    )
    recipe = volume_input(volume_size=(16, 12, 16), spacing=spacing, view=view)
    network = drawn("boxed_voxel_features", recipe, 2)
    expected = evaluated(images, network)
    model = load(save(tmp_path / "run", network, recipe, ("background", "box"), "masks"))
    found = model.predict(root / "imagesTr")
    assert [answer.file for answer in found] == ["case0.nii.gz", "case1.nii.gz"]
    for number, answer in enumerate(found):
        assert isinstance(answer, Segmented)
        rows = [image.row for patient in images.patients for image in patient.images
                if image.file.endswith(f"case{number}.nii.gz")]  # fmt: skip
        classes = answer.logits.argmax(axis=1)
        assert (classes != expected[rows]).mean() < 1e-3
        assert 0 < (classes == 1).mean() < 1
        assert answer.mask.shape == (18, 14, 20)
        assert answer.affine is not None


def test_dicom_gets_the_answers_of_trainings_evaluation(tmp_path, cache):
    root = tmp_path / "export"
    for number in range(3):
        write_picture(scene(number)[None], root / f"{number}.dcm", patient_id=f"p{number}")
    (root / "labels.csv").write_text("label,patient_id\na,p0\nb,p1\nb,p2\n")
    images = load_images("dicom", root, cache_dir=cache, recipes=[PictureRecipe(32, 1)])
    recipe = picture_input()
    network = drawn("features", recipe, 2)
    expected = evaluated(images, network)[rows_of(images)]
    found = load(save(tmp_path / "run", network, recipe)).predict(root)
    assert [answer.file for answer in found] == ["0.dcm", "1.dcm", "2.dcm"]
    logits = [list(answer.probabilities.values()) for answer in found if isinstance(answer, Classified)]
    np.testing.assert_allclose(sorted(logits), sorted(expected.tolist()), atol=1e-6)


def test_a_dicom_series_is_one_volume_however_it_is_named(tmp_path):
    values = np.random.default_rng(0).integers(0, 500, (16, 18, 6)).astype(float)
    paths = write_dicom(values, np.diag([1.0, 1.0, 3.0, 1.0]), tmp_path / "series", patient_id="p1")
    recipe = volume_input(volume_size=(16, 16, 8))
    model = load(save(tmp_path / "run", drawn("linear", recipe, 2), recipe))
    (one,) = model.predict(list(paths)[::-1])
    (other,) = model.predict(tmp_path / "series")
    (whole,) = model.predict(_nifti(tmp_path / "same.nii.gz", values))
    for answer in (one, other, whole):
        assert isinstance(answer, Classified)
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)  # type: ignore[union-attr]
    np.testing.assert_allclose(one.logits, whole.logits, atol=1e-5)  # type: ignore[union-attr]
    pictures = load(save(tmp_path / "flat", drawn("linear", picture_input(), 2), picture_input()))
    (refused,) = pictures.predict(tmp_path / "series")
    assert isinstance(refused, Unanswered)
    assert "MR slices" in refused.reason


def _nifti(path, values):
    path.write_bytes(nifti_bytes(values.astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0])))
    return path


def test_channels_of_one_volume_are_read_as_nnunet_names_them(tmp_path):
    values = np.random.default_rng(0).integers(0, 500, (2, 16, 16, 16)).astype(np.int16)
    for channel in range(2):
        (tmp_path / f"case_000{channel}.nii.gz").write_bytes(nifti_bytes(values[channel], np.eye(4)))
    (tmp_path / "odd_0000.nii.gz").write_bytes(nifti_bytes(values[0], np.eye(4)))
    recipe = volume_input(channels=2)
    model = load(save(tmp_path / "run", drawn("linear", recipe, 2), recipe))
    one, odd = model.predict(sorted(tmp_path.glob("*.nii.gz")))
    (array,) = model.predict(values.astype(np.float32))
    assert isinstance(one, Classified)
    assert isinstance(array, Classified)
    np.testing.assert_allclose(one.logits, array.logits, atol=1e-5)
    assert isinstance(odd, Unanswered)


# What cannot be read, and what lies outside --------------------------------------------------------------


def test_bad_input_gives_one_sentence_each_and_the_others_go_on(tmp_path):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    secret = "Anna-Meier-1970"
    root = tmp_path / "in"
    root.mkdir()
    (root / f"{secret}.txt").write_text("hello")
    (root / f"{secret}-empty.png").write_bytes(b"")
    good = root / "zz-good.png"
    Image.fromarray(scene(1)).save(good)
    (root / f"{secret}-cut.png").write_bytes(good.read_bytes()[:200])
    Image.new("1", (20_000, 5_000)).save(root / f"{secret}-huge.png")
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.PatientID, header.PatientName, header.Modality = secret, secret, "DX"
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    header.save_as(root / f"{secret}.dcm", enforce_file_format=True)
    paths = [*sorted(root.iterdir()), root / f"{secret}-gone.png"]
    model = load(save(tmp_path / "run", drawn("linear", picture_input(), 2), picture_input()))
    found = {Path(answer.file).name: answer for answer in model.predict(paths)}
    assert len(found) == len(paths)
    assert isinstance(found["zz-good.png"], Classified)
    for name, answer in found.items():
        if name != "zz-good.png":
            assert isinstance(answer, Unanswered), name
            assert secret not in answer.reason
            assert "\n" not in answer.reason
            assert len(answer.reason) < 300
    assert len({answer.reason for answer in found.values() if isinstance(answer, Unanswered)}) >= 5
    # In a folder, what is no picture is passed over.
    assert {Path(answer.file).name for answer in model.predict(root)} == set(found) - {
        f"{secret}.txt", f"{secret}.dcm", f"{secret}-gone.png"
    }  # fmt: skip


def test_pictures_outside_the_recipe_are_said(tmp_path):
    recipe = picture_input(image_size=64)
    model = load(save(tmp_path / "run", drawn("features", recipe, 2), recipe, modalities=("CR",)))
    cat = np.zeros((200, 240, 3), dtype=np.uint8)
    cat[:, :, 0], cat[:100, :, 1] = 200, 90
    made = {
        "cat.jpg": cat, "cat.png": cat, "grey.jpg": np.stack([scene(1, 200, 220)] * 3, axis=2),
        "black.png": np.zeros((80, 80), dtype=np.uint8), "small.png": scene(1)[:40, :40],
        "long.png": scene(1, 80, 400), "plain.png": scene(1, 100, 100),
    }  # fmt: skip
    for name, values in made.items():
        Image.fromarray(values).save(tmp_path / name)
    write_picture(scene(2, 80, 80)[None], tmp_path / "x.dcm", patient_id="p", modality="MG")
    found = model.predict([*(tmp_path / name for name in made), tmp_path / "x.dcm"])
    said = {Path(one.file).name: one.findings for one in found if isinstance(one, Classified)}
    words = {"cat.jpg": "colour", "cat.png": "colour", "black.png": "constant", "small.png": "enlarged",
             "long.png": "80% of it", "x.dcm": "modality MG"}  # fmt: skip
    assert {name: len(findings) for name, findings in said.items()} == {
        name: int(name in words) for name in [*made, "x.dcm"]
    }
    for name, word in words.items():
        assert word in said[name][0]


def test_an_answer_is_uncertain_by_the_stated_rule_alone():
    from wardround.inference.answers import LEAST_MARGIN, is_uncertain

    for margin in (LEAST_MARGIN - 1e-6, LEAST_MARGIN + 1e-6):
        for probabilities in ([0.5 + margin / 2, 0.5 - margin / 2], [0.1, 0.45 - margin / 2, 0.45 + margin / 2]):
            assert is_uncertain(np.array(probabilities)) == (margin < LEAST_MARGIN)
    sure, torn = np.array([0.05, 0.95]), np.array([0.45, 0.55])
    background = np.array([0.5, 0.5])
    assert not is_uncertain(np.stack([sure, sure, background], axis=1))  # class 0 is not asked
    assert is_uncertain(np.stack([torn, torn, np.array([1.0, 0.0])], axis=1))


# The model -----------------------------------------------------------------------------------------------


def test_of_several_models_the_answer_is_the_mean_or_one_by_name(tmp_path):
    recipe = picture_input()
    networks = {name: drawn("small_cnn", recipe, 2, seed=seed) for seed, name in enumerate(("east", "west"))}
    folder = save(tmp_path / "run", networks, recipe)
    (mean,), (east,), (west,) = (load(folder, name).predict(scene(1)) for name in (None, "east", "west"))
    for answer in (mean, east, west):
        assert isinstance(answer, Classified)
    both = np.array([list(one.probabilities.values()) for one in (east, west)])  # type: ignore[union-attr]
    np.testing.assert_allclose(list(mean.probabilities.values()), both.mean(axis=0), atol=1e-6)  # type: ignore[union-attr]
    with raises_code(ModelError, "model-name"):
        load(folder, "north")


def test_a_card_of_another_recipe_and_a_folder_without_one_are_refused(tmp_path):
    recipe = picture_input(version=99)
    folder = save(tmp_path / "run", drawn("linear", recipe, 2), recipe)
    with raises_code(ModelError, "model-recipe"):
        load(folder)
    with raises_code(ModelError, "model-card"):
        load(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"image_size": 48, "colour": "rgb", "fit": "pad", "circle_crop": True, "bits": 12},
        {"volume_size": [8, 9, 10], "spacing": [1.0, 2.0, 3.0], "window": [-200.0, 250.0], "view": "slices"},
    ],
)
def test_the_card_says_the_recipe_that_training_uses(data, tiny_study, tmp_path):
    """Every field of the recipe survives: the keys under which rows are kept are those of training's own recipe."""
    from wardround.images.rows.fit import Fit

    network = {"name": "unet"} if "volume_size" in data else {}
    study = tiny_study(data={"layout": "folder", "phantom": None} | data, model=network or {"name": "linear"})
    card_recipe = _recipe(study, 1 if study.data.colour == "grey" else 3)
    section = study.data
    if section.volume_size is None:
        channels = 1 if section.colour == "grey" else 3
        expected: PictureRecipe | VolumeRecipe = PictureRecipe(
            section.image_size, channels, Fit(section.fit), section.circle_crop, section.bits
        )
    else:
        expected = VolumeRecipe(section.volume_size, 1, section.spacing, section.window, View(section.view))

    class Card:
        recipe = card_recipe

    assert recipe_of(Card()).key == tuple(expected.key)  # type: ignore[arg-type]
    assert {field.name for field in dataclasses.fields(expected)} - {"rows", "spacing", "hint"} <= {
        "image_size", "channels", "fit", "circle", "bits", "size", "window", "view"
    }  # fmt: skip


def test_loading_a_model_imports_nothing_slow(tmp_path):
    """Start-up stays short: no SciPy, scikit-learn, SymPy, MONAI, pydicom or pandas before a picture asks for it."""
    folder = save(tmp_path / "run", drawn("features", picture_input(), 2), picture_input())
    slow = ("scipy", "sklearn", "sympy", "monai", "pydicom", "nibabel", "matplotlib", "pandas", "dp_accounting")
    code = (
        f"import sys, wardround; wardround.load({str(folder)!r}); print([n for n in {slow!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_logged_or_printed(tmp_path, capfd, caplog):
    model = load(save(tmp_path / "run", drawn("linear", picture_input(), 2), picture_input()))
    Image.fromarray(scene(1)).save(tmp_path / "Anna-Meier.png")
    (tmp_path / "Anna-Meier-cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with caplog.at_level(0):
        model.predict([tmp_path / "Anna-Meier.png", tmp_path / "Anna-Meier-cut.png"])
    out, err = capfd.readouterr()
    assert "Anna" not in out + err + caplog.text


def test_a_model_shows_itself(tmp_path):
    model = load(save(tmp_path / "run", drawn("linear", picture_input(), 2), picture_input(), ("<a>", "b")))
    assert "<a>" in str(model)
    assert "&lt;a&gt;" in model._repr_html_()
    assert "uncalibrated" in model._repr_html_()
    assert isinstance(model.whole, torch.nn.Module)
