"""A user's frozen encoder before a linear head: a network of the catalogue from safetensors, or an ONNX graph.

The file is public and is known by its SHA-256. A safetensors file holds the weights of a network of the catalogue, of
which all layers but the head are kept, frozen. An ONNX graph runs in ONNX Runtime on one thread, one picture at a time;
a graph that keeps numbers in other files is refused, for the runtime would read any of this machine, and no operator of
the user's own is known to it.

Its features become rows as those of histograms do: maps are averaged over space, each row's own mean is taken away, and
a row with a constant 0.3 has norm one. A row follows from its own picture alone and costs no privacy. Public constants
for single features belong into the graph.
"""

import hashlib
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wardround.boundary.documents import Unfit, read_regular
from wardround.errors import MissingExtra, ModelError
from wardround.models.backbones.names import OwnEncoder
from wardround.models.network import FULL_SCALE, Constants, Encoder, Form
from wardround.models.networks.features import BIAS, UnitRows

_MOST_BYTES = 1 << 31


class OnnxRows(Encoder):
    """Pictures to rows by an ONNX graph, see the module.

    The graph reads float32 (1, channel, height, width), pixels / 255, and its first output is float features (1,
    feature) or maps (1, feature, *space).

    Args:
        path: of the graph.
        own: its hash.
        form: of the pictures.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        ModelError: another file (code `model-encoder-hash`), or a graph that does not read such pictures or gives other
            outputs (`model-encoder-graph`).
    """

    def __init__(self, path: Path, own: OwnEncoder, form: Form) -> None:
        super().__init__()
        self.path, self.own = path, own
        content, self._rows = encoder_bytes(path, own.sha256), UnitRows()
        try:
            self._session = _session(content)
            found = self._features(torch.zeros((1, form.channels, *form.size), device="cpu"))
        except ImportError:
            raise MissingExtra(
                "`[model.own_encoder] file` is an ONNX graph and needs onnx and onnxruntime, which are not installed; "
                "install them with: pip install 'wardround[export]', or give a .safetensors file with an architecture."
            ) from None
        except Exception as error:  # the runtime raises what it likes
            raise _unfit(path, f"pictures of {(1, form.channels, *form.size)} are refused: {error}") from None
        if found.ndim < 2 or found.shape[0] != 1 or found.shape[1] < 2 or found.dtype != torch.float32:
            raise _unfit(path, f"its first output is {found.dtype} of shape {tuple(found.shape)}")
        self.num_features = found.shape[1] + 1

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps pictures (picture, channel, height, width), uint8, to rows (picture, feature), float32."""
        values = pictures.to(torch.float32) / FULL_SCALE
        rows = [self._rows(self._features(values[place : place + 1])) for place in range(len(values))]
        return torch.cat(rows) if rows else torch.zeros(0, self.num_features)

    def constants(self) -> Constants:
        """Returns the hash of the graph and the public numbers of a row."""
        return {"kind": "onnx-rows", "encoder_sha256": self.own.sha256, "full_scale": FULL_SCALE, "bias": BIAS}

    def _features(self, values: Tensor) -> Tensor:
        [wanted] = self._session.get_inputs()
        first = self._session.get_outputs()[0].name
        return torch.from_numpy(np.asarray(self._session.run([first], {wanted.name: values.numpy()})[0]))


def body_of_catalogue(backbone: nn.Sequential, encoder: Encoder, form: Form) -> tuple[nn.Sequential, int]:
    """Returns the layers of a frozen encoder with their rows, and the length of a row.

    Args:
        backbone: layers of a network of the catalogue up to its head.
        encoder: its fixed encoding.
        form: of the pictures.
    """
    layers = nn.Sequential(OrderedDict(layers=backbone, rows=UnitRows()))
    with torch.no_grad():
        shown = torch.zeros((1, form.channels, *form.size), dtype=torch.uint8)
        return layers, int(layers.eval()(encoder(shown)).shape[1])


def encoder_bytes(path: Path, sha256: str) -> bytes:
    """Returns the content of a user's encoder.

    Raises:
        ModelError: the file cannot be read, or is another one (code `model-encoder-hash`).
    """
    try:
        content = read_regular(path, _MOST_BYTES)
    except (OSError, Unfit) as error:
        raise ModelError(
            f"`[model.own_encoder] file` must be a readable file, got {path.name}: {error}. Correct the path.",
            code="model-encoder-hash",
        ) from None
    check_hash(path, hashlib.sha256(content).hexdigest(), sha256)
    return content


def check_hash(path: Path, found: str, wanted: str) -> None:
    """Refuses a file of another hash (`ModelError`, code `model-encoder-hash`)."""
    if found != wanted:
        raise ModelError(
            f"`[model.own_encoder] file` must have the SHA-256 {wanted}, got {path.name} with {found}; ask the study's "
            "author for the file.",
            code="model-encoder-hash",
        )


@lru_cache(maxsize=1)
def _session(content: bytes) -> Any:
    """Returns a session of ONNX Runtime on one thread; it raises what it refuses, by exceptions of its own."""
    import onnx
    import onnxruntime

    if _names_files(onnx.load_model_from_string(content)):
        raise ValueError("it keeps numbers in other files; save it as one file")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _names_files(message: Any) -> bool:
    """Returns True where a tensor anywhere in a message of ONNX lies in another file."""
    for field, value in message.ListFields():
        if field.name == "external_data" or (field.name == "data_location" and value):
            return True
        if field.message_type is not None:
            inner = [value] if hasattr(value, "ListFields") else list(value)
            if any(_names_files(each) for each in inner if hasattr(each, "ListFields")):
                return True
    return False


def _unfit(path: Path, fault: str) -> ModelError:
    return ModelError(
        "`[model.own_encoder] file` must be an ONNX graph from float32 (1, channel, height, width) to float32 features "
        f"(1, feature), got {path.name}: {fault[:300]}; export it again for the study's image_size and colour.",
        code="model-encoder-graph",
    )
