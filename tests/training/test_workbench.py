import math

import numpy as np
import pytest
import torch
from tests.names import names
from tests.plans import gradients
from torch import nn

from wardround.images.patients import ImageRef, Patient
from wardround.models.network import Network, Normalise
from wardround.per_patient.anatomy import Independence
from wardround.privacy.plans.kinds import UNCLIPPED, NotPrivate, PublicSize
from wardround.randomness import Randomness
from wardround.training.local import LocalRun, local_steps
from wardround.training.losses import cross_entropy
from wardround.training.patients import Sample, TrainingPatients, training_patients
from wardround.training.processes import can_fork
from wardround.training.workbench import Workbench
from wardround.types import PatientId
from wardround.work import LocalSteps


def bench_and_patients(*, encode_once=False, num_pictures=9, pictures_at_once=None, monkeypatch=None, between=()):
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (num_pictures, 1, 3, 5), dtype=np.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(
            "linear", Normalise(), nn.Sequential(nn.Flatten(), *between, nn.Linear(15, 3)), encode_once
        )
    if pictures_at_once is not None:
        monkeypatch.setattr("wardround.training.workbench._PICTURES_AT_ONCE", pictures_at_once)
    bench = Workbench(network, pixels, cross_entropy, 1 << 20)
    labels = generator.integers(0, 3, num_pictures)
    starts = np.array([0, 2, 3, 6, num_pictures])
    return bench, TrainingPatients(np.arange(num_pictures), labels, starts, names(4))


OFTEN_NONE = NotPrivate(UNCLIPPED, 0.4, 3, PublicSize(4), 1)
"""A draw of four patients."""


def everyone(patients):
    return Sample(patients, np.arange(len(patients)))


def test_pictures_of_some_patients_keep_their_patient_together():
    _, patients = bench_and_patients()
    drawn = patients.pictures_of(np.array([2, 0]))
    assert drawn.rows.tolist() == [3, 4, 5, 0, 1]
    assert drawn.labels.tolist() == patients.labels[[3, 4, 5, 0, 1]].tolist()
    assert drawn.patient.tolist() == [0, 0, 0, 1, 1]
    keys = patients.keys.tolist()
    assert drawn.keys.tolist() == [keys[2], keys[2] + 1, keys[2] + 2, keys[0], keys[0] + 1]


def test_a_patient_keeps_at_most_the_agreed_number_of_pictures_spread_over_all():
    images = tuple(ImageRef(f"{i}.png", i % 2, i, None, "") for i in range(5))
    patient = Patient(PatientId("p"), images)
    assert training_patients([patient], 1).rows.tolist() == [2]
    assert training_patients([patient], 3).rows.tolist() == [0, 2, 4]
    assert training_patients([patient], 5).rows.tolist() == [0, 1, 2, 3, 4]
    assert training_patients([patient], None).rows.tolist() == [0, 1, 2, 3, 4]
    assert len(training_patients([], 3)) == 0


@pytest.mark.parametrize("pictures_at_once", [1, 4, 512])
def test_the_plain_sum_and_the_infinitely_clipped_sum_are_the_same_gradient(monkeypatch, pictures_at_once):
    bench, patients = bench_and_patients(pictures_at_once=pictures_at_once, monkeypatch=monkeypatch)
    [plain] = bench.gradient_sums(bench.initial_weights, [everyone(patients)], math.inf, 0)
    [clipped] = bench.gradient_sums(bench.initial_weights, [everyone(patients)], 1e6, 0)
    assert torch.allclose(plain.vector, clipped.vector, rtol=1e-5, atol=1e-7)
    assert plain.sensitivity == math.inf


def test_a_further_step_walks_over_no_modules_and_one_after_an_evaluation_trains_again(monkeypatch):
    bench, patients = bench_and_patients()
    network, walks = bench.network.trained, []
    [first] = bench.gradient_sums(bench.initial_weights, [everyone(patients)], math.inf, 0)
    walk = nn.Module.named_modules

    def counted(module, *arguments, **options):
        walks.append(module)
        return walk(module, *arguments, **options)

    monkeypatch.setattr(nn.Module, "named_modules", counted)
    [again] = bench.gradient_sums(bench.initial_weights.copy(), [everyone(patients)], math.inf, 0)
    assert not walks
    assert torch.equal(first.vector, again.vector)
    bench.probabilities(bench.initial_weights, patients.rows)
    assert not network[1].training
    bench.gradient_sums(bench.initial_weights, [everyone(patients)], math.inf, 0)
    assert network[1].training


def test_encoding_once_changes_nothing():
    results = []
    for encode_once in (False, True):
        bench, patients = bench_and_patients(encode_once=encode_once)
        [clipped] = bench.gradient_sums(bench.initial_weights, [everyone(patients)], 0.5, 0)
        results.append((clipped.vector, bench.probabilities(bench.initial_weights, patients.rows)))
    assert torch.allclose(results[0][0].double(), results[1][0].double(), rtol=1e-5, atol=1e-7)  # a matrix product
    assert np.array_equal(results[0][1], results[1][1])


def test_a_hospital_with_nobody_in_its_sample_gets_zeros_beside_the_others():
    bench, patients = bench_and_patients()
    nobody = Sample(patients, np.array([], dtype=np.int64))
    first, second, third = bench.gradient_sums(bench.initial_weights, [nobody, everyone(patients), nobody], 0.5, 0)
    assert not first.vector.any()
    assert second.vector.any()
    assert not third.vector.any()


def test_weights_of_one_call_do_not_leak_into_the_next():
    bench, patients = bench_and_patients()
    before = bench.probabilities(bench.initial_weights, patients.rows)
    bench.probabilities(bench.initial_weights + 1.0, patients.rows)
    assert np.array_equal(bench.probabilities(bench.initial_weights, patients.rows), before)


def test_local_steps_without_privacy_are_gradient_descent():
    bench, patients = bench_and_patients()
    part = NotPrivate(UNCLIPPED, 1.0, 3, PublicSize(4), 1)
    streams = Randomness(0).stream("a"), Randomness(0).stream("b")
    steps = LocalSteps(steps=3, learning_rate=0.3, momentum=0.5, denominator=4.0)
    [(_, ours, _)] = local_steps(bench, part, [LocalRun(bench.initial_weights, patients, steps, *streams)])

    layer = nn.Linear(15, 3)
    weights = torch.from_numpy(bench.initial_weights.copy())
    layer.load_state_dict({"weight": weights[:45].view(3, 15), "bias": weights[45:]})
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3, momentum=0.5)
    inputs = Normalise()(torch.from_numpy(bench._pixels)).flatten(1)
    counts = torch.repeat_interleave(torch.from_numpy(patients.counts), torch.from_numpy(patients.counts))
    for _ in range(3):
        optimizer.zero_grad()
        losses = cross_entropy(layer(inputs), torch.from_numpy(patients.labels))
        ((losses / counts).sum() / 4.0).backward()
        optimizer.step()
    expected = torch.cat([p.detach().reshape(-1) for p in layer.parameters()]).numpy()
    assert np.allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_probabilities_of_each_picture_sum_to_one():
    bench, patients = bench_and_patients()
    scores = bench.probabilities(bench.initial_weights, patients.rows)
    assert scores.shape == (9, 3)
    assert np.allclose(scores.sum(axis=1), 1)


def test_an_answer_that_is_kept_is_of_the_same_weights_and_pictures(monkeypatch):
    bench, patients = bench_and_patients()
    weights, rows = bench.initial_weights.copy(), patients.rows.copy()
    first = bench.probabilities(weights, rows)
    with monkeypatch.context() as patched:
        patched.setattr(bench, "_probabilities", lambda *_: pytest.fail("it was asked before"))
        bench.probabilities(weights, rows)[:] = 0  # what is kept is not the caller's
        assert np.array_equal(bench.probabilities(weights.copy(), rows), first)
    rows[0] = rows[-1]
    others = bench.probabilities(weights, rows)
    assert np.array_equal(others[0], first[-1])
    moved = weights.copy()
    moved[-1] += 1
    assert not np.array_equal(bench.probabilities(moved, rows), others)
    assert not np.array_equal(bench.probabilities((moved, weights), rows), others)


def after(bench, part, runs, **options):
    """Weights and velocity of each hospital, in the order asked."""
    found = {place: rest for place, *rest in local_steps(bench, part, runs, **options)}
    return [found[place] for place in range(len(runs))]


CLASS_WEIGHTS = [None, (0.5, 1.0, 2.0)]


def hospitals_of(bench, patients, class_weights):
    few = TrainingPatients(patients.rows[:3], patients.labels[:3], patients.starts[:3], patients.names[:2])
    nobody = TrainingPatients(patients.rows[:0], patients.labels[:0], patients.starts[:1], patients.names[:0])
    for number, (own, steps) in enumerate([(patients, 3), (few, 5), (nobody, 3), (patients, 5)]):
        streams = Randomness(0).stream("sampling", number), Randomness(0).stream("noise", number)
        start = bench.initial_weights + np.float32(number)
        how = LocalSteps(steps, 0.3, 0.5, 2.0, proximal=0.1, keep_velocity=True, class_weights=class_weights)
        yield LocalRun(start, own, how, *streams)


@pytest.mark.parametrize("class_weights", CLASS_WEIGHTS)
def test_hospitals_that_share_passes_take_the_steps_that_each_takes_alone(monkeypatch, class_weights):
    bench, patients = bench_and_patients(encode_once=False)
    monkeypatch.setattr(bench, "_independence", Independence.CHECKED)
    monkeypatch.setattr(bench, "_head", None)
    alone = [after(bench, OFTEN_NONE, [own])[0] for own in hospitals_of(bench, patients, class_weights)]
    monkeypatch.setattr(bench, "batch_sums", lambda *_: pytest.fail("it is one pass"))
    runs = list(hospitals_of(bench, patients, class_weights))
    for together, one in zip(after(bench, OFTEN_NONE, runs, may_round=True), alone, strict=True):
        for ours, theirs in zip(together, one, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def _nothing(bench, item):
    return item


OFTEN_NOISED = gradients(sampling_prob=0.4)


@pytest.mark.skipif(not can_fork(), reason="this system does not fork")
@pytest.mark.parametrize("class_weights", CLASS_WEIGHTS)
@pytest.mark.parametrize("layer", [nn.Tanh, nn.Dropout])
@pytest.mark.parametrize("part", [OFTEN_NONE, OFTEN_NOISED], ids=["open", "private"])
def test_hospitals_on_two_cores_take_the_very_steps_that_each_takes_alone(monkeypatch, part, class_weights, layer):
    bench, patients = bench_and_patients(between=[nn.Linear(15, 15), layer()])
    monkeypatch.setattr(bench, "cores", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one_by_one = list(hospitals_of(bench, patients, class_weights))
    alone = [after(bench, part, [own])[0] for own in one_by_one]
    state = torch.get_rng_state()
    together = list(hospitals_of(bench, patients, class_weights))
    list(bench.processes.each(_nothing, [0, 1], bench))  # forked; this one has no step to take
    monkeypatch.setattr(bench, "gradient_sums", lambda *_: pytest.fail("it is for other processes"))
    for ours, theirs in zip(after(bench, part, together), alone, strict=True):
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])
    assert torch.equal(torch.get_rng_state(), state)
    noise = np.zeros((2, 3))
    for ours, theirs in zip(together, one_by_one, strict=True):  # what is drawn next is what would be
        for stream in (ours.noise, theirs.noise):
            stream.add_normal(noise[int(stream is theirs.noise)], 1.0)
        assert np.array_equal(*noise)
        assert ours.sampling.seed() == theirs.sampling.seed()


def test_one_core_has_no_copies_and_no_processes(monkeypatch):
    single, _ = bench_and_patients()
    monkeypatch.setattr(single, "cores", 1)
    assert single.copies == []
    assert single.processes is None


def has_kept(bench, item):
    return "_kept" in vars(bench._batching)


@pytest.mark.skipif(not can_fork(), reason="this system does not fork")
def test_inputs_are_kept_once_for_all_processes(monkeypatch):
    bench, _ = bench_and_patients()
    monkeypatch.setattr(bench, "cores", 2)
    assert dict(bench.processes.each(has_kept, [0, 1], bench)) == {0: True, 1: True}


def test_a_machine_with_a_gpu_has_no_processes(monkeypatch):
    """The first backward pass starts a thread for the GPU, after which torch refuses passes in copies."""
    bench, _ = bench_and_patients()
    monkeypatch.setattr(bench, "cores", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bench.processes is None


@pytest.mark.parametrize("most", [9 * 15 * 4, 9 * 15 * 4 - 1])
def test_inputs_are_kept_by_the_size_of_their_encoding(monkeypatch, most):
    monkeypatch.setattr("wardround.training.batching._KEPT_BYTES", most)
    bench, _ = bench_and_patients()
    assert (bench._batching._kept is not None) == (most == 9 * 15 * 4)
