"""Gradient inversion: exact where a theorem says so, blind where noise is, and private on disk."""

import json
import stat

import numpy as np
import pytest
import torch
from tests.audit.studies import study_of

from wardround.audit.curious import THRESHOLDS, TOGETHER, invert
from wardround.audit.reconstruction import head_of, is_differentiable, rank_of, reconstruct, row_of
from wardround.coordinator.observer import Silent
from wardround.errors import StudyError
from wardround.models.catalogue import build
from wardround.training.losses import LOSSES


def last_layer(network):
    head = head_of(network)
    assert head is not None
    return head


def network_of(name, size=16):
    network = build(name, size=(size, size), channels=1, num_classes=2, init_generator=torch.Generator())
    torch.nn.init.normal_(last_layer(network).weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return network


def pictures(count, size=16):
    return torch.from_numpy(np.random.default_rng(2).integers(0, 256, (count, 1, size, size), dtype=np.uint8))


def small(study):
    """A study of few and small phantoms, one picture each."""
    phantom = study.site.phantom.model_copy(update={"patients": 40, "max_images": 1, "image_size": 32})
    data = study.data.model_copy(update={"image_size": 32})
    site = study.site.model_copy(update={"phantom": phantom})
    return study.model_copy(update={"site": site, "data": data})


def gradient_of(network, shown):
    labels = torch.arange(len(shown)) % 2
    parameters = list(network.trained.parameters())
    loss = LOSSES["cross_entropy"](network.trained(network.encode(shown)), labels).sum()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]).numpy(), labels


@pytest.mark.parametrize("name", ["linear", "features"])
def test_the_gradient_of_one_picture_gives_the_rows_direction_exactly(name):
    network, shown = network_of(name), pictures(1)
    row = row_of(network, last_layer(network), gradient_of(network, shown)[0])
    own = network.encode(shown).flatten().numpy().astype(np.float64)
    assert row @ own / np.linalg.norm(row) / np.linalg.norm(own) == pytest.approx(1, abs=1e-6)


def test_the_optimisation_finds_the_picture_of_a_linear_network(monkeypatch):
    monkeypatch.setattr("wardround.audit.reconstruction.STEPS", 60)
    network, shown = network_of("linear"), pictures(1)
    seen, labels = gradient_of(network, shown)
    found = reconstruct(
        network, LOSSES["cross_entropy"], seen, labels, (1, 16, 16), seconds=60, progress=lambda *_: None
    )
    assert np.corrcoef(found.ravel(), shown.numpy().ravel())[0, 1] > 0.8
    assert is_differentiable(network, (1, 16, 16))
    assert not is_differentiable(network_of("features"), (1, 16, 16))


def test_a_rank_counts_patients_and_not_pictures():
    rows, owner = np.array([[2.5], [0.0], [2.0], [9.0]]), np.array([0, 0, 1, 2])
    assert [rank_of(own, np.array([2.6]), rows, owner) for own in (0, 1, 2)] == [1, 2, 3]


@pytest.mark.thorough
def test_sums_without_noise_give_patients_away_and_with_noise_do_not():
    found = invert(small(study_of({"sum": "simulated"})), Silent(), seed=3)
    plain, together, noised, noised_sum, _ = found.sights
    assert [each.row_rank for each in plain.found] == [1, 1, 1]
    assert [each.rank for each in plain.found] == [1, 1, 1]
    assert all(each.ssim is not None and each.ssim > 0.9 for each in plain.found)
    for sight in (together, noised, noised_sum):
        assert all(each.ssim is not None and each.ssim < 0.5 for each in sight.found)
    assert found.together == TOGETHER < THRESHOLDS
    assert found.modified is not None
    open_sums, with_noise = found.modified.taken_out
    assert open_sums >= 4
    assert with_noise == 0


def test_a_study_that_sums_no_gradients_of_pictures_is_refused():
    for study in (
        study_of({"plan": "clipped-update", "unit": "hospital", "sampling_prob": None, "num_patients": None},
                 {"strategy": "fedavg"}),
    ):  # fmt: skip
        with pytest.raises(StudyError) as refused:
            invert(study, Silent())
        assert refused.value.code == "study-audit-invert"


def test_the_page_and_its_figures_are_for_their_owner_alone(wardround, tmp_path, monkeypatch):
    monkeypatch.setattr("wardround.audit.reconstruction.STEPS", 2)
    monkeypatch.setattr("wardround.audit.curious.THRESHOLDS", 3)
    path, page = tmp_path / "study.toml", tmp_path / "page.html"
    path.write_text(small(study_of({"sum": "simulated"})).to_toml())
    said = wardround("audit", "invert", path, "--out", page, "--seed", 1)
    assert said.code == 0
    assert "the hospital's own copy" in said.out
    for each in (page, page.with_suffix(".json")):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    text = page.read_text()
    assert "the hospital&#39;s own copy" in text or "the hospital's own copy" in text
    assert "<script" not in text
    assert json.loads(page.with_suffix(".json").read_text())["candidates"] > TOGETHER
