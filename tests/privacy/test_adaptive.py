import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests import plans
from tests.cases import family
from torch import Tensor, nn

from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import ClippedSum, clipped_sum
from wardround.per_patient.clipping_rules import Automatic, Flat, PerLayer, Split
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.plans.calibrate import calibrated, not_private
from wardround.privacy.plans.kinds import UNCLIPPED, Clip, PublicSize
from wardround.privacy.plans.wording import statement_of


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


ADAPTIVE, FLAT = Clip(2.0, AdaptiveNorm()), Clip(2.0)


def plan(clip):
    return plans.plan(plans.gradients(clip=clip, releases=10, size=PublicSize(100), noiser=ByCoordinator(2)))


def released(adaptive, inputs, labels, *, clipping_norm, unit):
    """What a hospital would let go of, before its noise."""
    torch.manual_seed(0)
    model = nn.Linear(inputs.shape[1], 3).double()
    batch = PatientBatch(inputs, labels, torch.arange(len(inputs)), len(inputs))
    clipped = clipped_sum(model, loss, batch, clipping_norm=adaptive.gradient_norm(clipping_norm))
    return adaptive.extended(clipped, len(inputs), clipping_norm, unit)


@pytest.mark.parametrize("clipping_norm", family([1.0, 0.01, 30.0]))
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_sum_and_count_together_move_by_at_most_the_unit_when_a_patient_joins(clipping_norm, share):
    """And they really move by that much for a gradient at the clip: the bound is tight."""
    adaptive, unit = AdaptiveNorm(share=share), 2.0
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(12, 5, generator=generator, dtype=torch.float64) * 10
    labels = torch.randint(3, (12,), generator=generator)
    whole = released(adaptive, inputs, labels, clipping_norm=clipping_norm, unit=unit)
    moves = []
    for left_out in range(12):
        keep = torch.arange(12) != left_out
        rest = released(adaptive, inputs[keep], labels[keep], clipping_norm=clipping_norm, unit=unit)
        moves.append(float((whole.vector - rest.vector).norm()))
    assert whole.sensitivity == unit
    assert max(moves) <= unit
    if clipping_norm < 1:
        assert max(moves) > 0.999 * unit


def test_the_split_of_the_noise_is_that_of_the_source():
    """z_delta^-2 + (2 sigma_b)^-2 = z^-2, with the noise of each part over its own sensitivity."""
    adaptive, noise_multiplier, clipping_norm = AdaptiveNorm(share=0.04), 1.3, 2.0
    std = noise_multiplier * clipping_norm
    of_gradient = std / adaptive.gradient_norm(clipping_norm)
    of_count = std / (clipping_norm * 2 * math.sqrt(adaptive.share))  # std of the number of patients
    assert of_gradient**-2 + (2 * of_count) ** -2 == pytest.approx(noise_multiplier**-2)


def test_what_is_separated_is_what_was_extended():
    adaptive = AdaptiveNorm()
    clipped = ClippedSum(torch.randn(7), adaptive.gradient_norm(0.5), within=30)
    whole = adaptive.extended(clipped, 40, 0.5, 2.0)
    gradient, following = adaptive.separated(whole.vector.numpy(), 40.0, 0.5, 2.0)
    assert np.allclose(gradient, clipped.vector.numpy(), rtol=1e-6)
    assert following == pytest.approx(0.5 * math.exp(-0.2 * (30 / 40 - 0.5)))


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_the_norm_goes_to_the_quantile_of_the_norms(quantile):
    adaptive, norms, clipping_norm = AdaptiveNorm(quantile), np.geomspace(0.01, 100, 1001), 1e-3
    for _ in range(300):
        within = int((norms <= adaptive.gradient_norm(clipping_norm)).sum())
        clipped = ClippedSum(torch.zeros(1, dtype=torch.float64), adaptive.gradient_norm(clipping_norm), within)
        vector = adaptive.extended(clipped, len(norms), clipping_norm, 1.0).vector.numpy()
        _, clipping_norm = adaptive.separated(vector, float(len(norms)), clipping_norm, 1.0)
    assert clipping_norm == pytest.approx(np.quantile(norms, quantile), rel=0.1)


def test_noise_however_large_moves_the_norm_by_one_step_at_most():
    adaptive = AdaptiveNorm()
    for count in (-1e30, 1e30):
        _, following = adaptive.separated(np.array([0.0, count], dtype=np.float32), 10.0, 1.0, 1.0)
        assert math.exp(-0.1001) <= following <= math.exp(0.1001)


@pytest.mark.thorough
def test_it_costs_exactly_what_a_flat_clip_costs():
    adaptive, flat = plan(ADAPTIVE), plan(FLAT)
    assert adaptive.epsilon == flat.epsilon
    noises = [plans.training_of(calibrated(made, 2.0)).noise for made in (adaptive, flat)]
    assert noises[0] == noises[1]


def test_a_sum_clipped_to_more_than_its_share_is_refused():
    with pytest.raises(PrivacyError, match="sensitivity"):
        ADAPTIVE.in_units(ClippedSum(torch.zeros(3), 1.0, 0), 4, 1.0)


@pytest.mark.parametrize("wrong", [None, 0.0, -1.0, math.inf, math.nan])
def test_a_round_must_ask_for_a_number_where_norms_adapt(wrong):
    assert not ADAPTIVE.accepts(wrong)
    assert ADAPTIVE.accepts(0.3)
    assert not FLAT.accepts(0.3)
    assert FLAT.accepts(None)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Flat(), "clipping_norm 2, on"),
        (PerLayer(), "equal share"),
        (PerLayer(Split.SIZE), "by size"),
        (Automatic(), "automatic"),
        (AdaptiveNorm(0.7), "0.7-quantile"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_statement_says_how_gradients_are_clipped(rule, words):
    assert words in statement_of(plan(Clip(2.0, rule)), simulated=True, seeded=False).sentence()


def test_without_a_clip_there_is_nothing_to_follow():
    assert UNCLIPPED.adaptive is None
    assert plans.training_of(not_private(plan(ADAPTIVE), 10)).clip.adaptive is not None


@pytest.mark.parametrize("wrong", [{"quantile": 1.5}, {"share": 0.0}, {"share": 1.0}, {"rate": 0.0}])
def test_what_cannot_be_followed_is_refused(wrong):
    with pytest.raises(PrivacyError):
        AdaptiveNorm(**wrong)
