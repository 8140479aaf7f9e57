"""Rows of norm one: their formula, their public constants, and that a picture's row follows from it alone."""

import numpy as np
import pytest
import torch
from tests.backbone import needs_backbone
from tests.errors import raises_code

from wardround.errors import ModelError
from wardround.models.backbones import rows as module
from wardround.models.backbones.efficientnet_lite import SIZES
from wardround.models.backbones.names import BACKBONES, SIDE, Backbone
from wardround.models.backbones.rows import BackboneRows, moments, num_features
from wardround.models.backbones.source import efficientnet_lite0
from wardround.models.card import normalisation_of
from wardround.models.catalogue import build
from wardround.models.network import Form

MID = Backbone("efficientnet-lite0")
ALL = Backbone("efficientnet-lite0-all")


def pictures(count=2, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand((count, channels, 14, 14), generator=generator)
    return (torch.nn.functional.interpolate(smooth, size=224, mode="bilinear") * 255).to(torch.uint8)


def rows_of(backbone, shown):
    return BackboneRows(backbone, Form((224, 224), shown.shape[1], 2))(shown)


@needs_backbone
@pytest.mark.parametrize("backbone", [MID, Backbone("efficientnet-lite0-all", "chest-xray")])
def test_a_row_is_its_blocks_standardised_and_brought_to_norm_one(backbone):
    """The formula written out in double precision, block by block."""
    shown = pictures(1)
    values = ((shown.double() - 127) / 128).float().expand(1, 3, 224, 224)
    with torch.no_grad():
        activations = [block.double() for block in efficientnet_lite0()(values)]
    mean, deviation = (torch.split(part.double(), list(SIZES)) for part in moments(backbone, 1))
    blocks = 2 if backbone.name == "efficientnet-lite0" else 4
    expected: list[float] = []
    for number in range(blocks):
        block = ((activations[number] - mean[number]) / deviation[number])[0]
        expected += (block / block.norm() / np.sqrt(blocks)).tolist()
    row = torch.tensor([*expected, 0.3], dtype=torch.float64) / np.sqrt(1 + 0.3**2)
    found = rows_of(backbone, shown)[0]
    assert found.shape == (num_features(backbone),)
    torch.testing.assert_close(found.double(), row, rtol=1e-4, atol=1e-6)


@needs_backbone
def test_every_row_has_norm_one_even_of_extreme_pictures():
    """The gradient of a patient's softmax on rows of norm one is at most sqrt(2), whatever the pictures."""
    shown = pictures(3, seed=1)
    shown[0], shown[1], shown[2, :, ::2] = 0, 255, 0
    norms = rows_of(MID, shown).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(3), rtol=0, atol=1e-6)


@needs_backbone
def test_no_bit_of_a_row_depends_on_other_pictures_or_on_threads():
    shown = pictures(3, seed=2)
    alone = [rows_of(MID, picture[None]) for picture in shown]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = rows_of(MID, shown)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.cat(alone), together)
    assert (together.std(dim=0) > 0).any()


@needs_backbone
def test_grey_pictures_are_repeated_and_colour_is_read():
    grey = pictures(1)
    of_radiographs = Backbone("efficientnet-lite0", "chest-xray")  # one set for grey and colour
    assert torch.equal(rows_of(of_radiographs, grey.expand(-1, 3, -1, -1)), rows_of(of_radiographs, grey))
    shown = pictures(1, channels=3)
    assert not torch.equal(rows_of(of_radiographs, shown), rows_of(of_radiographs, shown[:, [2, 1, 0]]))
    assert not torch.equal(moments(MID, 3)[0], moments(MID, 1)[0])


@needs_backbone
@pytest.mark.parametrize(("size", "channels"), [((64, 64), 1), ((224, 192), 3), ((224, 224), 2)])
def test_other_pictures_are_refused(size, channels):
    with raises_code(ModelError, "model-image-size"):
        BackboneRows(MID, Form(size, channels, 2))


@pytest.mark.parametrize("backbone", [Backbone(n, m) for n in BACKBONES for m in ("generated", "chest-xray")])
def test_public_constants_are_finite_and_deviations_positive(backbone):
    for channels in (1, 3):
        mean, deviation = moments(backbone, channels)
        assert mean.shape == deviation.shape == (sum(SIZES),)
        assert bool(torch.isfinite(mean).all())
        assert float(deviation.min()) > 0


def test_constants_with_another_hash_are_refused(monkeypatch, tmp_path):
    other = tmp_path / module.MOMENTS.name
    other.write_bytes(module.MOMENTS.read_bytes()[:-1] + b"\1")
    monkeypatch.setattr(module, "MOMENTS", other)
    module._moments.cache_clear()
    with raises_code(ModelError, "model-moments-hash"):
        moments(MID, 1)


@needs_backbone
@pytest.mark.parametrize("backbone", [MID, ALL])
def test_the_head_is_linear_and_starts_at_zero(backbone):
    network = build(
        "features", size=(224, 224), channels=1, num_classes=3,
        init_generator=torch.Generator().manual_seed(0), backbone=backbone,
    )  # fmt: skip
    assert network.encode_once
    assert network.num_parameters == 3 * num_features(backbone)
    assert not any(parameter.any() for parameter in network.trained.parameters())
    constants = normalisation_of(network)
    assert constants["backbone_sha256"] in backbone.identity
    assert constants["moments_sha256"] in backbone.identity


def test_a_backbone_belongs_to_features():
    with raises_code(ModelError, "model"):
        build(
            "linear", size=(224, 224), channels=1, num_classes=2,
            init_generator=torch.Generator().manual_seed(0), backbone=MID,
        )  # fmt: skip


@needs_backbone
def test_all_pictures_at_once_have_the_rows_of_one_at_a_time():
    rows = BackboneRows(Backbone("efficientnet-lite0"), Form((SIDE, SIDE), 1, 2))
    shown = torch.randint(
        0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        torch.testing.assert_close(rows._rows(shown), rows(shown), rtol=0, atol=1e-5)
