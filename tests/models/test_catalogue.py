import hashlib
import subprocess
import sys
from functools import lru_cache

import pytest
import torch
from safetensors.torch import save_file
from tests.cases import family
from tests.models.shapes import parameters_of
from torch import nn
from torch.func import functional_call, grad, vmap

from wardround.errors import ModelError
from wardround.models.catalogue import NAMES, NETWORKS, build
from wardround.models.network import Form
from wardround.models.vectors import load_vector, to_vector

SIZE = 64
WITHOUT_A_BACKBONE = ["linear", "features"]
WITH_A_BACKBONE = [
    "small_cnn",
    "squeezenet",
    "vgg11_gn",
    "resnet18",
    "densenet121",
    "vit_tiny",
    *sorted(NAMES["segmentation"]),
]
HUGE = ["alexnet", "vgg11", "vgg16"]
"""Of these a draw takes seconds and a picture's gradient 250 to 550 MB; their shapes are tested in
`test_published`."""

FEW = ["linear", "features", "small_cnn", "squeezenet", "small_unet", "voxel_features"]
"""One network of each kind."""

EVERY = family(
    [pytest.param(name, marks=pytest.mark.slow) if name in HUGE else name for name in NETWORKS], keep=FEW
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def size_of(name):
    """A small size that the network reads."""
    return (SIZE, SIZE) if 2 in NETWORKS[name].dimensions else (16, 16, 24)


def made(name, **changed):
    given = {"channels": 1, "num_classes": 3, "init_generator": generator()}
    if "image_size" not in changed:
        given["size"] = size_of(name) if name in NETWORKS else (SIZE, SIZE)
    return build(name, **(given | changed))


@lru_cache(maxsize=2)
def shared(name, train="all"):
    """A network that no test may change; the large ones are slow to draw."""
    net = made(name, train=train)
    for module in net.trained.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for parameter in net.trained.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator(1))
    return net


def pictures(count=3, channels=1, size=(SIZE, SIZE)):
    return torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8, generator=generator(7))


def logits_shape(name, count=3, classes=3):
    return (count, classes, *(size_of(name) if name in NAMES["segmentation"] else ()))


@pytest.mark.parametrize("train", family(["all", "norms", "head"]))
@pytest.mark.parametrize("name", EVERY)
def test_a_pictures_logits_do_not_depend_on_the_other_pictures(name, train):
    net = shared(name, train)
    given = pictures(size=size_of(name))
    assert net.trained.training
    with torch.no_grad():
        together = net.trained(net.encode(given))
        alone = torch.cat([net.trained(net.encode(picture[None])) for picture in given])
        whole = net.whole()(given)
    assert together.shape == logits_shape(name)
    assert together.std(dim=0).max() > 0
    # float32; matrix products of other sizes are summed in another order.
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(whole, together, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["linear", "features", "small_cnn", "squeezenet", "small_unet", "voxel_features"])
def test_gradients_of_single_pictures_by_vmap_are_those_of_single_backward_passes(name):
    net = shared(name)
    inputs = net.encode(pictures(2)).double()
    labels = torch.tensor([0, 2])
    if net.segments:
        labels = labels[:, None, None].expand(2, SIZE, SIZE)
    parameters = {name: value.detach().double() for name, value in net.trained.named_parameters()}

    def loss(values, one, label):
        logits = functional_call(net.trained, values, (one[None],))
        return nn.functional.cross_entropy(logits, label[None])

    together = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(parameters, inputs, labels)
    for i in range(2):
        alone = grad(loss)(parameters, inputs[i], labels[i])
        for key, value in alone.items():
            torch.testing.assert_close(together[key][i], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("train", family(["all", "norms"]))
@pytest.mark.parametrize("name", EVERY)
def test_a_vector_goes_into_every_network_and_comes_out_again(name, train):
    net = shared(name, train)
    vector = to_vector(net.trained)
    assert vector.shape == (net.num_parameters,)
    load_vector(net.trained, vector)
    assert (to_vector(net.trained) == vector).all()


@pytest.mark.parametrize("name", EVERY)
def test_the_generator_alone_decides_the_starting_values(name):
    state = torch.get_rng_state()
    first = to_vector(made(name).trained)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert (to_vector(made(name).trained) == first).all()
    if name not in WITHOUT_A_BACKBONE:
        assert (to_vector(made(name, init_generator=generator(1)).trained) != first).any()


@pytest.mark.parametrize(
    "name",
    family(
        [name for name in NAMES["classification"] if name not in [*HUGE, "squeezenet"]],
        keep=["linear", "small_cnn"],
    ),
)
def test_a_head_at_zero_gives_every_class_the_same_chance(name):
    net = made(name)
    assert not net.trained(net.encode(pictures(size=size_of(name)))).any()


@pytest.mark.parametrize("name", family(sorted(NAMES["segmentation"]), keep=["small_unet"]))
def test_a_head_of_pixels_starts_with_classes_that_differ(name):
    head = made(name).trained.get_parameter("classifier.weight")
    assert (head[1] - head[2]).abs().max() > 0.01


@pytest.mark.parametrize("name", family(WITH_A_BACKBONE, keep=["small_cnn", "small_unet"]))
def test_training_the_head_freezes_the_backbone_into_the_encoding(name):
    net, full = shared(name, "head"), made(name)
    given = pictures(2, size=size_of(name))
    assert net.encode_once != net.segments  # maps are too large to keep
    assert net.num_parameters < full.num_parameters
    assert set(parameters_of(net.trained)) < set(parameters_of(full.trained))
    assert not any(parameter.requires_grad for parameter in net.encode.parameters())
    frozen = sum(parameter.numel() for parameter in net.encode.parameters())
    assert frozen + net.num_parameters == full.num_parameters
    net.whole().train()
    torch.testing.assert_close(net.encode(given), net.encode(given), rtol=0, atol=0)


@pytest.mark.parametrize("name", family(WITH_A_BACKBONE, keep=["small_cnn", "small_unet"]))
def test_a_cut_network_computes_what_the_uncut_one_does(name):
    cut, uncut = made(name, train="head"), made(name)
    given = pictures(1, size=size_of(name))
    with torch.no_grad():
        ours, theirs = cut.whole().eval()(given), uncut.whole().eval()(given)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", WITHOUT_A_BACKBONE)
def test_a_network_that_is_a_head_is_the_same_at_every_stage(name):
    for train in ("norms", "head"):
        assert parameters_of(made(name, train=train).trained) == parameters_of(made(name).trained)


def test_only_features_and_frozen_backbones_are_encoded_once():
    light = [name for name in NETWORKS if name not in HUGE]
    assert [name for name in light if made(name).encode_once] == ["features"]


FORMS = [(name, dimensions) for name, builder in NETWORKS.items() for dimensions in sorted(builder.dimensions)]


@pytest.mark.parametrize("channels", family([1, 3, 4], keep=[3]))
@pytest.mark.parametrize(("name", "dimensions"), family(FORMS, keep=[form for form in FORMS if form[0] in FEW]))
def test_the_smallest_picture_passes_and_a_smaller_one_is_refused(name, dimensions, channels):
    builder = NETWORKS[name]
    size = (builder.smallest,) * dimensions
    with torch.device("meta"):
        body = builder.body(Form(size, channels, 3, builder.width or 0))
        encoded = builder.encoder(Form(size, channels, 3))(torch.zeros(2, channels, *size, dtype=torch.uint8))
        assert body(encoded).shape == (2, 3, *(size if builder.segments else ()))
    with pytest.raises(ModelError, match=f"at least {builder.smallest} pixels"):
        made(name, size=(builder.smallest - 1,) * dimensions, channels=channels)


@pytest.mark.parametrize("name", family([name for name in NETWORKS if 2 in NETWORKS[name].dimensions], keep=FEW))
def test_pictures_of_64_pixels_and_of_224_reach_the_logits_of_every_network(name):
    builder = NETWORKS[name]
    for size in ((64, 64), (224, 224), *([] if builder.square else [(64, 96)])):
        with torch.device("meta"):
            form = Form(size, 3, 2, builder.width or 0)
            logits = builder.body(form)(builder.encoder(form)(torch.zeros(1, 3, *size, dtype=torch.uint8)))
        assert logits.shape == (1, 2, *(size if builder.segments else ()))


def test_names_are_grouped_by_what_the_networks_answer():
    assert [name for group in NAMES.values() for name in group] == list(NETWORKS)
    assert set(NAMES["segmentation"]) == {name for name in NETWORKS if NETWORKS[name].segments}
    assert made("small_unet").segments
    assert not made("small_cnn").segments


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(ModelError, match="nearest known one is 'squeezenet'"):
        made("sqeeze_net")


def test_one_class_no_channel_and_an_unknown_part_are_refused():
    with pytest.raises(ModelError, match="at least 2, got 1"):
        made("linear", num_classes=1)
    with pytest.raises(ModelError, match="at least 1, got 0"):
        made("linear", channels=0)
    with pytest.raises(ModelError, match="all, last-block, norms, lora, biases, head, got 'tail'"):
        made("linear", train="tail")


def test_sizes_that_a_network_cannot_halve_are_refused_with_ones_that_it_can():
    with pytest.raises(ModelError, match=r"multiple of 8 for unet, got 40 x 50; pad or resize to 40 x 56\."):
        made("unet", size=(40, 50))
    with pytest.raises(ModelError, match=r"multiple of 32 for unet_vgg11, got 100 x 96; .* 128 x 96\."):
        made("unet_vgg11", size=(100, 96))
    with pytest.raises(ModelError, match="multiple of 16 for vit_tiny"):
        made("vit_tiny", size=(100, 96))


def test_volumes_and_pictures_are_refused_by_the_networks_of_the_other():
    with pytest.raises(ModelError, match=r"squeezenet reads pictures .*got the size 16 x 16 x 16.*unet3d"):
        made("squeezenet", size=(16, 16, 16))
    with pytest.raises(ModelError, match=r"unet3d reads volumes .*got the size 64 x 64"):
        made("unet3d", size=(64, 64))
    with pytest.raises(ModelError, match="give two sizes or three"):
        made("linear", size=(64,))
    with pytest.raises(ModelError, match="must be square for features, got 64 x 32"):
        made("features", size=(64, 32))


def test_a_width_is_for_the_networks_that_have_one():
    narrow, usual = made("unet3d", width=4), made("unet3d")
    assert narrow.num_parameters < usual.num_parameters / 3
    with pytest.raises(ModelError, match=r"width can be chosen for .*unet, unet3d"):
        made("resnet18", width=4)
    with pytest.raises(ModelError, match="at least 1 channel, got 0"):
        made("unet", width=0)


def test_weights_for_other_classes_give_a_backbone_and_a_fresh_head(tmp_path):
    source = made("small_cnn", num_classes=5, init_generator=generator(1))
    path = tmp_path / "weights.safetensors"
    save_file(source.trained.state_dict(), path)
    net = made("small_cnn", train="head", weights=path)
    assert net.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(parameters_of(net.trained)) == ["classifier.0.weight", "classifier.0.bias"]
    loaded = dict(net.encode.named_parameters())
    source_of = source.trained.state_dict()
    assert all(torch.equal(value, source_of[key.removeprefix("1.inner.")]) for key, value in loaded.items())
    assert made("small_cnn").weights_sha256 is None


@pytest.mark.parametrize(
    "name",
    family(
        ["resnet18", "densenet121", "vit_tiny", "unet", "unet3d", "segresnet", "voxel_features"],
        keep=["vit_tiny", "unet", "voxel_features"],
    ),
)
def test_the_weights_of_every_kind_of_network_go_through_a_file(name, tmp_path):
    source = made(name, init_generator=generator(1))
    save_file(source.trained.state_dict(), tmp_path / "weights.safetensors")
    net = made(name, weights=tmp_path / "weights.safetensors")
    assert (to_vector(net.trained) == to_vector(source.trained)).all()


def test_a_u_net_starts_from_a_file_of_its_encoder_alone(tmp_path):
    source = made("vgg11_gn", init_generator=generator(1))
    save_file(source.trained.state_dict(), tmp_path / "weights.safetensors")
    net = made("unet_vgg11", weights=tmp_path / "weights.safetensors")
    state, source_of = net.trained.state_dict(), source.trained.state_dict()
    fresh = made("unet_vgg11").trained.state_dict()
    assert {name.partition(".")[0] for name in state} == {"features", "decoder", "classifier"}
    for name, value in state.items():
        assert torch.equal(value, source_of[name] if name.startswith("features.") else fresh[name])


def test_a_u_net_without_half_its_way_up_is_refused(tmp_path):
    state = dict(made("unet_vgg11").trained.state_dict())
    del state["decoder.center.0.weight"]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"decoder\.center\.0\.weight: missing"):
        made("unet_vgg11", weights=tmp_path / "weights.safetensors")


def test_running_statistics_in_a_file_are_left_alone(tmp_path):
    source = made("resnet18", init_generator=generator(1)).trained
    save_file(source.state_dict() | {"bn1.running_mean": torch.zeros(64)}, tmp_path / "weights.safetensors")
    net = made("resnet18", weights=tmp_path / "weights.safetensors")
    assert (to_vector(net.trained) == to_vector(source)).all()


def test_the_layers_of_a_network_need_no_compiler():
    """Normal draws on torch's device without memory import it."""
    program = (
        "import sys, torch; from wardround.models.catalogue import build; "
        "build('vit_tiny', size=(64, 64), channels=1, num_classes=2, init_generator=torch.Generator()); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
