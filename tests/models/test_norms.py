import pytest

from wardround.models.norms import group_norm


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 24), (96, 32), (37, 1), (7, 7), (8, 8)])
def test_a_group_norm_has_the_largest_divisor_up_to_32(channels, groups):
    assert group_norm(channels).num_groups == groups
