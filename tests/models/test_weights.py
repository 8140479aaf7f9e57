import hashlib
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wardround.errors import ModelError
from wardround.models.weights import load_weights

HEAD = frozenset({"1.weight", "1.bias"})


def module(classes=2):
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, classes))


def saved(tmp_path, tensors):
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    return path


def state_of(source):
    return {name: value.clone() for name, value in source.state_dict().items()}


def filled(target, tensors, tmp_path):
    """The names of the parameters that a file changed; every other one is as it was."""
    before, path = state_of(target), saved(tmp_path, tensors)
    assert load_weights(target, path, head=HEAD) == hashlib.sha256(path.read_bytes()).hexdigest()
    after = target.state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert all(torch.equal(after[name], tensors[name]) for name in changed)
    return changed


def test_a_fitting_file_is_loaded_whole(tmp_path):
    assert filled(module(), state_of(module()), tmp_path) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_a_head_for_other_classes_keeps_its_initialisation(tmp_path):
    assert filled(module(), state_of(module(classes=5)), tmp_path) == {"0.weight", "0.bias"}


def test_half_a_head_is_no_head(tmp_path):
    tensors = state_of(module()) | {"1.bias": torch.ones(5)}
    assert filled(module(), tensors, tmp_path) == {"0.weight", "0.bias"}


def test_a_file_of_the_backbone_alone_is_enough(tmp_path):
    tensors = {name: value for name, value in state_of(module()).items() if name not in HEAD}
    assert filled(module(), tensors, tmp_path) == {"0.weight", "0.bias"}


def test_names_the_network_lacks_change_nothing(tmp_path):
    tensors = state_of(module()) | {"extra": torch.ones(1)}
    assert filled(module(), tensors, tmp_path) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_all_mismatches_are_listed_together_and_nothing_is_changed(tmp_path):
    target = module()
    before = state_of(target)
    tensors = state_of(module()) | {"0.weight": torch.ones(3, 9), "0.offset": torch.ones(3)}
    del tensors["0.bias"]
    with pytest.raises(ModelError) as caught:
        load_weights(target, saved(tmp_path, tensors), head=HEAD)
    for part in ("0.weight: shape (3, 9), expected (3, 4)", "0.bias: missing", "0.offset"):
        assert part in str(caught.value)
    assert all(torch.equal(target.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("bad", [torch.full((3,), torch.nan), torch.ones(3, dtype=torch.int64)])
def test_values_that_are_not_finite_floats_are_refused(tmp_path, bad):
    with pytest.raises(ModelError, match=r"0\.bias"):
        load_weights(module(), saved(tmp_path, state_of(module()) | {"0.bias": bad}), head=HEAD)


def test_half_precision_is_widened(tmp_path):
    source, target = module(), module()
    load_weights(target, saved(tmp_path, {k: v.half() for k, v in state_of(source).items()}), head=HEAD)
    assert target[0].weight.dtype == torch.float32
    torch.testing.assert_close(target[0].weight, source[0].weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PTH"])
def test_a_pickle_is_refused_unopened_with_the_way_to_convert_it(tmp_path, suffix):
    with pytest.raises(ModelError, match=r"safetensors\.torch\.save_file"):
        load_weights(module(), tmp_path / f"absent{suffix}", head=HEAD)


def test_another_format_a_damaged_and_an_absent_file_are_refused(tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not at all")
    for path in (damaged, tmp_path / "absent.safetensors", tmp_path / "weights.h5"):
        with pytest.raises(ModelError, match=path.name):
            load_weights(module(), path, head=HEAD)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"1.bias": torch.full((2,), torch.nan)}, r"1\.bias"),
        ({"1.bias": torch.ones(2, dtype=torch.int32)}, r"1\.bias"),
        ({"0.bias": torch.full((3,), 1e39, dtype=torch.float64)}, "beyond torch.float32"),
        ({"1.bias": torch.full((2,), -1e300, dtype=torch.float64)}, "beyond torch.float32"),
        ({"1.bias": None, "1.bais": torch.ones(2)}, r"1\.bias: missing.*1\.bais"),
        ({"1.weight": None, "1.bias": None, "head.weight": torch.ones(2, 3)}, r"1\.weight: missing.*head\.weight"),
    ],
)
def test_a_head_is_initialised_anew_for_its_shape_or_its_absence_alone(tmp_path, change, part):
    target = module()
    before = state_of(target)
    tensors = {name: value for name, value in (state_of(module()) | change).items() if value is not None}
    with pytest.raises(ModelError, match=part):
        load_weights(target, saved(tmp_path, tensors), head=HEAD)
    assert all(torch.equal(target.state_dict()[name], value) for name, value in before.items())


def test_double_precision_within_single_is_read(tmp_path):
    source, target = module(), module()
    load_weights(target, saved(tmp_path, {k: v.double() for k, v in state_of(source).items()}), head=HEAD)
    assert torch.equal(target[0].weight, source[0].weight)


def test_a_file_that_fills_nothing_is_refused(tmp_path):
    with pytest.raises(ModelError, match="fills none"):
        load_weights(
            nn.Linear(3, 2), saved(tmp_path, {"weight": torch.ones(5, 3)}), head=frozenset({"weight", "bias"})
        )


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_what_is_no_file_of_weights_is_not_read(tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(ModelError, match="safetensors"):
        load_weights(module(), path, head=HEAD)
