"""Memory that outlives a step: the result where it was asked for, nothing of an earlier batch, failures and threads."""

import copy
import functools
import math
import sys
import threading

import pytest
import torch
from tests.cases import family
from tests.per_patient.clipped import (
    NETWORKS,
    ONE_EACH,
    RULES,
    SLOW,
    UNEVEN,
    agrees,
    batch_of,
    built,
    changed,
    clipped_by_hand,
    every_network,
    every_rule,
    gradients_of,
    roomy,
    studied,
    with_a_slow_module,
)
from tests.per_patient.oracle import cross_entropy, parameter_sizes
from torch import nn

from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import ClippedSum, clipped_sum, clipped_sums_by_group
from wardround.per_patient.clipping_rules import Flat

pytestmark = pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")


# Memory for the result.


@every_rule
@every_network
@pytest.mark.parametrize("counts", [pytest.param(ONE_EACH, marks=pytest.mark.thorough), UNEVEN])
def test_the_result_is_put_where_it_was_asked_for(network, rule, counts):
    model, batch = studied(network), batch_of(network, counts)
    expected = clipped_sum(model, cross_entropy, batch, clipping_norm=0.5, clipping=rule)
    stale = torch.full_like(expected.vector, math.nan)
    ours = clipped_sum(model, cross_entropy, batch, clipping_norm=0.5, clipping=rule, out=stale)
    assert ours.vector.data_ptr() == stale.data_ptr()
    assert torch.equal(stale, expected.vector)
    assert (ours.sensitivity, ours.within) == (expected.sensitivity, expected.within)


@every_network
def test_sums_by_group_are_put_where_they_were_asked_for(network):
    model, batch, group = studied(network), batch_of(network, ONE_EACH), torch.tensor([2, 0, 0, 2])
    ask = functools.partial(clipped_sums_by_group, model, cross_entropy, batch, group, 4, clipping_norm=0.5)
    expected = ask()
    stale = torch.full((4, len(expected[0].vector)), math.nan, dtype=torch.float64)
    for number, (ours, known) in enumerate(zip(ask(out=stale), expected, strict=True)):
        assert ours.vector.data_ptr() == stale[number].data_ptr()
        assert torch.equal(stale[number], known.vector)


@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_for_the_result_changes_nothing_where_there_are_several_pieces(network, dtype):
    model, batch = studied(network, dtype), batch_of(network, UNEVEN, dtype=dtype)
    ask = functools.partial(clipped_sum, model, cross_entropy, batch, clipping_norm=0.5, memory_bytes=1)
    expected = ask().vector
    assert torch.equal(ask(out=torch.full_like(expected, math.nan, dtype=dtype)).vector, expected)


@pytest.mark.parametrize("patients", [0, 3])
def test_nobody_gives_zeros_in_the_memory_that_was_given(patients):
    model, batch = studied(roomy), batch_of(roomy, ())
    nobody = PatientBatch(batch.inputs, batch.labels, batch.patient, patients)
    stale = torch.full((sum(parameter_sizes(model).values()),), math.nan, dtype=torch.float64)
    ours = clipped_sum(model, cross_entropy, nobody, clipping_norm=0.5, out=stale)
    assert ours.vector.data_ptr() == stale.data_ptr()
    assert not stale.any()


def test_memory_of_another_shape_or_precision_is_refused():
    model, batch = studied(roomy), batch_of(roomy, ONE_EACH)
    size = sum(parameter_sizes(model).values())
    wrong = [
        torch.zeros(size - 1, dtype=torch.float64),
        torch.zeros(size + 1, dtype=torch.float64),
        torch.zeros(1, size, dtype=torch.float64),
        torch.zeros((), dtype=torch.float64),
        torch.zeros(size, dtype=torch.float32),
        torch.zeros(size, dtype=torch.int64),
    ]
    for out in wrong:
        with pytest.raises(ValueError, match="out must be"):
            clipped_sum(model, cross_entropy, batch, clipping_norm=0.5, out=out)
    group = torch.zeros(4, dtype=torch.int64)
    for groups in (1, 3):
        out = torch.zeros(groups, size, dtype=torch.float64)
        with pytest.raises(ValueError, match="out must be"):
            clipped_sums_by_group(model, cross_entropy, batch, group, 2, clipping_norm=0.5, out=out)


# Memory that outlives a step.


@every_network
@pytest.mark.parametrize("name", family(["flat", "size"], keep=["size"]))
def test_what_an_earlier_batch_left_behind_changes_nothing(network, name):
    model, rule, dtype = built(network, torch.float32), RULES[name], torch.float32
    steps = [(5, 1.0), (5, math.nan), (5, 1.0), (3, 1.0), (8, 1e30), (8, 1.0), (1, 1.0)]
    for seed, (patients, value) in enumerate(steps):
        batch = changed(batch_of(network, (1,) * patients, seed=seed, dtype=dtype), 0, value)
        ask = functools.partial(clipped_sum, loss=cross_entropy, batch=batch, clipping_norm=0.5, clipping=rule)
        ours, fresh = ask(model), ask(copy.deepcopy(studied(network, dtype)))
        assert torch.equal(ours.vector, fresh.vector)
        assert ours.within == fresh.within


def test_what_an_earlier_step_returned_is_not_overwritten_by_the_next():
    model = built(roomy)
    first = clipped_sum(model, cross_entropy, batch_of(roomy, ONE_EACH), clipping_norm=0.5).vector
    before = first.clone()
    clipped_sum(model, cross_entropy, batch_of(roomy, ONE_EACH, seed=2), clipping_norm=0.5)
    assert torch.equal(first, before)


@every_network
@pytest.mark.parametrize("memory_bytes", family([1, 1 << 30]))
def test_a_loss_that_fails_in_the_middle_does_not_spoil_the_next_call(network, memory_bytes):
    model, calls_left = built(network), [10**6]

    def breaks(logits, labels):
        calls_left[0] -= 1
        if calls_left[0] < 0:
            raise ArithmeticError("in the middle")
        return cross_entropy(logits, labels)

    ask = functools.partial(clipped_sum, model, breaks, clipping_norm=0.5, memory_bytes=memory_bytes)
    for counts in (ONE_EACH, UNEVEN):
        batch, gradients = batch_of(network, counts), gradients_of(network, counts)
        ask(batch)  # looked at
        state, switches = torch.random.get_rng_state(), [sorted(m.__dict__) for m in model.modules()]
        for calls in (0, 1) if memory_bytes == 1 else (0,):
            calls_left[0] = calls
            with pytest.raises(ArithmeticError, match="in the middle"):
                ask(batch_of(network, counts, seed=7))
            calls_left[0] = 10**6
            agrees(model, ask(batch).vector, clipped_by_hand(model, gradients, Flat(), 0.5))
        assert torch.equal(state, torch.random.get_rng_state())
        assert switches == [sorted(m.__dict__) for m in model.modules()]


@every_network
def test_a_network_that_fails_in_the_middle_does_not_spoil_the_next_call(network):
    model, batch, is_broken = built(network), batch_of(network, ONE_EACH), [False]

    def breaks(module, inputs):
        if is_broken[0]:
            raise ArithmeticError("in the middle")

    list(model.modules())[-1].register_forward_pre_hook(breaks)
    ask = functools.partial(clipped_sum, model, cross_entropy, batch, clipping_norm=0.5)
    first = ask().vector
    is_broken[0] = True
    with pytest.raises(ArithmeticError, match="in the middle"):
        ask()
    assert not any("forward" in vars(module) for module in model.modules())
    is_broken[0] = False
    assert torch.equal(ask().vector, first)


@every_network
def test_a_network_that_changes_its_precision_gets_other_memory(network):
    model, gradients = built(network, torch.float32), gradients_of(network, ONE_EACH)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-5), (torch.float32, 1e-4)):
        batch = batch_of(network, ONE_EACH, dtype=dtype)
        ours = clipped_sum(model.to(dtype), cross_entropy, batch, clipping_norm=0.5).vector
        assert ours.dtype is dtype
        agrees(model, ours, clipped_by_hand(model, gradients, Flat(), 0.5), tolerance)


@pytest.fixture
def often_interrupted():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_the_same_time(asks, rounds):
    """Every question asked again and again by a thread of its own: their answers, or what was raised."""
    start = threading.Barrier(len(asks))
    answers: list[list[ClippedSum | Exception]] = [[] for _ in asks]

    def run(ask, into):
        start.wait()
        try:
            into.extend(ask() for _ in range(rounds))
        except Exception as error:
            into.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(asks, answers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def in_two_threads(network):
    """Two threads ask one network for sums of different patients, and each gets its own."""
    model = built(network)
    batches = [batch_of(network, (1,) * patients, seed=patients) for patients in (4, 5)]
    asks = [functools.partial(clipped_sum, model, cross_entropy, b, clipping_norm=0.5) for b in batches]
    expected = [ask().vector for ask in asks]
    for known, answers in zip(expected, at_the_same_time(asks, rounds=8), strict=True):
        assert len(answers) == 8, answers
        for ours in answers:
            assert (ours.vector - known).norm() <= 1e-12 * known.norm()


@pytest.mark.parametrize("network", family(network for network in NETWORKS if network not in SLOW))
def test_two_threads_on_one_network_do_not_mix_their_patients(network, often_interrupted):
    in_two_threads(network)


def test_a_thread_that_asks_while_a_slow_module_runs_waits_for_its_parameters():
    model, batch = built(with_a_slow_module), batch_of(with_a_slow_module, (1, 2, 1))
    ask = functools.partial(clipped_sum, model, cross_entropy, batch, clipping_norm=0.5)
    known = ask().vector
    slow, answers = model[2], []
    threads: list[threading.Thread] = []
    forward = type(slow).forward

    def interrupted(module, inputs):
        if not threads and not isinstance(module.stretch, nn.Parameter):  # it runs with others in their place
            threads.append(threading.Thread(target=lambda: answers.append(ask().vector)))
            threads[0].start()
            threads[0].join(timeout=0.2)
        return forward(module, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(slow), "forward", interrupted)
        answers.append(ask().vector)
        threads[0].join()
    assert len(answers) == 2, "the slow path was taken, and both asked"
    assert all((ours - known).norm() <= 1e-12 * known.norm() for ours in answers)


def test_threads_leave_the_global_generator_as_it_was(often_interrupted):
    before = torch.random.get_rng_state()
    in_two_threads(with_a_slow_module)
    assert torch.equal(before, torch.random.get_rng_state())
