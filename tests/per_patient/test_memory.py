"""What a step holds on to when it is over: nothing."""

import ctypes
import gc
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import accumulate
from mmap import PAGESIZE
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from wardround.per_patient import process
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import clipped_sum, per_patient_gradients
from wardround.per_patient.engine import take
from wardround.per_patient.process import in_the_heap, keep_all_in_heap, outside_the_heap


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


@pytest.fixture(scope="module")
def _few_objects() -> Iterator[None]:
    """Leaves what is there already out of what the collector lists: that is a million objects in a whole run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _bytes_of_tensors() -> int:
    gc.collect()
    return sum(each.numel() * each.element_size() for each in gc.get_objects() if issubclass(type(each), Tensor))


@pytest.mark.thorough
@pytest.mark.usefixtures("_few_objects")
@pytest.mark.parametrize("function", [clipped_sum, per_patient_gradients])
def test_no_tensor_outlives_a_step(function: object) -> None:
    """A tape that holds inputs of layers and is held by their nodes would be a ring that nothing collects."""
    model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2))
    batch = PatientBatch(torch.randn(16, 400), torch.randint(2, (16,)), torch.arange(16), 16)
    arguments = {"clipping_norm": 1.0} if function is clipped_sum else {}
    function(model, _loss, batch, **arguments)  # type: ignore[operator]
    before = _bytes_of_tensors()
    for _ in range(3):
        function(model, _loss, batch, **arguments)  # type: ignore[operator]
    assert _bytes_of_tensors() == before


def _most_bytes(function: Callable[[], object]) -> int:
    """Returns the most bytes of tensors that a call holds at one time, less those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    changes: list[int] = [
        event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    return max(accumulate(changes))


_on_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim") or not Path("/proc/self/maps").exists(), reason="glibc on Linux"
)


@pytest.fixture
def _no_limits_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)


@_on_glibc
@pytest.mark.usefixtures("_no_limits_of_theirs")
def test_free_memory_goes_back_to_the_operating_system() -> None:
    """Memory below a block that is still held stays with the process until it is given back."""
    blocks = [torch.ones(10_000) for _ in range(2_000)]  # 80 MB in blocks too small for a mapping of their own
    pages = [_resident_pages()]
    del blocks[:-1]
    with outside_the_heap():
        pass
    pages.append(_resident_pages())
    assert (pages[0] - pages[1]) * PAGESIZE > 40_000_000


@_on_glibc
@pytest.mark.usefixtures("_no_limits_of_theirs")
def test_a_check_leaves_no_holes_in_the_heap() -> None:
    """Its large memory lies outside of the heap; that of a step lies in it, before and after."""
    with outside_the_heap():
        pass  # from the first time on the limits are those of a step
    for is_checking in (False, True, False):
        with outside_the_heap() if is_checking else nullcontext():
            assert _grows() is not is_checking


def test_memory_of_every_size_of_a_step_lies_in_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is mapped in a step, but in a check inside of it; before and after, 32 MB are."""
    limits: dict[int, int] = {}
    library = SimpleNamespace(mallopt=limits.__setitem__, malloc_trim=lambda pad: None)
    monkeypatch.setattr("wardround.per_patient.process._glibc", lambda: library)
    mapped_at_most = -4  # M_MMAP_MAX of malloc.h
    with in_the_heap():
        assert limits[mapped_at_most] == 0
        with outside_the_heap():
            assert limits[mapped_at_most] > 0
        assert limits[mapped_at_most] == 0
    assert limits[mapped_at_most] > 0


def test_a_process_that_only_takes_steps_checks_in_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside, every page would be cleared for each patient, and anew in the steps after the check."""
    calls: list[object] = []
    library = SimpleNamespace(mallopt=lambda *limit: calls.append(limit), malloc_trim=calls.append)
    monkeypatch.setattr("wardround.per_patient.process._glibc", lambda: library)
    for name in ("_mapped", "_keeps_all"):
        monkeypatch.setattr(f"wardround.per_patient.process.{name}", getattr(process, name))
    keep_all_in_heap()
    assert {(-4, 0), (-1, -1)} <= set(calls)  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    calls.clear()
    with outside_the_heap():
        pass
    assert not calls


def test_only_a_batch_that_is_checked_is_computed_outside_of_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that its step builds live on among whatever else lies there."""
    entered = []

    def counted() -> Any:
        entered.append(True)
        return nullcontext()

    monkeypatch.setattr("wardround.per_patient.microbatches.outside_the_heap", counted)
    monkeypatch.setattr("secrets.randbelow", lambda below: 1)  # no batch by chance
    model = nn.Linear(3, 2)
    for patients, so_far in ((4, 1), (4, 1), (8, 2), (4, 2)):
        batch = PatientBatch(
            torch.ones(patients, 3), torch.zeros(patients, dtype=torch.int64), torch.arange(patients), patients
        )
        clipped_sum(model, _loss, batch, clipping_norm=1.0)
        assert len(entered) == so_far


def test_a_microbatch_is_gone_before_the_next_one_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the second one's activations would lie beside the first one's, in twice the memory that was given."""
    tapes: list[weakref.ref[Any]] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        assert not any(tape() for tape in tapes)
        tape = take(*arguments, **options)
        tapes.append(weakref.ref(tape))
        return tape

    monkeypatch.setattr("wardround.per_patient.microbatches.take", watched)
    model, patients = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.arange(4)
    batch = PatientBatch(torch.ones(4, 8), torch.zeros(4, dtype=torch.int64), patients, 4)
    clipped_sum(model, _loss, batch, clipping_norm=1.0, memory_bytes=1)
    per_patient_gradients(model, _loss, batch, memory_bytes=1)
    assert len(tapes) == 8


def test_limits_in_the_environment_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library is not even asked for."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "33554432")
    monkeypatch.delattr("wardround.per_patient.process.ctypes.CDLL")
    with outside_the_heap(), in_the_heap():
        pass


def _grows() -> bool:
    """Returns whether the heap grows by 800 MB in blocks of 8 MB, of which no page is touched."""
    before = _end_of_heap()
    blocks = [torch.empty(2_000_000) for _ in range(100)]
    return bool(blocks) and _end_of_heap() > before


def _end_of_heap() -> int:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return max(int(line.split()[0].split("-")[1], 16) for line in lines if line.endswith("[heap]"))


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.thorough
def test_checking_a_large_network_needs_little_more_memory_than_training_it() -> None:
    """The first step studies the network and compares patients in company with the same ones alone."""
    model = nn.Sequential(nn.Linear(1500, 1500), nn.ReLU(), nn.Linear(1500, 2))  # 9 MB
    batch = PatientBatch(torch.randn(4, 1500), torch.randint(2, (4,)), torch.arange(4), 4)
    gradient_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    step = partial(clipped_sum, model, _loss, batch, clipping_norm=1.0)
    assert _most_bytes(step) < 4.5 * gradient_bytes
    assert _most_bytes(step) < 1.5 * gradient_bytes


@pytest.mark.thorough
@pytest.mark.parametrize(("pictures_each", "most"), [(1, 24), (2, 2)])
def test_gradients_of_patients_with_several_pictures_fit_into_the_budget(
    pictures_each: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms of single pictures need no gradient; of several, every picture's and its patient's are formed."""
    model = nn.Sequential(nn.Linear(1000, 1000), nn.Tanh(), nn.Linear(1000, 2))  # 4 MB
    patient = torch.arange(24 // pictures_each).repeat_interleave(pictures_each)
    batch = PatientBatch(torch.randn(24, 1000), torch.randint(2, (24,)), patient, 24 // pictures_each)
    whole = clipped_sum(model, _loss, batch, clipping_norm=0.1).vector

    seen: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append(len(arguments[3].inputs))
        return take(*arguments, **options)

    monkeypatch.setattr("wardround.per_patient.microbatches.take", counted)
    ours = clipped_sum(model, _loss, batch, clipping_norm=0.1, memory_bytes=20_000_000).vector
    assert max(seen) == most
    assert torch.allclose(ours.to(whole.dtype), whole, atol=1e-6)
