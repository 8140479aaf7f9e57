"""The side that asks: pictures are read and encoded here, and only encrypted features leave this machine."""

from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor, nn

from wardround.boundary.documents import MOST_JSON_BYTES, Unfit, parse_json
from wardround.boundary.text import brief, shown
from wardround.errors import FederationError, ModelError
from wardround.inference.calibration import calibration_of
from wardround.inference.encrypted.frames import framed, unframed
from wardround.inference.encrypted.scheme import LARGEST_LOGIT, Secret, scale_of
from wardround.inference.encrypted.service import layer_of
from wardround.inference.encrypted.worker import MOST_ROWS
from wardround.inference.model import Model
from wardround.inference.reading import recipe_of
from wardround.models.card import ModelCard
from wardround.models.linear import scoring_layer
from wardround.models.load import encoder_of
from wardround.models.network import Network
from wardround.models.networks.ordinal import ContinuationRatios
from wardround.training.augment.augmentation import Augmentation

_SECONDS = 120
_MOST_BYTES = 256 << 20
_LONGEST_REASON = 400


def connect(address: str) -> Model:
    """Returns the model of `wardround serve --encrypted`: its answers are computed there, on encrypted features.

    Args:
        address: such as http://127.0.0.1:8000.

    Raises:
        FederationError: the server cannot be reached, or answers something else (code `federation-encrypted`).
        ModelError: the card names a network without a linear head, or another encoder than this release's.
        MissingExtra: TenSEAL, or the package of the encoder, is not here.
    """
    try:
        told = parse_json(_asked(address, "GET", "/card", b""))
        card = ModelCard.from_json(told["card"])
        norm, bias = float(told["head"]["norm"]), float(told["head"]["bias"])
    except (Unfit, ModelError, KeyError, TypeError, ValueError) as error:
        raise _unfit(address, f"its card cannot be read: {error}") from None
    recipe_of(card)
    return Model(
        card, _Asked(address, card, encoder_of(card), (norm, bias)), (), Path(address), calibration_of(card)
    )


class _Asked(nn.Module):
    """A model from uint8 rows to logits, of which the last layer is computed by a server, see `connect`."""

    def __init__(self, address: str, card: ModelCard, network: Network, bounds: tuple[float, float]) -> None:
        super().__init__()
        self._address, self._bounds, self._encode = address, bounds, network.encode
        self._centre, self._secret = Augmentation(patch=card.recipe.patch), Secret()
        self._scores = len(layer_of(network, card)[1])
        self._logits = ContinuationRatios() if scoring_layer(network)[1] else nn.Identity()
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Returns logits, (row, class)."""
        features = self._encode(self._centre.centre(rows)[0]).flatten(1).to(torch.float64).numpy()
        norm, bias = self._bounds
        longest, most = float(np.linalg.norm(features, axis=1).max(initial=0.0)), LARGEST_LOGIT * scale_of(norm)
        if not longest * norm + bias <= most:
            raise ModelError(
                f"Logits must be at most {most:.0f} to be computed on encrypted features, and these may "
                f"reach {longest * norm + bias:.0f}; ask the model's owner for another way.",
                code="model-not-linear",
            )
        parts = [self._answers(features[at : at + MOST_ROWS]) for at in range(0, len(features), MOST_ROWS)]
        found: Tensor = self._logits(torch.from_numpy(np.concatenate(parts)).to(torch.float32))
        return found

    def _answers(self, features: Any) -> Any:
        content = framed([self._secret.public, *(self._secret.encrypt(row) for row in features)])
        sealed = unframed(_asked(self._address, "POST", "/encrypted", content), len(features) * self._scores)
        if len(sealed) != len(features) * self._scores:
            raise _unfit(self._address, "it answered with another number of classes")
        return np.array([self._secret.open(one, scale_of(self._bounds[0])) for one in sealed]).reshape(
            len(features), self._scores
        )


def _asked(address: str, method: str, path: str, content: bytes) -> bytes:
    parts = urlsplit(address)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=_SECONDS)
        try:
            connection.request(method, path, content)
            response = connection.getresponse()
            found = response.read(_MOST_BYTES)
        finally:
            connection.close()
    except (OSError, HTTPException, ValueError) as error:
        raise _unfit(address, str(error) or type(error).__name__) from None
    if response.status != 200:
        raise _unfit(address, _reason(found) or f"it answered with status {response.status}")
    return found


def _reason(content: bytes) -> str:
    try:
        told = parse_json(content[:MOST_JSON_BYTES])
    except Unfit:
        return ""
    return str(told["error"]) if isinstance(told, dict) and "error" in told else ""


def _unfit(address: str, reason: str) -> FederationError:
    return FederationError(
        f"`MODEL` must be a folder, or the address of a `wardround serve --encrypted` that answers, got "
        f"{brief(address)}: {shown(reason)[:_LONGEST_REASON]}.",
        code="federation-encrypted",
    )
