"""Deployed hospitals with folders of their own, of phantoms."""

import hashlib
import json

from safetensors.numpy import save

from wardround.agreed.model_card import card_of
from wardround.config import parse_study
from wardround.config.site import read_policy, read_site
from wardround.hospital.opening import open_hospital
from wardround.images.entries import Target
from wardround.models.card import WeightsCard
from wardround.models.vectors import named_weights
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.work import Finish

NAMES = ("north", "south", "east")
COORDINATOR = SigningKey.new(system_entropy)
SITE = """
[hospital]
name = "{name}"
[site]
layout = "phantom"
phantom = {{ patients = 12, sites = 1, image_size = 32, max_images = 2, seed = {seed} }}
"""


def study_of(privacy, federation, *, data=None, model=None, hospitals=None, evaluation=None, **study):
    """A study of three hospitals, all of whose patients train; keys of [privacy] that are None are left out."""
    return parse_study(
        {
            "study": {"name": "three", **study},
            "site": {"layout": "phantom"},
            "data": {"image_size": 32, "classes": ["clear", "lesion"], "test_fraction": 1e-9, **(data or {})},
            "hospitals": hospitals or {"count": 3, "names": list(NAMES)},
            "model": {"name": "linear", **(model or {})},
            "privacy": {key: value for key, value in privacy.items() if value is not None},
            "federation": federation,
            "evaluation": evaluation or {"level": "none"},
        }
    )


def make_folders(parent, names=NAMES):
    """A folder a hospital, with its site, policy, key and the others' pinned keys; and the public keys."""
    keys = {name: SigningKey.new(system_entropy) for name in names}
    for seed, name in enumerate(names):
        folder = parent / name
        folder.mkdir()
        (folder / "site.toml").write_text(SITE.format(name=name, seed=seed))
        (folder / "policy.toml").write_text("[policy]\nepsilon_limit = 50.0\ndelta = 1e-3\n")
        keys[name].write(folder / "identity.pem")
        Pins({other: key.public for other, key in keys.items() if other != name}).write(folder / "pins.toml")
        Pins({"the coordinator": COORDINATOR.public}).write(folder / "coordinators.toml")
    return {name: parent / name for name in names}, {name: key.public for name, key in keys.items()}


def open_from(folder, study):
    """The hospital of a folder, as a context."""
    return open_hospital(folder, read_site(folder / "site.toml"), read_policy(folder / "policy.toml"), study)


def finished(study, network, weights=None, *, model=b""):
    """A finished model of a study, with a card and a certificate that name it; `model` takes the place of its bytes."""
    model = model or save(named_weights(network, weights))
    of = WeightsCard(sha256=hashlib.sha256(model).hexdigest(), models=())
    card = card_of(
        study, network, of, target=Target.CLASSES, classes=("clear", "lesion"), channels=1, statement="a test"
    )
    certificate = {"study_digest": study.digest, "model_sha256": of.sha256}
    return Finish(model, json.dumps(card.to_json()).encode(), json.dumps(certificate).encode())
