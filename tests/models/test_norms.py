import pytest
import torch
from torch import nn

from wardround.models.norms import group_norm, group_normalised


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 24), (96, 32), (37, 1), (7, 7), (8, 8)])
def test_a_group_norm_has_the_largest_divisor_up_to_32(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_conversion_keeps_names_weights_dtype_and_mode(dtype):
    model = nn.Sequential(nn.Conv2d(1, 48, 3), nn.Sequential(nn.BatchNorm2d(48, eps=0.1))).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    before = {name: value.clone() for name, value in model.named_parameters()}
    changed = group_normalised(model)
    after = dict(changed.named_parameters())
    assert list(before) == list(after)
    assert all(torch.equal(before[name], value) and value.dtype == dtype for name, value in after.items())
    norm = changed.get_submodule("1.0")
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.eps, norm.num_groups, norm.training) == (0.1, 24, False)
    assert not list(changed.buffers())


def test_conversion_keeps_the_device_and_takes_norms_without_weights():
    with torch.device("meta"):
        changed = group_normalised(nn.Sequential(nn.BatchNorm3d(4), nn.BatchNorm1d(6, affine=False)))
    assert [p.device.type for p in changed.parameters()] == ["meta"] * 2
    assert isinstance(group_normalised(nn.BatchNorm2d(3)), nn.GroupNorm)
