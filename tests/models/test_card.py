"""The model card: read strictly, and refused where it and the weights are not of one model."""

import copy
import hashlib
import json
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from tests.errors import raises_code

from wardround.errors import ModelError
from wardround.images.entries import Target
from wardround.images.rows.fit import Fit
from wardround.images.rows.recipe import View
from wardround.models.card import (
    ModelCard,
    NetworkCard,
    PictureInput,
    StudyReference,
    VolumeInput,
    WeightsCard,
    frozen_sha256,
    normalisation_of,
    read_card,
)
from wardround.models.catalogue import NETWORKS, build
from wardround.models.load import load
from wardround.models.network import Form
from wardround.models.networks.voxel_features import SMOOTHED, VoxelFeatures

PICTURE = PictureInput(version=1, colour="grey", image_size=16, fit="crop", circle_crop=False, patch=None)
VOLUME = VolumeInput(
    version=1, channels=2, volume_size=(16, 24, 32), spacing=(1.0, 1.0, 2.5), window=(-200.0, 250.0), view="slices",
    patch=16,
)  # fmt: skip


def trained(train="head", seed=1, **options):
    """A network whose every parameter is drawn, as if it had been trained."""
    network = build(
        "small_cnn", size=(16, 16), channels=1, num_classes=2, train=train,
        init_generator=torch.Generator().manual_seed(seed), **options,
    )  # fmt: skip
    assert network.parts is not None
    with torch.no_grad():
        for parameter in network.parts.body.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return network


def card_of(of, path, models=(), /, **fields):
    known: dict[str, Any] = {
        "study": StudyReference(name="tiny", digest="0" * 64),
        "statement": "epsilon = 8.00 at delta = 0.001 for one patient",
        "network": NetworkCard(
            name="small_cnn", width=None, train=of.stage, init_seed=0, channels=1, size=(16, 16)
        ),
        "target": "classes",
        "classes": ("clear", "lesion"),
        "recipe": PICTURE,
        "normalisation": normalisation_of(of),
        "encoder_sha256": frozen_sha256(of),
        "weights": WeightsCard(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), models=models),
    } | fields
    return ModelCard(**known)


def saved(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    save_file({name: value.clone() for name, value in tensors.items()}, path)
    return path


@pytest.fixture
def network():
    return trained()


@pytest.fixture
def path(network, tmp_path):
    return saved(tmp_path, network.parts.body.state_dict())


@pytest.fixture
def card(network, path):
    return card_of(network, path)


PICTURES = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def logits(network):
    network.trained.eval()
    with torch.no_grad():
        return network.whole()(PICTURES)


def changed(card, where, value):
    """The card's JSON with one value in another's place; `...` removes the key."""
    content = copy.deepcopy(card.to_json())
    *path, last = where.split(".")
    inner = content
    for key in path:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return content


# The card -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [PICTURE, VOLUME], ids=["picture", "volume"])
def test_a_card_survives_the_round_trip(card, network, path, recipe, tmp_path):
    if recipe is VOLUME:
        section = NetworkCard(name="unet", width=4, train="all", init_seed=3, channels=2, size=(16, 16))
        card = card_of(network, path, ("a", "b"), recipe=VOLUME, network=section, encoder_sha256=None)
    file = tmp_path / "model.json"
    file.write_text(json.dumps(card.to_json()))
    assert read_card(file) == card
    assert ModelCard.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("classes", ...),
        ("encoder_sha256", ...),
        ("recipe.patch", ...),
        ("patients", 40),
        ("network.weights", "/home/someone/weights.safetensors"),
        ("network.init_seed", "0"),
        ("network.channels", 1.5),
        ("network.channels", True),
        ("network.channels", 0),
        ("network.size", [16, 16.5]),
        ("network.size", 16),
        ("network.size", [1 << 40, 1 << 40]),
        ("network.train", "tail"),
        ("target", "boxes"),
        ("classes", ["clear"]),
        ("classes", ["clear", "clear"]),
        ("classes", ["clear", ""]),
        ("classes", "ab"),
        ("recipe.kind", "sound"),
        ("recipe.fit", "squash"),
        ("recipe.circle_crop", 0),
        ("recipe.image_size", 32),
        ("recipe.colour", "rgb"),
        ("normalisation", None),
        ("normalisation.floor", [0.01]),
        ("normalisation.floor", float("nan")),
        ("encoder_sha256", "0" * 63),
        ("weights.sha256", "G" * 64),
        ("weights.sha256", None),
        ("weights.models", ["a", "a"]),
        ("study.digest", ""),
    ],
)
def test_a_card_with_another_key_type_or_hash_is_refused(card, where, value):
    ModelCard.from_json(card.to_json())
    with raises_code(ModelError, "model-card"):
        ModelCard.from_json(changed(card, where, value))


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None, ...])
def test_a_card_of_another_format_is_refused_as_such(card, version):
    with raises_code(ModelError, "model-card-version"):
        ModelCard.from_json(changed(card, "version", version))


def test_a_card_cut_off_anywhere_is_refused_in_a_sentence(card, tmp_path):
    file = tmp_path / "model.json"
    text = json.dumps(card.to_json())
    for end in range(0, len(text), 7):
        file.write_text(text[:end])
        with raises_code(ModelError, "model-card") as caught:
            read_card(file)
        assert str(tmp_path) not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "3", '"card"', "null", "[" * 100_000, "\ud800"])
def test_a_file_that_holds_no_object_is_refused(content, tmp_path):
    file = tmp_path / "model.json"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with raises_code(ModelError, "model-card"):
        read_card(file)


def test_a_missing_card_is_refused(tmp_path):
    with raises_code(ModelError, "model-card"):
        read_card(tmp_path / "model.json")


def test_the_card_knows_the_words_of_the_recipe_and_of_the_target():
    assert set(get_args(PictureInput.model_fields["fit"].annotation)) == set(Fit)
    assert set(get_args(VolumeInput.model_fields["view"].annotation)) == set(View)
    assert set(get_args(ModelCard.model_fields["target"].annotation)) == set(Target)


def test_every_network_says_by_which_numbers_it_normalises():
    for name in NETWORKS:
        constants = NETWORKS[name].encoder(Form((64, 64), 1, 2)).constants()
        assert json.loads(json.dumps(constants)) == constants
        assert constants.keys() > {"kind"}


# The weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["all", "norms", "last-block", "biases", "head"])
def test_a_loaded_network_answers_as_the_trained_one(train, tmp_path):
    network = trained(train)
    path = saved(tmp_path, network.parts.body.state_dict())
    card = card_of(network, path)
    loaded = load(card, path)
    assert not loaded.trained.training
    assert torch.equal(logits(loaded), logits(network))
    assert loaded.stage == train
    assert (card.encoder_sha256 is None) == (train == "all")


def test_a_network_with_standardised_weights_is_loaded_with_them(tmp_path):
    network = trained("all", standardise_weights=True)
    path = saved(tmp_path, network.parts.body.state_dict())
    known: dict[str, Any] = {"name": "small_cnn", "width": None, "train": "all", "init_seed": 0, "channels": 1}
    known["size"] = (16, 16)
    loaded = load(card_of(network, path, network=NetworkCard(**known, standardise_weights=True)), path)
    assert torch.equal(logits(loaded), logits(network))
    plain = load(card_of(network, path, network=NetworkCard(**known)), path)
    assert not torch.allclose(logits(plain), logits(network))


def test_each_of_several_models_is_loaded_by_its_name(tmp_path):
    models = {name: trained("all", seed) for seed, name in enumerate(["hospital-1", "hospital-10"], start=2)}
    path = saved(
        tmp_path,
        {
            f"{name}/{key}": value
            for name, network in models.items()
            for key, value in network.parts.body.state_dict().items()
        },
    )
    card = card_of(models["hospital-1"], path, tuple(models))
    for name, network in models.items():
        assert torch.equal(logits(load(card, path, name)), logits(network))
    for other in (None, "hospital", "hospital-2", ""):
        with raises_code(ModelError, "model-name"):
            load(card, path, other)


def test_a_name_is_refused_where_the_file_holds_one_model(card, path):
    with raises_code(ModelError, "model-name"):
        load(card, path, "global")


@pytest.mark.parametrize("at", [0, 12, -1], ids=["length", "header", "last number"])
def test_weights_with_one_bit_turned_are_refused(card, path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with raises_code(ModelError, "model-weights-hash") as caught:
        load(card, path)
    assert str(path.parent) not in str(caught.value)


def _without(state):
    state.popitem()


def _more(state):
    state["classifier.1.weight"] = torch.zeros(2)


def _transposed(state):
    state["classifier.0.weight"] = state["classifier.0.weight"].T.contiguous()


def _not_finite(state):
    state["classifier.0.weight"][0, 0] = float("nan")


def _whole_numbers(state):
    state["classifier.0.bias"] = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize("change", [_without, _more, _transposed, _not_finite, _whole_numbers])
def test_weights_of_another_network_are_refused(network, tmp_path, change):
    state = {name: value.clone() for name, value in network.parts.body.state_dict().items()}
    change(state)
    path = saved(tmp_path, state)
    with raises_code(ModelError, "model-weights"):
        load(card_of(network, path), path)


@pytest.mark.parametrize(
    "fields",
    [{"classes": ("a", "b", "c")}, {"network": {"name": "linear", "train": "all"}}],
    ids=["classes", "name"],
)
def test_a_card_of_another_network_is_refused(network, path, fields):
    normalisation = normalisation_of(network)
    if "network" in fields:
        section = NetworkCard(width=None, init_seed=0, channels=1, size=(16, 16), **fields["network"])
        fields = {"network": section}
        normalisation = NETWORKS["linear"].encoder(Form((16, 16), 1, 2)).constants()
    with raises_code(ModelError, "model-weights"):
        load(card_of(network, path, normalisation=normalisation, **fields), path)


def test_an_unknown_network_is_refused(network, path):
    section = NetworkCard(name="oracle", width=None, train="all", init_seed=0, channels=1, size=(16, 16))
    with raises_code(ModelError, "model"):
        load(card_of(network, path, network=section), path)


def test_a_card_that_normalises_otherwise_is_refused(network, path):
    with raises_code(ModelError, "model-normalisation"):
        load(card_of(network, path, normalisation=normalisation_of(network) | {"floor": 0.02}), path)


def test_the_card_of_a_boxed_voxel_head_names_its_blur():
    now, plain = VoxelFeatures(boxed=True).constants(), VoxelFeatures().constants()
    assert now["smoothed"] == SMOOTHED
    assert "smoothed" not in plain


def test_another_frozen_encoder_is_refused(network, tmp_path):
    other = trained(seed=2)
    path = saved(tmp_path, other.parts.body.state_dict())
    with raises_code(ModelError, "model-encoder"):
        load(card_of(network, path), path)


def test_the_frozen_hash_is_of_the_frozen_parameters_alone(network):
    before = frozen_sha256(network)
    with torch.no_grad():
        network.parts.body.classifier[0].weight.add_(1)
    assert frozen_sha256(network) == before
    with torch.no_grad():
        network.parts.body.features[0].bias[0].add_(1)
    assert frozen_sha256(network) != before


def test_a_pickle_is_refused(card, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"")
    with raises_code(ModelError, "model"):
        load(card, path)
