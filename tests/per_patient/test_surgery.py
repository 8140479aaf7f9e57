import pytest
import torch
from torch import nn

from wardround.errors import ModelError
from wardround.per_patient.surgery import FrozenBatchNorm, Norm, without_batch_norm
from wardround.per_patient.validation import check_trainable


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
    assert [change.name for change in changes.changes] == ["1", "3.1"]
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
    assert changes.changes[0].after == "GroupNorm with 24 groups of 48 channels"


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
    assert len(changes.changes) == 1


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


# The report.


def test_the_report_names_what_was_replaced_by_what_in_how_many_groups():
    _, report = without_batch_norm(network())
    assert [(change.name, change.before, change.groups) for change in report.changes] == [
        ("1", "BatchNorm2d", 24),
        ("3.1", "BatchNorm2d", 7),
    ]
    assert "1: BatchNorm2d -> GroupNorm with 24 groups of 48 channels" in str(report)


@pytest.mark.parametrize(("by", "groups"), [(Norm.LAYER, 1), (Norm.INSTANCE, 48), (Norm.FROZEN, None)])
def test_the_report_counts_groups_for_every_kind_of_norm(by, groups):
    assert without_batch_norm(network(), by)[1].changes[0].groups == groups


@pytest.mark.parametrize("by", list(Norm))
def test_every_weight_is_kept_and_only_statistics_are_dropped(by):
    model = network()
    changed, report = without_batch_norm(model, by)
    assert (
        report.kept == sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in changed.parameters())
    )
    statistics = [name for name, _ in model.named_buffers()]
    left = [name for name, _ in changed.named_buffers()]
    assert [*report.dropped] == [name for name in statistics if name not in left]
    assert bool(left) == (by is Norm.FROZEN)


def test_a_network_without_batch_norms_is_reported_unchanged():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    _, report = without_batch_norm(model)
    assert report.changes == ()
    assert report.kept == 3 * 4 + 4 + 4 + 4


@pytest.mark.parametrize("by", list(Norm))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_values_dtype_and_training_mode(by, dtype):
    model = network().to(dtype)
    model[1].eval()
    changed = as_layers(without_batch_norm(model, by)[0])
    for name, before in model.named_parameters():
        after = changed.get_parameter(name)
        assert after.dtype == dtype
        assert torch.equal(after, before)
        assert after.data_ptr() != before.data_ptr()
    if by is not Norm.FROZEN:
        assert not changed[1].training
        assert changed[3][1].training


@pytest.mark.parametrize("by", list(Norm))
def test_weights_keep_their_device(by):
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    changed, report = without_batch_norm(model, by)
    assert all(p.is_meta for p in changed.parameters())
    assert report.kept == sum(p.numel() for p in model.parameters())


def test_a_layer_norm_of_channels_is_one_group():
    changed = as_layers(without_batch_norm(network(), Norm.LAYER)[0])
    x = torch.randn(2, 48, 3, 3, dtype=torch.float64)
    expected = nn.functional.layer_norm(x, x.shape[1:], eps=changed[1].eps)
    expected = expected * changed[1].weight[:, None, None] + changed[1].bias[:, None, None]
    torch.testing.assert_close(changed[1](x), expected)


def test_a_norm_that_stands_in_two_places_is_replaced_in_both():
    norm = nn.BatchNorm2d(4)
    changed, report = without_batch_norm(nn.Sequential(norm, nn.ReLU(), norm))
    layers = as_layers(changed)
    assert layers[0] is layers[2]
    assert isinstance(layers[2], nn.GroupNorm)
    assert [change.name for change in report.changes] == ["0", "2"]


@pytest.mark.parametrize(
    ("kind", "space"), [(nn.BatchNorm1d, (5,)), (nn.BatchNorm2d, (5, 6)), (nn.BatchNorm3d, (3, 4, 5))]
)
@pytest.mark.parametrize("affine", [True, False])
def test_a_frozen_norm_is_the_norm_in_evaluation_bit_for_bit(kind, space, affine):
    torch.manual_seed(3)
    norm = kind(4, affine=affine)
    for _ in range(3):
        norm(torch.randn(6, 4, *space))
    x = torch.randn(2, 4, *space)
    frozen = without_batch_norm(norm, Norm.FROZEN)[0].train()
    assert torch.equal(frozen(x), norm.eval()(x))
