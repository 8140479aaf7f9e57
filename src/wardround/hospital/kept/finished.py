"""The finished model of a study, as a hospital takes it in: with its card and certificate, and their hashes compared.

    finished/DIGEST/    model.safetensors  model.json  certificate.json    mode 0600

The coordinator's signature over the message is verified before (`hospital.desk`); nothing is unpickled or run.

Released: nothing.
"""

import hashlib
from pathlib import Path

from wardround.boundary.documents import parse_json
from wardround.boundary.private import make_private_folder
from wardround.errors import FederationError
from wardround.models.card import ModelCard
from wardround.models.network import Network
from wardround.models.vectors import vector_of
from wardround.secure_aggregation.keys.key_files import write_key_file
from wardround.types import Vector
from wardround.work import Finish

FOLDER = "finished"


def take_model(folder: Path, study: str, work: Finish, network: Network) -> Vector | None:
    """Keeps a finished model, in place of an earlier one of the study; returns its weights, None of several models.

    Args:
        folder: of the hospital.
        study: digest of the study that it is to be of.
        work: model, card and certificate.
        network: of the study; left as it was.

    Raises:
        FederationError: they are not of one model and of this study, or cannot be written.
        ModelError: the card is none, or the model is not of the network.
    """
    sha256 = hashlib.sha256(work.model).hexdigest()
    try:
        card = ModelCard.from_json(parse_json(work.card))
        certificate = parse_json(work.certificate)
    except ValueError as error:
        raise FederationError(
            f"A finished model must come with a card and a certificate in JSON, and does not ({error}).",
            code="federation-finished",
        ) from None
    said = certificate if isinstance(certificate, dict) else {}
    named = {card.weights.sha256, said.get("model_sha256")}, {card.study.digest, said.get("study_digest")}
    if named != ({sha256}, {study}):
        raise FederationError(
            f"A finished model must be the one that its card and certificate name, of study {study[:12]}, and is not. "
            "Ask the coordinator to run the same command again.",
            code="federation-finished",
        )
    weights = None if card.weights.models else vector_of(network, work.model)
    place = folder / FOLDER / study
    make_private_folder(place)
    write_key_file(place / "model.safetensors", work.model, replace=True)
    write_key_file(place / "model.json", work.card, replace=True)
    write_key_file(place / "certificate.json", work.certificate, replace=True)
    return weights
