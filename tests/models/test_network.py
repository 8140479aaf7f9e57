import pytest
import torch
from torch import nn

from wardround.models.network import Frozen, Network, Normalise, Standardise


def pictures(count=3, channels=2, size=8):
    return torch.randint(
        0, 256, (count, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def network(trained):
    return Network("test", Normalise(), trained, encode_once=False)


def test_black_grey_and_white_become_minus_two_about_zero_and_two():
    values = Normalise()(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))
    assert values.flatten().tolist() == [-2.0, 2.0]


def test_a_standardised_picture_has_mean_zero_and_deviation_one():
    values = Standardise()(pictures())
    assert values.mean(dim=(1, 2, 3)) == pytest.approx([0.0] * 3, abs=1e-6)
    assert values.std(dim=(1, 2, 3), correction=0) == pytest.approx([1.0] * 3, abs=2e-3)


def test_standardising_removes_brightness_and_contrast(monkeypatch):
    dark = pictures() // 4
    bright = 2 * dark + 100
    # The floor in the deviation, 0.01 beside about 0.07, is what keeps the two from being equal.
    monkeypatch.setattr(Standardise, "FLOOR", 1e-6)
    torch.testing.assert_close(Standardise()(dark), Standardise()(bright))


def test_a_constant_picture_standardises_to_zero():
    assert not Standardise()(torch.full((1, 1, 4, 4), 77, dtype=torch.uint8)).any()


def test_a_frozen_module_stays_in_evaluation_mode_and_has_no_gradient():
    frozen = Frozen(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)))
    outer = nn.Sequential(frozen).train()
    assert not any(module.training for module in frozen.modules())
    assert not outer(torch.ones(2, 3)).requires_grad
    assert not any(parameter.requires_grad for parameter in outer.parameters())


def test_parameters_are_counted_when_they_are_trained():
    layer = nn.Linear(3, 2)
    assert network(layer).num_parameters == 8
    layer.bias.requires_grad_(False)
    assert network(layer).num_parameters == 6


def test_the_whole_is_the_encoding_followed_by_the_trained_part():
    net = network(nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 2)))
    torch.testing.assert_close(net.whole()(pictures()), net.trained(net.encode(pictures())), rtol=0, atol=0)


def test_the_whole_shares_its_parameters():
    net = network(nn.Linear(3, 2))
    with torch.no_grad():
        net.trained.weight.zero_()
    assert not dict(net.whole().named_parameters())["1.weight"].any()


def volumes(channels=2):
    return torch.randint(
        0, 256, (3, channels, 4, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )


def test_volumes_are_encoded_like_pictures():
    assert Normalise()(volumes()).shape == volumes().shape
    values = Standardise()(volumes())
    assert values.flatten(1).mean(dim=1) == pytest.approx([0.0] * 3, abs=1e-6)
    assert values.flatten(1).std(dim=1, correction=0) == pytest.approx([1.0] * 3, abs=2e-3)


@pytest.mark.parametrize("given", [pictures(), volumes()])
def test_channels_can_be_standardised_each_by_itself(given, monkeypatch):
    values = Standardise(each_channel=True)(given).flatten(2)
    torch.testing.assert_close(values.mean(dim=2), torch.zeros(3, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(values.std(dim=2, correction=0), torch.ones(3, 2), rtol=0, atol=2e-3)
    brighter = given.clone() // 2
    brighter[:, 1] = given[:, 1] // 2 + 90
    monkeypatch.setattr(Standardise, "FLOOR", 1e-6)
    standardise = Standardise(each_channel=True)
    torch.testing.assert_close(standardise(brighter), standardise(given // 2))
