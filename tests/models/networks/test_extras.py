import importlib

import pytest
import torch

from wardround.errors import MissingExtra
from wardround.models.catalogue import build
from wardround.models.networks.of_monai import optional


def without(missing):
    def import_module(name):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return __import__(name, fromlist=["x"])

    return import_module


@pytest.mark.parametrize(
    ("name", "missing"), [("resnet18", "monai"), ("unet", "monai"), ("vit_tiny", "monai"), ("vit_tiny", "einops")]
)
def test_a_network_whose_packages_are_missing_says_how_to_install_them(name, missing, monkeypatch):
    monkeypatch.setattr(importlib, "import_module", without(missing))
    with pytest.raises(MissingExtra, match=rf"needs {missing}, .*pip install 'wardround\[networks\]'"):
        build(name, size=(32, 32), channels=1, num_classes=2, init_generator=torch.Generator())


def test_a_network_of_torch_alone_needs_nothing_more(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", without("monai"))
    build("vgg11_gn", size=(32, 32), channels=1, num_classes=2, init_generator=torch.Generator())


def test_what_is_installed_is_handed_over():
    assert optional("math").sqrt(4) == 2
