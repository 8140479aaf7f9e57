import pytest
import torch
from torch import nn

from wardround.errors import ModelError
from wardround.privacy.surgery import FrozenBatchNorm, Norm, without_batch_norm
from wardround.privacy.validation import check_trainable


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 48, 3), nn.BatchNorm2d(48), nn.ReLU(), nn.Sequential(nn.Conv2d(48, 7, 3), nn.BatchNorm2d(7)),
        nn.Flatten(), nn.LazyLinear(2),
    )  # fmt: skip
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 2, 8, 8))
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    return model.double().train()


def as_layers(model):
    assert isinstance(model, nn.Sequential)
    return model


PICTURES = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("by", list(Norm))
def test_after_surgery_every_network_is_accepted_and_before_it_is_not(by):
    model = network()
    with pytest.raises(ModelError, match="BatchNorm"):
        check_trainable(model, PICTURES)
    changed, changes = without_batch_norm(model, by)
    check_trainable(changed.train(), PICTURES)
    assert [change.name for change in changes] == ["1", "3.1"]
    assert isinstance(model[1], nn.BatchNorm2d)  # the original is left alone


@pytest.mark.parametrize("by", list(Norm))
def test_scale_and_offset_keep_their_values_names_and_dtype(by):
    model = network()
    changed, _ = without_batch_norm(model, by)
    before, after = dict(model.named_parameters()), dict(changed.named_parameters())
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.float64 for name in before)


def test_group_norm_takes_the_largest_divisor_up_to_32():
    made, changes = without_batch_norm(network())
    changed = as_layers(made)
    assert changed[1].num_groups == 24
    assert changed[3][1].num_groups == 7
    assert changes[0].after == "GroupNorm with 24 groups of 48 channels"


def test_a_frozen_batch_norm_is_the_batch_norm_in_evaluation_and_stays_it():
    model = network().eval()
    changed = as_layers(without_batch_norm(model, Norm.FROZEN)[0])
    statistics = changed[1].running_mean.clone()
    assert torch.equal(model(PICTURES), changed.train()(PICTURES))
    assert torch.equal(statistics, changed[1].running_mean)
    assert isinstance(changed[1], FrozenBatchNorm)


def test_instance_norms_lose_their_statistics_and_keep_their_weights():
    model = nn.Sequential(
        nn.InstanceNorm2d(2, affine=True, track_running_stats=True), nn.Flatten(), nn.LazyLinear(2)
    )
    model(torch.randn(2, 2, 4, 4))
    made, changes = without_batch_norm(model)
    changed = as_layers(made)
    check_trainable(changed, torch.randn(3, 2, 4, 4))
    assert changed[0].running_mean is None
    assert len(changes) == 1


def test_a_network_that_is_one_batch_norm_is_replaced_itself():
    changed, _ = without_batch_norm(nn.BatchNorm1d(6))
    assert isinstance(changed, nn.GroupNorm)


def test_batch_norms_that_cannot_be_replaced_say_why():
    with pytest.raises(ModelError, match="run the network once"):
        without_batch_norm(nn.Sequential(nn.LazyBatchNorm2d()))
    with pytest.raises(ModelError, match="with running statistics"):
        without_batch_norm(nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)), Norm.FROZEN)


def test_frozen_parameters_stay_frozen():
    model = network()
    model[1].weight.requires_grad_(False)
    changed = as_layers(without_batch_norm(model)[0])
    assert not changed[1].weight.requires_grad
    assert changed[1].bias.requires_grad
