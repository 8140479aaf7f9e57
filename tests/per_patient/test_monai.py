"""MONAI's networks as they come, after surgery, against one-patient backward passes in float64."""

import pytest
from tests.cases import family
from tests.per_patient.monai_networks import (
    BATCH_NORMS,
    NETWORKS,
    NOTHING,
    REPLACED,
    TOLERANCE,
    agrees,
    built,
    drawn,
    monai,
    noise,
    resnet,
    three_pictures,
)
from tests.per_patient.oracle import (
    clip_and_sum,
    cross_entropy,
    parameter_sizes,
    patient_gradients,
    pixel_cross_entropy,
    relative_error,
)
from torch import nn

from wardround.errors import ModelError
from wardround.per_patient import PatientBatch, check_trainable, clipped_sum
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.per_patient.surgery import FrozenBatchNorm, Norm, without_batch_norm

WITH_BATCH_NORM = [name for name, network in NETWORKS.items() if network.norms is not NOTHING]


def largest_divisor(channels: int) -> int:
    return next(groups for groups in range(32, 0, -1) if channels % groups == 0)


# Networks.


@pytest.mark.parametrize(
    ("name", "by"),
    family(
        [(name, by) for name, network in NETWORKS.items() for by in network.norms],
        keep=[
            *(("ResNet 2-D of bottlenecks", by) for by in REPLACED),
            ("UNet 2-D, batch norm", Norm.GROUP), ("ViT 2-D", Norm.GROUP),
        ],
    ),
)  # fmt: skip
def test_a_network_as_it_comes_gives_the_clipped_sum_of_one_patient_backward_passes(name, by):
    network = NETWORKS[name]
    model, changes = without_batch_norm(built(name), by)
    batch = three_pictures(network.picture, drawn(3, *network.labels))
    assert bool(changes.changes) == (network.norms is not NOTHING)
    check_trainable(model, batch.inputs)
    agrees(model, pixel_cross_entropy if network.labels else cross_entropy, batch)


@pytest.mark.parametrize("name", family(WITH_BATCH_NORM, keep=["ResNet 2-D of bottlenecks"]))
def test_surgery_replaces_every_batch_norm_of_a_network_and_nothing_else(name):
    model = built(name)
    channels = {where: m.num_features for where, m in model.named_modules() if isinstance(m, BATCH_NORMS)}
    others = [type(m) for where, m in model.named_modules() if where not in channels]
    for by in NETWORKS[name].norms:
        changed, changes = without_batch_norm(model, by)
        assert [change.name for change in changes.changes] == list(channels)
        assert [type(m) for where, m in changed.named_modules() if where not in channels] == others
        put_in = {where: changed.get_submodule(where) for where in channels}
        if by is Norm.GROUP:
            groups = {where: m.num_groups for where, m in put_in.items() if isinstance(m, nn.GroupNorm)}
            assert groups == {where: largest_divisor(number) for where, number in channels.items()}
            assert any(groups[where] < number for where, number in channels.items())
        else:
            kind = nn.modules.instancenorm._InstanceNorm if by is Norm.INSTANCE else FrozenBatchNorm
            assert all(isinstance(m, kind) for m in put_in.values())


@pytest.mark.parametrize("name", family(WITH_BATCH_NORM, keep=["ResNet 2-D of bottlenecks"]))
def test_a_network_with_its_batch_norms_in_training_is_refused_with_the_cure(name):
    with pytest.raises(ModelError, match=r"BatchNorm[23]d at '.*' in training mode.*GroupNorm"):
        check_trainable(built(name), noise(3, *NETWORKS[name].picture))


@pytest.mark.parametrize("dims", family([2, 3]))
def test_batch_norms_in_the_blocks_of_a_resnet_whose_norm_was_chosen_as_group_are_found_and_replaced(dims):
    # MONAI 1.6 gives `norm` to the stem alone.
    options = {"norm": ("group", {"num_groups": 2})}
    model = (
        resnet(dims, "basic", (1, 1, 1, 1), no_max_pool=True, **options)(monai("networks.nets")).double().train()
    )
    pictures = noise(2, 1, *(16,) * dims)
    with pytest.raises(ModelError, match="in training mode"):
        check_trainable(model, pictures)
    changed, changes = without_batch_norm(model)
    check_trainable(changed, pictures)
    assert len(changes.changes) == 11


# Pictures as MONAI's loaders hand them over.


@pytest.mark.parametrize("name", family(["UNet 2-D", "SegResNet 2-D", "DenseNet-121"]))
def test_pictures_that_are_meta_tensors_give_what_plain_tensors_give(name):
    network = NETWORKS[name]
    model, _ = without_batch_norm(built(name))
    loss = pixel_cross_entropy if network.labels else cross_entropy
    plain = three_pictures(network.picture, drawn(3, *network.labels))
    meta = PatientBatch(monai("data").MetaTensor(plain.inputs), plain.labels, plain.patient, plain.num_patients)
    loss(model(meta.inputs), meta.labels).sum().backward()  # ordinary training takes them
    model.zero_grad()
    ours = clipped_sum(model, loss, meta, clipping_norm=1.0).vector
    expected = clip_and_sum(patient_gradients(model, loss, plain), 1.0, shave=SHAVE)
    assert relative_error(ours, expected, parameter_sizes(model))[0] < TOLERANCE
