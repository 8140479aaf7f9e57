"""Dropout in the steps of a hospital: a patient who was never there changes no other patient's masks."""

import math

import numpy as np
import pytest
import torch
from tests.names import names
from torch import nn

from wardround.models.network import Network, Normalise, Parts
from wardround.models.stages import staged
from wardround.training.losses import cross_entropy
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.workbench import Workbench

COUNTS, CLIP = [2, 1, 3, 1, 1, 2, 1, 1, 4, 1, 1, 1], 0.01
SIZE = 16


def hospital(*, first=0, known=True, at_once=None, monkeypatch=None):
    """A hospital that never had the patients before the first: their rows are not in its cache either."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 64), nn.Dropout(0.5), nn.ReLU(), nn.Linear(64, 2))
    parts = Parts(Normalise(), body, "4", False)
    network = staged("d", parts, "all") if known else Network("d", Normalise(), body, False)
    starts = np.cumsum([0, *COUNTS])
    pixels = np.full((starts[-1], 1, SIZE, SIZE), 255, dtype=np.uint8)  # all alike, so that one slot has them all
    labels = np.arange(starts[-1]) % 2
    gone = starts[first]
    patients = TrainingPatients(
        np.arange(starts[-1] - gone), labels[gone:], starts[first:] - gone, names(len(COUNTS))[first:]
    )
    if at_once is not None:
        monkeypatch.setattr("wardround.training.workbench._PICTURES_AT_ONCE", at_once)
    return Workbench(network, pixels[gone:], cross_entropy, 1 << 26), patients


def summed(at, norm, seed=7, chosen=None):
    bench, patients = at
    chosen = np.arange(len(patients)) if chosen is None else chosen
    [found] = bench.gradient_sums(bench.initial_weights, [Sample(patients, chosen)], norm, seed)
    return found.vector.double()


@pytest.mark.parametrize("at_once", [5, 512])
@pytest.mark.parametrize("known", [True, False])
def test_a_patient_moves_the_sum_by_the_clip(known, at_once, monkeypatch):
    """With masks by the place in the batch, and the number of the batch, the sum moved by several clips."""
    options = {"known": known, "at_once": at_once, "monkeypatch": monkeypatch}
    everyone, others = (summed(hospital(first=first, **options), CLIP) for first in (0, 1))
    assert (everyone - others).norm() <= CLIP
    assert (everyone - summed(hospital(**options), CLIP, seed=8)).norm() > CLIP


@pytest.mark.parametrize("at_once", [5, 512])
def test_a_patient_moves_the_unclipped_sum_by_their_own_gradient(at_once, monkeypatch):
    bench, patients = hospital(at_once=at_once, monkeypatch=monkeypatch)
    own = summed((bench, patients), math.inf, chosen=np.array([0]))
    others = summed(hospital(first=1), math.inf)
    torch.testing.assert_close(summed((bench, patients), math.inf) - own, others, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("known", [True, False])
def test_no_bit_of_a_gradient_for_masked_sums_changes(known):
    """In batches of a fixed shape, and alone: networks that the catalogue did not build never share a batch."""
    found = []
    for first in (0, 2):
        bench, patients = hospital(first=first, known=known)
        sample = Sample(patients, np.arange(len(patients)))
        found.append(list(bench.patient_gradients(bench.initial_weights, sample, 7)))
        assert (bench._slotted is not None) == known
    for mine, again in zip(found[0][2:], found[1], strict=True):
        np.testing.assert_array_equal(mine, again)
    assert len({row.tobytes() for row in found[0]}) == len(COUNTS)


class Mixes(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(SIZE**2, 2)

    def forward(self, x):
        x = x.flatten(1)
        return self.inner(x - x.mean(0) if len(x) > 8 else x)


def test_a_network_that_the_catalogue_did_not_build_never_sees_two_pictures():
    """Its pictures mix in batches of more than eight, where each would get the gradient zero."""
    bench, patients = hospital()
    strange = Workbench(Network("strange", Normalise(), Mixes(), False), bench._pixels, cross_entropy, 1 << 26)
    for k in range(2):
        alone = sum(summed((strange, patients), CLIP, chosen=np.array([i])) for i in range(k, len(patients)))
        together = summed((strange, patients), CLIP, chosen=np.arange(k, len(patients)))
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-7)
        assert alone.norm() > CLIP / 2
