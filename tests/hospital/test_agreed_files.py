"""Classes and weights files between hospitals: each is the study's, wherever a hospital keeps its own."""

import hashlib
import logging
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save
from tests.errors import raises_code
from tests.hospital.deployed import make_folders, open_from, study_of

from wardround.errors import DataError, ModelError, PrivacyError, StudyError
from wardround.federation.messages import Request
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.work import SayHello

ALONE = {"plan": "dp-sgd", "noise_multiplier": 4.0, "delta": 1e-3, "trust": "nobody", "num_patients": 36}
ROUNDS = {"rounds": 4}
CLASSES = ["normal", "pneumonia", "zoster"]


@pytest.fixture
def folders(tmp_path):
    return make_folders(tmp_path)[0]


def pictures_of(folder, classes, names=""):
    """Gives a hospital a folder of pictures of its own, of two patients a class, and a map of its names."""
    drawn = np.random.default_rng(len(classes))
    for name in classes:
        for patient in ("p1", "p2"):
            path = folder / "pictures" / name / f"{name}-{patient}" / "1.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(drawn.integers(0, 256, (32, 32), dtype=np.uint8)).save(path)
    own = f'[hospital]\nname = "{folder.name}"\n[site]\nlayout = "folder"\npath = "pictures"\n{names}'
    (folder / "site.toml").write_text(own)


def labels_of(hospital):
    """Labels of the training pictures, by class as the study has them."""
    return sorted({hospital.classes[label] for label in hospital.agent.patients.labels})


def test_sites_with_other_classes_and_other_names_train_on_the_studys(folders, caplog):
    study = study_of(ALONE, ROUNDS, data={"classes": CLASSES})
    german = '[site.class_names]\nPneumonie = "pneumonia"\n"Herpes zoster" = "zoster"\n'
    pictures_of(folders["north"], ["normal", "pneumonia"])
    pictures_of(folders["south"], ["Pneumonie", "Herpes zoster"], german)
    pictures_of(folders["east"], ["zoster"])
    found = {}
    with ExitStack() as stack, caplog.at_level(logging.WARNING, "wardround.hospital"):
        for name, folder in folders.items():
            hospital = stack.enter_context(open_from(folder, study))
            found[name] = labels_of(hospital)
            hello = hospital.answer(encode_request(Request(study.digest, 0, 1, SayHello())))
            said: Any = decode_reply(hello, Limits())
            assert said.classes == tuple(CLASSES)
    assert found == {"north": ["normal", "pneumonia"], "south": ["pneumonia", "zoster"], "east": ["zoster"]}
    assert "east: no picture is of the study's class normal, pneumonia" in caplog.text, "on its own screen"


def test_a_class_that_the_study_does_not_have_is_named(folders):
    pictures_of(folders["north"], ["normal", "Pneumonie"])
    study = study_of(ALONE, ROUNDS, data={"classes": CLASSES})
    with raises_code(DataError, "data-strange-class") as caught, open_from(folders["north"], study):
        pass
    assert "Pneumonie" in str(caught.value)


def test_a_name_for_a_class_that_the_study_does_not_have_is_named(folders):
    pictures_of(folders["north"], ["normal"], '[site.class_names]\nPneumonie = "pneunomia"\n')
    study = study_of(ALONE, ROUNDS, data={"classes": CLASSES})
    with raises_code(DataError, "data-strange-class"), open_from(folders["north"], study):
        pass


def test_a_deployed_hospital_needs_the_classes(folders):
    study = study_of(ALONE, ROUNDS, data={"classes": None})
    with raises_code(StudyError, "study-no-classes"), open_from(folders["north"], study):
        pass


def test_another_order_of_classes_is_another_study():
    first, second = (study_of(ALONE, ROUNDS, data={"classes": order}) for order in (CLASSES, CLASSES[::-1]))
    assert first.digest != second.digest
    with raises_code(StudyError, "study-classes"):
        study_of(ALONE, ROUNDS, data={"classes": ["normal", "normal"]})


def weights_file(path, value):
    arrays = {
        "classifier.0.weight": np.full((2, 32 * 32), value, dtype=np.float32),
        "classifier.0.bias": np.zeros(2, dtype=np.float32),
    }
    path.write_bytes(save(arrays))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_weights_file_goes_by_its_hash(folders, tmp_path):
    named, other = tmp_path / "named.safetensors", tmp_path / "other.safetensors"
    sha256, another = weights_file(named, 0.5), weights_file(other, 0.25)
    assert another != sha256
    study, elsewhere, changed = (
        study_of(ALONE, ROUNDS, model={"weights": str(path), "weights_sha256": sha256})
        for path in (named, tmp_path / "copy.safetensors", other)
    )
    assert study.digest == elsewhere.digest, "its name is a hospital's own"
    with open_from(folders["north"], study) as hospital:
        assert set(hospital.agent.workbench.initial_weights[: 32 * 32].tolist()) == {0.5}
    with raises_code(ModelError, "model-other-weights"), open_from(folders["north"], changed):
        pass
    without = study_of(ALONE, ROUNDS, model={"weights": str(named)})
    with raises_code(StudyError, "study-weights-sha256"), open_from(folders["north"], without):
        pass


def test_a_hash_without_a_file_is_refused():
    with raises_code(StudyError, "study-weights"):
        study_of(ALONE, ROUNDS, model={"weights_sha256": "0" * 64})


def test_a_plan_that_promises_nothing_is_refused(folders):
    study = study_of({"plan": "none"}, ROUNDS)
    with raises_code(PrivacyError, "privacy-not-deployable"), open_from(folders["north"], study):
        pass
