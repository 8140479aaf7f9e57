"""Batches that are summed in other processes give the bits of one after the other, each hospital its own patients."""

import os
import signal

import numpy as np
import pytest
import torch
from tests.cases import family
from tests.training.test_alone import BENCHES, own_bench, patients_with
from torch import nn

from wardround.per_patient.clipping_rules import Flat
from wardround.training.patients import Sample
from wardround.training.processes import can_fork

pytestmark = [
    pytest.mark.skipif(not can_fork(), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath"),
]

PATIENTS = patients_with([1, 2, 1, 3, 1, 1])
HOSPITALS: tuple[list[int], ...] = ([0, 2, 3], [], [1, 4, 5])
ALL = {
    **BENCHES,
    "dropout": lambda cores: own_bench(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1024, 2)), cores),
}


def summed(name, cores, clip, monkeypatch, hospitals=HOSPITALS):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("wardround.training.workbench._PICTURES_AT_ONCE", 3)
    bench = ALL[name](cores)
    samples = [Sample(PATIENTS, np.array(chosen, dtype=np.int64)) for chosen in hospitals]
    return bench, lambda scale=1.0: bench.gradient_sums(
        bench.initial_weights * np.float32(scale), samples, clip, 7, Flat(), None
    )


@pytest.mark.parametrize("clip", [0.5, np.inf], ids=["clipped", "open"])
@pytest.mark.parametrize("name", family(ALL, keep=["small_cnn", "draws when bright", "dropout"]))
def test_no_bit_of_a_sum_depends_on_the_number_of_processes(name, clip, monkeypatch):
    known: dict[float, list[tuple[torch.Tensor, int]]] = {}
    for cores in (1, 2, 5):
        bench, ask = summed(name, cores, clip, monkeypatch)
        for scale in (1.0, 2.0):
            found = [(sums.vector, sums.within) for sums in ask(scale)]
            for ours, theirs in zip(found, known.setdefault(scale, found), strict=True):
                assert torch.equal(ours[0], theirs[0])
                assert ours[1] == theirs[1]
        taken = bench.batch_processes
        assert (taken is None) == (cores == 1 or name == "resnet18"), "of small networks"
        assert taken is None or len(taken._all) == min(cores, 4), "a batch each"
    assert not known[1.0][1][0].any(), "nobody is in that sample"


def test_a_patient_moves_the_sum_of_their_own_hospital_only(monkeypatch):
    _, ask = summed("small_cnn", 2, 0.5, monkeypatch)
    _, without = summed("small_cnn", 2, 0.5, monkeypatch, ([0, 2, 3], [], [1, 5]))
    first, none, last = (
        float((with_all.vector.double() - fewer.vector).norm())
        for with_all, fewer in zip(ask(), without(), strict=True)
    )
    assert first <= 1e-6  # other batches
    assert none == 0
    assert 0 < last <= 0.5 + 1e-6


def test_a_batch_whose_process_was_killed_is_summed_here(monkeypatch):
    bench, ask = summed("small_cnn", 2, 0.5, monkeypatch)
    before = [sums.vector for sums in ask()]
    os.kill(bench.processes._all[0].pid, signal.SIGKILL)
    for _ in range(2):
        assert all(torch.equal(sums.vector, known) for sums, known in zip(ask(), before, strict=True))
