"""A trained model from its card and its file of weights, ready to predict; no run, study or picture is needed."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wardround.errors import ModelError
from wardround.models.card import ENCODER, ModelCard, frozen_sha256, normalisation_of
from wardround.models.catalogue import build, described, layout_of
from wardround.models.network import Network
from wardround.models.weights import faults_of, parsed, read_weights


def load(card: ModelCard, path: Path, model: str | None = None) -> Network:
    """Returns the network of a card with its trained weights, in evaluation mode.

    The path is that of its `model.safetensors`; where several models share the file, `model` is one of their names. An
    ONNX encoder lies beside it as `encoder.onnx`.

    Raises:
        ModelError: the file is not the card's (code `model-weights-hash`), holds other parameters than the network
            (`model-weights`) or another frozen encoder (`model-encoder`, and `model-encoder-hash` of an ONNX graph);
            this release normalises otherwise (`model-normalisation`); or no model has that name (`model-name`).
        MissingExtra: the network is MONAI's, or its backbone comes from a package, and that is not installed.
    """
    prefix = _prefix(card, model)
    content = read_weights(path)
    found = hashlib.sha256(content).hexdigest()
    if found != card.weights.sha256:
        raise ModelError(
            f"{path.name} must have the SHA-256 of its card, {card.weights.sha256[:12]}..., got {found[:12]}...; "
            "restore the file that was written with the card.",
            code="model-weights-hash",
        )
    named = parsed(content, path)
    tensors = {name.removeprefix(prefix): named[name] for name in named if name.startswith(prefix)}
    own = card.network.own
    graph = path.with_name(ENCODER) if own is not None and own.architecture is None else None
    _check(card, tensors, path, graph)  # before memory is taken for a network of the card's sizes
    network = built(card, graph)
    assert network.parts is not None, "the network was made by build"
    wanted = network.parts.body.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)
    _check_frozen(card, network, f"in {path.name}")
    network.trained.eval()
    return network


def built(card: ModelCard, graph: Path | None = None) -> Network:
    """Returns the network of a card, as its initialisation left it: without the trained weights.

    `graph` is the file of a user's own encoder that is an ONNX graph.

    Raises:
        ModelError: this release normalises otherwise (code `model-normalisation`), or the encoder's file is missing
            or another one (`model-encoder-hash`).
        MissingExtra: as `load`.
    """
    network = build(
        **_described(card, graph),
        init_generator=torch.Generator().manual_seed(card.network.init_seed),
        train="all" if card.network.train == "lora" else card.network.train,  # adapters were merged
        standardise_weights=card.network.standardise_weights,
    )
    if normalisation_of(network) != card.normalisation:
        raise ModelError(
            f"`normalisation` of the card must be that of {card.network.name} here, {normalisation_of(network)}, got "
            f"{card.normalisation}; use the release of wardround that wrote the card.",
            code="model-normalisation",
        )
    return network


def encoder_of(card: ModelCard) -> Network:
    """Returns the network of a card whose frozen parameters are no part of its weights file: its encoder is right.

    Raises:
        ModelError: as `built`, and the frozen parameters are not those of the card (code `model-encoder`).
        MissingExtra: as `load`.
    """
    network = built(card)
    _check_frozen(card, network, "here")
    network.trained.eval()
    return network


def _check_frozen(card: ModelCard, network: Network, where: str) -> None:
    if frozen_sha256(network) != card.encoder_sha256:
        raise ModelError(
            f"The frozen parameters {where} must have the `encoder_sha256` of the card, and do not; restore the file "
            "or the release that the card was written with.",
            code="model-encoder",
        )


def _prefix(card: ModelCard, model: str | None) -> str:
    """Returns the beginning of the names of one model's parameters."""
    models = card.weights.models
    if (model is None) != (not models) or (model is not None and model not in models):
        known = f"one of {', '.join(models)}" if models else "left out: the file holds one model"
        raise ModelError(
            f"`--member` (in Python `model`) must be {known}, got {model}; change it.", code="model-name"
        )
    return "" if model is None else f"{model}/"


def _described(card: ModelCard, graph: Path | None) -> dict[str, Any]:
    """Returns the arguments of `wardround.models.catalogue.described`."""
    own = card.network
    return {
        "name": own.name, "size": own.size, "channels": own.channels, "num_classes": len(card.classes),
        "width": own.width, "backbone": own.backbone, "weights": graph, "head": own.head,
    }  # fmt: skip


def _check(card: ModelCard, tensors: dict[str, Tensor], path: Path, graph: Path | None) -> None:
    """Refuses a file whose tensors are not every parameter of the card's network."""
    wanted = layout_of(*described(**_described(card, graph))).state_dict()
    faults = [f"{name}: not in the network" for name in sorted(tensors.keys() - wanted.keys())]
    faults += [f"{name}: {fault}" for name, fault in faults_of(tensors, wanted).items()]
    if faults:
        raise ModelError(
            f"{path.name} must hold the parameters of {card.network.name}, and differs in {len(faults)} (first: "
            f"{faults[0]}); take the card that was written with it.",
            code="model-weights",
        )
