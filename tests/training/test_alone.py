"""A patient's gradient is computed alone: who else is in the sample changes no bit of it, and it is the gradient."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import family
from tests.names import names
from tests.per_patient.oracle import patient_gradients
from torch import nn

from wardround.models.catalogue import build
from wardround.models.network import Network, Normalise
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.guards.draws import DrawsInWorker, drawing
from wardround.per_patient.isolated import isolated_gradient
from wardround.per_patient.layout import Layout
from wardround.training import alone, slotted, workbench
from wardround.training.losses import cross_entropy
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.slotted import Slotted
from wardround.training.spread import spread
from wardround.training.workbench import Workbench

PATIENTS = 6


def bench_of(name, size=32, train="all", cores=1):
    network = build(
        name, size=(size, size), channels=1, num_classes=2, init_generator=torch.Generator().manual_seed(0),
        train=train,
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (2 * PATIENTS, 1, size, size), dtype=np.uint8)
    return Workbench(network, pixels, cross_entropy, 1 << 26, cores=cores)


def patients_with(counts):
    starts = np.cumsum([0, *counts])
    return TrainingPatients(np.arange(starts[-1]), np.arange(starts[-1]) % 2, starts, names(len(counts)))


def rows(bench, patients, chosen, scale=1.0):
    return dict(
        zip(
            chosen,
            bench.patient_gradients(
                bench.initial_weights * np.float32(scale), Sample(patients, np.array(chosen)), 3
            ),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("name", "cores"),
    [
        ("linear", 1),
        ("features", 1),
        ("small_cnn", 1),
        ("small_cnn", 2),
        ("squeezenet", 1),
        pytest.param("resnet18", 3, marks=pytest.mark.thorough),
    ],
)
def test_no_bit_of_a_patients_gradient_depends_on_who_else_is_there(name, cores):
    bench, patients = bench_of(name, cores=cores), patients_with([1, 2, 1, 3, 1, 1])
    everyone = rows(bench, patients, list(range(PATIENTS)))
    for chosen in ([1, 2, 3, 4, 5], [5, 3, 1], [4], [0, 5, 4, 3, 2, 1]):
        for patient, row in rows(bench, patients, chosen).items():
            np.testing.assert_array_equal(row, everyone[patient])


class DrawsWhenBright(nn.Module):
    """Draws at pictures whose mean is large: none of those that a network is tried with."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1024, 2)

    def forward(self, x):
        x = x.flatten(1)
        return self.linear(nn.functional.dropout(x, 0.5) if bool(x.mean() > 0.75) else x)


def own_bench(trained, cores):
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
    pixels = np.array(bench_of("linear")._pixels)
    pixels[4] = 255
    return Workbench(Network("own", Normalise(), trained, False), pixels, cross_entropy, 1 << 26, cores=cores)


BENCHES = {
    "small_cnn": lambda cores: bench_of("small_cnn", cores=cores),
    "resnet18": lambda cores: bench_of("resnet18", cores=cores),
    "not known": lambda cores: own_bench(nn.Sequential(nn.Flatten(), nn.Linear(1024, 2)), cores),
    "draws when bright": lambda cores: own_bench(DrawsWhenBright(), cores),
}


@pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")
@pytest.mark.parametrize("name", family(BENCHES, keep=["small_cnn", "not known", "draws when bright"]))
def test_no_bit_of_a_gradient_depends_on_the_number_of_cores(name):
    patients = patients_with([1, 2, 1, 3, 1, 1])
    known: dict[tuple[float, int], np.ndarray] = {}
    for cores in (1, 2, 5):
        bench = BENCHES[name](cores)
        assert len(bench.copies) == (cores if cores > 1 else 0)
        for scale in (1.0, 2.0):  # the first time the network is studied, the second time copies take part
            for patient, row in rows(bench, patients, list(range(PATIENTS)), scale).items():
                np.testing.assert_array_equal(row, known.setdefault((scale, patient), row))
        assert bool(bench.copies) == (cores > 1 and name != "draws when bright")


@pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")
@pytest.mark.parametrize("name", ["not known", "draws when bright"])
def test_one_patient_makes_a_network_known_and_the_others_take_all_cores(name, monkeypatch):
    """Of the first window as well."""
    side_by_side = []

    def counted(copies, function, items):
        side_by_side.append(len(items))
        return spread(copies, function, items)

    monkeypatch.setattr(workbench, "spread", counted)
    rows(BENCHES[name](2), patients_with([1, 2, 1, 3, 1, 1]), list(range(PATIENTS)))
    assert side_by_side == [PATIENTS - 1]


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("name", ["small_cnn", "not known"])
def test_every_patient_has_a_gradient_however_little_memory_there_is(name, cores, monkeypatch):
    """A window of no patient would end the sample: a sum of nobody, and noise alone in the upload."""
    patients = patients_with([1, 2, 1, 3, 1, 1])
    known = rows(BENCHES[name](1), patients, list(range(PATIENTS)))
    for module in (alone, slotted):
        monkeypatch.setattr(module, "ROW_BYTES", 1)
    for patient, row in rows(BENCHES[name](cores), patients, list(range(PATIENTS))).items():
        np.testing.assert_array_equal(row, known[patient])


@pytest.mark.parametrize("name", ["small_cnn", "not known"])
def test_a_callers_autocast_changes_no_bit_whoever_else_is_there(name):
    """It holds in the caller's thread, where a patient who is there alone is computed."""
    bench, patients = BENCHES[name](2), patients_with([1, 2, 1, 3, 1, 1])
    everyone = [rows(bench, patients, list(range(PATIENTS))) for _ in range(2)][1]
    with torch.autocast("cpu"):
        for chosen in ([2], [0, 1, 2]):
            np.testing.assert_array_equal(rows(bench, patients, chosen)[2], everyone[2])


def test_products_stay_in_single_precision_whoever_else_is_there(monkeypatch):
    seen: list[str] = []
    bench, patients = BENCHES["not known"](2), patients_with([1, 2, 1, 3, 1, 1])
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]

    def loss(output, labels):
        seen.append(matmul.fp32_precision)
        return cross_entropy(output, labels)

    monkeypatch.setattr(bench, "_loss", loss)
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        for chosen in ([2], [0, 1, 2]):
            rows(bench, patients, chosen)
    finally:
        matmul.fp32_precision = before
    assert set(seen) == {"ieee"}


def test_a_draw_in_a_worker_is_seen_though_another_puts_the_state_back():
    before = torch.get_rng_state()
    entered, drawn = threading.Event(), threading.Event()

    def watch_or_draw(_, is_watching):
        if is_watching:
            with drawing(None, torch.device("cpu")):
                entered.set()
                assert drawn.wait(30)
        else:
            assert entered.wait(30)
            torch.rand(1)
            drawn.set()

    with pytest.raises(DrawsInWorker):
        spread([1, 2], watch_or_draw, [True, False])
    assert torch.equal(torch.get_rng_state(), before)


def test_kept_inputs_of_a_frozen_network_do_not_depend_on_the_other_pictures():
    bench = bench_of("squeezenet", train="head")
    assert bench.kept_inputs is not None
    for row in (0, 7):
        alone = Workbench(bench.network, bench._pixels[row : row + 1], cross_entropy, 1 << 26)
        assert alone.kept_inputs is not None
        assert torch.equal(alone.kept_inputs[0], bench.kept_inputs[row])


class Tied(nn.Module):
    """One large matrix used twice by layers, and once more by a function; another used once; one never."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(400, 400)
        self.same = nn.Linear(400, 400)
        self.same.weight = self.one.weight
        self.last = nn.Linear(400, 300, bias=False)
        self.bare = nn.Linear(300, 500)
        self.unused = nn.Linear(400, 400)
        self.head = nn.Linear(500, 2)

    def forward(self, x):
        x = x.flatten(1)
        x = torch.tanh(self.same(torch.relu(self.one(x)))) + nn.functional.linear(x, self.one.weight)
        return self.head(torch.tanh(self.bare(self.last(x))))


@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("at_once", [1, 1 << 30])
def test_the_gradient_is_that_of_the_mean_loss(pictures, at_once):
    torch.manual_seed(0)
    model = Tied().double()
    inputs, labels = torch.randn(pictures, 1, 20, 20, dtype=torch.float64), torch.arange(pictures) % 2
    known = patient_gradients(
        model, cross_entropy, PatientBatch(inputs, labels, torch.zeros(pictures, dtype=torch.int64), 1)
    )[0]
    got = isolated_gradient(model, Layout.of(model), cross_entropy, inputs, labels, memory_bytes=at_once)
    torch.testing.assert_close(got, known, rtol=1e-12, atol=1e-15)


def test_a_patient_without_pictures_has_a_gradient_of_zero():
    model = nn.Linear(3, 2)
    nothing = isolated_gradient(
        model, Layout.of(model), cross_entropy, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    )
    assert nothing.tolist() == [0.0] * 8


def test_dropout_masks_follow_from_a_patients_place_and_the_seed():
    network = Network("d", Normalise(), nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1024, 2)), False)
    bench = Workbench(network, bench_of("linear")._pixels, cross_entropy, 1 << 26)
    bench._slotted = Slotted(network, cross_entropy, bench._pixels, None, 1 << 26)
    bench._slotted.count = 0  # as for a large one
    patients = patients_with([1] * PATIENTS)
    everyone = rows(bench, patients, list(range(PATIENTS)))
    np.testing.assert_array_equal(rows(bench, patients, [3])[3], everyone[3])
    masks = np.array([everyone[patient].reshape(-1)[:1024] != 0 for patient in range(PATIENTS)])
    assert (masks[0] != masks[1]).any()
    other = next(iter(bench.patient_gradients(bench.initial_weights, Sample(patients, np.array([3])), 99)))
    assert (other != everyone[3]).any()


@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_computes_and_the_number_is_put_back(threads, monkeypatch):
    before, seen = torch.get_num_threads(), []
    bench, patients = bench_of("linear"), patients_with([1, 2, 1])

    def loss(output, labels):
        seen.append(torch.get_num_threads())
        return cross_entropy(output, labels)

    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(bench, "_loss", loss)
    torch.set_num_threads(threads)
    try:
        for _ in bench.patient_gradients(bench.initial_weights, Sample(patients, np.arange(3)), 3):
            assert torch.get_num_threads() == threads, "who reads the gradients has all of them"
        monkeypatch.setattr(bench._slotted, "_loss", broken)
        with pytest.raises(RuntimeError, match="broken"):
            list(bench.patient_gradients(bench.initial_weights, Sample(patients, np.arange(3)), 3))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
