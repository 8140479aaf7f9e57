"""Batches of a fixed shape: what is in the other slots changes no bit of a row, and the rows are the gradients."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.cases import family
from tests.training.test_alone import bench_of, patients_with
from torch import nn

from wardround.models.catalogue import build
from wardround.models.network import Normalise, Parts
from wardround.models.stages import staged
from wardround.per_patient.fixed_shape import (
    EMPTY,
    gradients_of_slots,
    in_slots,
    mean_of,
    placed,
    slots_for,
    slots_of,
    stays_apart,
)
from wardround.training import slotted as slotted_gradients
from wardround.training.augment.augmentation import Augmentation, Axis
from wardround.training.losses import cross_entropy
from wardround.training.patients import Sample
from wardround.training.slotted import Slotted
from wardround.training.workbench import Workbench

COUNTS = [1, 2, 1, 3, 1, 1, 0, 1, 1, 1, 4, 1]
SLOTS = {"linear": 64, "features": 64, "small_cnn": 64, "squeezenet": 8, "resnet18": 4, "vit_tiny": 4}
NETWORKS = [
    *family(["linear", "features", "small_cnn", "squeezenet"], keep=["linear", "small_cnn"]),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "vit_tiny")),
]


def everyone(patients):
    return np.arange(len(patients))


def rows(bench, patients, chosen, seed=3):
    sample = Sample(patients, np.array(chosen, dtype=np.int64))
    return dict(zip(chosen, bench.patient_gradients(bench.initial_weights, sample, seed), strict=True))


def with_slots(bench, count):
    """A workbench that goes in slots whatever the network's size is."""
    bench._slotted = Slotted(bench.network, cross_entropy, bench._pixels, bench.kept_inputs, 1 << 28)
    bench._slotted.count = count
    return bench


def slotted(name, size=32):
    """Without dropout, and with weights whose head does not start at zero, so that every layer has a gradient."""
    bench = bench_of(name, size)
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in bench.network.trained.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=drawn)
    for module in bench.network.trained.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    pixels = np.random.default_rng(5).integers(0, 256, (sum(COUNTS), 1, size, size), dtype=np.uint8)
    return with_slots(Workbench(bench.network, pixels, cross_entropy, 1 << 28), SLOTS[name])


def test_every_picture_is_once_in_its_slot_and_the_place_among_its_equals_is_its_batch():
    slots = np.random.default_rng(0).integers(0, 8, 100)
    batches = np.array(list(placed(slots, 8)))
    assert batches.shape == (np.bincount(slots).max(), 8)
    assert sorted(batches[batches != EMPTY]) == list(range(100))
    for picture, slot in enumerate(slots):
        assert batches[(slots[:picture] == slot).sum(), slot] == picture
    assert list(placed(np.zeros(0, dtype=np.int64), 8)) == []


def test_a_slot_follows_from_the_patient_and_the_number_of_the_picture():
    patients, fewer = patients_with([3] * 3200), patients_with([1, *[3] * 3199])
    keys = patients.pictures_of(np.arange(3200)).keys
    slots = slots_of(keys, 64)
    np.testing.assert_array_equal(slots_of(fewer.pictures_of(np.arange(3200)).keys, 64), np.delete(slots, [1, 2]))
    np.testing.assert_array_equal(slots_of(patients.pictures_of(np.arange(1, 3200)).keys, 64), slots[3:])
    assert set(np.diff(slots.reshape(-1, 3)).ravel() % 64) == {1}, "no two of a patient meet"
    assert np.bincount(slots, minlength=64).min() > 75, "evenly, or batches would be nearly empty"


def test_empty_slots_hold_zeros_and_the_shape_is_always_the_same():
    batch = np.array([EMPTY, 1, EMPTY, 0])
    assert in_slots(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), batch).tolist() == [[0, 0], [1, 2], [0, 0], [3, 4]]
    assert in_slots(torch.zeros(0, 5), np.full(4, EMPTY)).shape == (4, 5)


@pytest.mark.parametrize("threads", family([1, 2], keep=[2]))
@pytest.mark.parametrize("name", NETWORKS)
def test_no_bit_of_a_row_depends_on_who_else_is_there(name, threads):
    bench, patients, before = slotted(name), patients_with(COUNTS), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        known = rows(bench, patients, list(everyone(patients)))
        others = [[3], [10, 3], [0, 1, 2, 4, 5, 7, 8, 9, 11], list(reversed(range(12))), [6, 11, 0]]
        for chosen in others:
            for patient, row in rows(bench, patients, chosen).items():
                np.testing.assert_array_equal(row, known[patient])
    finally:
        torch.set_num_threads(before)
    assert all(known[patient].any() == bool(pictures) for patient, pictures in enumerate(COUNTS))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_is_the_same_at_a_hospital_that_never_had_the_others(name):
    """The neighbour as it would be: fewer pictures in the cache, and every later row and place moved up."""
    bench, patients = slotted(name), patients_with(COUNTS)
    known = rows(bench, patients, list(everyone(patients)))
    for gone in (0, 3, 10):
        kept = [patient for patient in range(len(COUNTS)) if patient != gone]
        left = np.delete(bench._pixels, np.arange(patients.starts[gone], patients.starts[gone + 1]), axis=0)
        fewer = with_slots(Workbench(bench.network, left, cross_entropy, 1 << 28), SLOTS[name])
        theirs = patients_with([COUNTS[patient] for patient in kept])
        labels = [patients.labels[patients.starts[p] : patients.starts[p + 1]] for p in kept]
        theirs = type(theirs)(theirs.rows, np.concatenate(labels), theirs.starts, patients.names[kept])
        for patient, row in zip(kept, rows(fewer, theirs, list(everyone(theirs))).values(), strict=True):
            np.testing.assert_array_equal(row, known[patient])


@pytest.mark.parametrize("name", family(NETWORKS))
def test_others_that_are_huge_infinite_or_not_numbers_change_no_bit(name):
    bench, patients = slotted(name), patients_with(COUNTS)
    inputs = bench.inputs_of(np.arange(sum(COUNTS)))
    mine = 3
    own = slice(patients.starts[mine], patients.starts[mine + 1])

    def row(values):
        made = with_slots(
            Workbench(bench.network, bench._pixels, cross_entropy, 1 << 28, inputs=values), SLOTS[name]
        )
        return rows(made, patients, list(everyone(patients)))[mine]

    known = row(inputs)
    for stranger in (np.nan, np.inf, -1e30, 0.0):
        among = torch.full_like(inputs, stranger)
        among[own] = inputs[own]
        np.testing.assert_array_equal(row(among), known)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rows_are_the_gradients_computed_alone(name):
    bench, patients = slotted(name), patients_with(COUNTS)
    known = rows(bench, patients, list(everyone(patients)))
    for patient, expected in rows(with_slots(bench, 0), patients, list(everyone(patients))).items():
        error = np.linalg.norm(known[patient] - expected)
        assert error <= 1e-3 * np.linalg.norm(expected)
        assert known[patient].dtype == np.float32


def test_some_patients_at_a_time_changes_no_bit(monkeypatch):
    bench, patients = slotted("linear"), patients_with(COUNTS)
    few = rows(with_slots(bench, 2), patients, list(everyone(patients)))
    monkeypatch.setattr(slotted_gradients, "ROW_BYTES", 1)
    for patient, row in rows(bench, patients, list(everyone(patients))).items():
        np.testing.assert_array_equal(row, few[patient])
    assert len(few) == len(COUNTS)


@pytest.mark.parametrize("slots", ["one", "many"])
def test_rows_in_memory_take_at_most_twice_their_bytes(slots, monkeypatch):
    """Pictures of one slot have a batch each, whose empty slots have rows as well."""
    bench, patients = slotted("small_cnn"), patients_with([1] * sum(COUNTS))
    if slots == "one":
        patients = replace(patients, names=patients.names * np.uint64(64))
    made, compute = [], gradients_of_slots

    def watched(*given, **options):
        made.append(weakref.ref(found := compute(*given, **options).copy()))
        return found

    monkeypatch.setattr(slotted_gradients, "gradients_of_slots", watched)
    gradients = bench.patient_gradients(bench.initial_weights, Sample(patients, np.arange(sum(COUNTS))), 3)
    next(gradients)
    held = sum(len(matrix) for each in made if (matrix := each()) is not None)
    assert (len(made) == sum(COUNTS)) == (slots == "one")
    assert held <= 2 * sum(COUNTS)


def test_the_mean_of_a_patients_rows_is_in_double_precision():
    found = np.array([[1.0, 2.0**-24], [2.0**-24, 1.0], [2.0**-24, 1.0]], dtype=np.float32)
    assert mean_of(list(found), 2).tolist() == [np.float32((1 + 2.0**-23) / 3), np.float32((2 + 2.0**-24) / 3)]
    assert mean_of([], 2).tolist() == [0.0, 0.0]


def dropping():
    body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1024, 2))
    pixels = np.full((200, 1, 32, 32), 255, dtype=np.uint8)  # all alike, so that one slot has them all
    return Workbench(staged("d", Parts(Normalise(), body, "2", False), "all"), pixels, cross_entropy, 1 << 26)


@pytest.mark.thorough
def test_every_patient_has_masks_of_their_own_and_they_follow_from_the_seed():
    bench, patients = dropping(), patients_with([1] * 100 + [2] * 50)
    found = rows(bench, patients, list(everyone(patients)), 7)
    assert bench._slotted.count > 0
    again, other = (rows(bench, patients, list(everyone(patients)), seed) for seed in (7, 1 << 40))
    masks = np.array([row[:1024] != 0 for row in found.values()])
    for patient, row in found.items():
        np.testing.assert_array_equal(row, again[patient])
        assert (row != other[patient]).any()
    assert len(np.unique(masks, axis=0)) == len(masks)
    single, double = masks[:100].mean(), masks[100:].mean()
    assert abs(single - 0.5) < 5 * 0.5 / np.sqrt(100 * 1024)
    assert abs(double - 0.75) < 5 * np.sqrt(0.1875 / (50 * 1024)), "the pictures of a patient as well"


class Coupled(nn.Module):
    """Layers of which one takes another branch for everybody when one number is large."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        large = (x.detach().abs() > 100).any() | x.detach().isnan().any()
        return self.head(x.flatten(1)) * (1 + 2.0**-20 * large)


def test_a_network_whose_rows_move_with_a_stranger_is_computed_alone():
    inputs, labels = torch.zeros(1, 64), torch.zeros(1, dtype=torch.int64)
    assert not stays_apart(Coupled(), cross_entropy, inputs, labels, 8)
    assert slots_for(Coupled(), cross_entropy, inputs, labels) == 0
    straight = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert stays_apart(straight, cross_entropy, inputs, labels, 8)
    assert slots_for(straight, cross_entropy, inputs, labels) == 32


@pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")
def test_a_network_whose_rows_tell_nothing_is_computed_alone():
    silent = nn.Sequential(nn.Linear(64, 2), nn.Threshold(1e9, 0.0))
    inputs, labels = torch.zeros(1, 64), torch.zeros(1, dtype=torch.int64)
    assert not stays_apart(silent, cross_entropy, inputs, labels, 8)


class Unruled(nn.Module):
    """A trained parameter in a function that the engine has no rule for."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 2))

    def forward(self, x):
        return x @ self.weight.exp()


@pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")
def test_how_many_slots_there_are_is_public():
    labels = torch.zeros(1, dtype=torch.int64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 20), nn.ReLU(), nn.Linear(20, 2))
    numbers = {
        slots_for(network, cross_entropy, torch.full((3, 1, 32, 32), value), labels + (value > 0))
        for value in (0.0, 1.0, 1e30, float("inf"), float("nan"))
    }
    assert numbers == {32}
    assert slots_for(nn.Linear(64, 4096), lambda y, _: y.square().mean(1), torch.zeros(1, 64), labels) == 0
    assert slots_for(Unruled(), cross_entropy, torch.zeros(1, 64), labels) == 0


def corner(output, masks):
    return cross_entropy(output, masks[:, 0, 0])


@pytest.mark.parametrize("how", ["augmentation", "masks"])
def test_varied_pictures_and_masks_are_computed_alone(how):
    bench = bench_of("linear")
    extra = {"augmentation": Augmentation(flip=(Axis.VERTICAL,))} if how == "augmentation" else {
        "masks": np.zeros((12, 32, 32), dtype=np.uint8)
    }  # fmt: skip
    bench = Workbench(bench.network, bench._pixels, corner if how == "masks" else cross_entropy, 1 << 26, **extra)
    assert len(rows(bench, patients_with([1, 2]), [0, 1])) == 2
    assert bench._slotted is None


def test_small_networks_and_heads_go_in_slots():
    for name, slots in {"linear": 32, "features": 32, "small_cnn": 32, "squeezenet": 0}.items():
        bench = bench_of(name)
        rows(bench, patients_with([1, 2]), [0, 1])
        assert bench._slotted.count == slots, name
    network = build(
        "squeezenet", size=(32, 32), channels=1, num_classes=2, init_generator=torch.Generator().manual_seed(0),
        train="head",
    )  # fmt: skip
    bench = Workbench(network, bench._pixels, cross_entropy, 1 << 26)
    rows(bench, patients_with([1, 2]), [0, 1])
    assert bench._slotted is not None
    assert bench._slotted.count == 32
