"""A sum of rows that is shared out to processes is the sum of one, and one patient moves it by their own row."""

import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import family
from tests.errors import raises_code
from tests.hospital.deployed import finished, make_folders
from tests.hospital.test_desk import ONE, accepted, asked
from tests.names import names
from tests.training.test_alone import BENCHES, bench_of, patients_with

from wardround.errors import PrivacyError
from wardround.federation.messages import Received
from wardround.hospital import rounded
from wardround.hospital.desk import Desk
from wardround.hospital.rounded import Rounding, rounded_sum
from wardround.per_patient.clipping_rules import PerLayer
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.plans.kinds import Clip
from wardround.secure_aggregation.integers.grid import Grid
from wardround.secure_aggregation.round.witness import WITNESSES
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.processes import Processes, can_fork

COUNTS = [1, 2, 1, 3, 1, 1]
EVERYONE = np.arange(len(COUNTS))
CLIPS = {
    "flat": (Clip(0.5), None),
    "per layer": (Clip(0.5, PerLayer()), None),
    "adaptive": (Clip(0.5, AdaptiveNorm()), 0.3),
}


def sum_of(bench, chosen=EVERYONE, clip="flat", scale=1.0):
    kind, asked = CLIPS[clip]
    dimension = bench.initial_weights.size + (asked is not None) + WITNESSES
    rounding = Rounding(
        Grid(kind.norm, 1 << 20, dimension), kind, asked, bench.initial_weights * np.float32(scale)
    )
    return rounded_sum(bench, rounding, Sample(patients_with(COUNTS), np.array(chosen, dtype=np.int64)), 3)


@pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")
@pytest.mark.parametrize("name", family(BENCHES, keep=["small_cnn", "draws when bright"]))
def test_no_bit_depends_on_the_number_of_processes(name):
    known: dict[float, np.ndarray] = {}
    for cores in (1, 2, 5):
        bench = BENCHES[name](cores)
        for scale in (1.0, 2.0):
            found = sum_of(bench, scale=scale)
            assert np.abs(found).max() > 0
            np.testing.assert_array_equal(found, known.setdefault(scale, found))
        assert (bench.processes is not None) == (cores > 1 and can_fork())


@pytest.mark.parametrize("clip", CLIPS)
def test_one_patient_moves_the_sum_by_their_own_row_however_the_others_are_shared_out(clip):
    bench = bench_of("small_cnn", cores=2)
    everyone = sum_of(bench, clip=clip)
    for patient in EVERYONE:
        row = sum_of(bench, [patient], clip)
        assert 0 < int((row**2).sum()) <= (1 << 20) ** 2
        np.testing.assert_array_equal(everyone - sum_of(bench, np.delete(EVERYONE, patient), clip), row)


@pytest.mark.skipif(not can_fork(), reason="this system does not fork")
def test_what_a_killed_process_had_is_summed_here():
    bench = bench_of("small_cnn", cores=2)
    before = sum_of(bench)
    assert bench.processes is not None
    os.kill(bench.processes._all[0].pid, signal.SIGKILL)
    np.testing.assert_array_equal(sum_of(bench), before)
    np.testing.assert_array_equal(sum_of(bench), before)


@pytest.mark.skipif(not can_fork(), reason="this system does not fork")
def test_the_processes_of_a_finished_study_are_ended(tmp_path):
    """An agent keeps studies open, and a process keeps the memory of its steps."""
    north = make_folders(tmp_path)[0]["north"]
    accepted(north, ONE)
    with Desk(north) as desk:
        bench = desk.open(ONE.digest).agent.workbench
        busy = vars(bench)["processes"] = Processes(2, 1 << 20)
        assert dict(busy.each(_sum, [1, 2], 3)) == {0: 4, 1: 5}
        assert busy._all
        assert asked(desk, ONE, finished(ONE, bench.network, bench.initial_weights)) == Received()
        assert not busy._all


def _sum(context, item):
    return context + item


def test_nobody_adds_nothing():
    assert not sum_of(bench_of("small_cnn", cores=2), []).any()


def test_a_row_that_reaches_into_the_witnesses_is_refused_from_a_process():
    bench = bench_of("small_cnn", cores=2)
    rounding = Rounding(Grid(0.5, 1 << 20, bench.initial_weights.size), Clip(0.5), None, bench.initial_weights)
    with raises_code(PrivacyError, "privacy-witnesses"):
        rounded_sum(bench, rounding, Sample(patients_with(COUNTS), EVERYONE), 3)


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 6), st.data())
def test_each_patient_is_in_one_part_and_no_part_is_larger_than_its_share_and_one_patient(counts, most, data):
    chosen = np.array(data.draw(st.lists(st.sampled_from(range(len(counts))), unique=True)) if counts else [], int)
    starts = np.cumsum([0, *counts])
    patients = TrainingPatients(np.arange(starts[-1]), np.zeros(starts[-1], int), starts, names(len(counts)))
    parts = rounded._parts(Sample(patients, chosen), most)
    assert len(parts) <= max(1, most)
    np.testing.assert_array_equal(np.concatenate([part.chosen for part in parts]), chosen)
    sizes = [int(patients.counts[part.chosen].sum()) for part in parts]
    assert max(sizes) <= sum(sizes) / most + max([counts[each] for each in chosen], default=0)
