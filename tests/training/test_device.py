"""A GPU computes the same clipped sums, within the same bound; noise, masks and bits never leave the processor.

The GPU is emulated (`tests.per_patient.emulated`): it refuses tensors of two devices, and rounds products to TF32.
"""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tests.errors import raises_code
from tests.per_patient.conformance import CASES, ONE_EACH, UNEVEN, judge
from tests.per_patient.emulated import GPU, There, emulated_gpu
from tests.per_patient.test_autocast import NETWORKS, batch, built, coarse
from tests.per_patient.test_autocast import loss as picture_loss
from tests.per_patient.test_conformance_sensitivity import CANCELLING, alone
from tests.training.test_draws_of_a_step import CLIP, hospital

from wardround.errors import StudyError
from wardround.per_patient import PatientBatch, SlowPath, clipped_sum, clipping_rules
from wardround.per_patient.margins import SINGLE_PRECISION
from wardround.per_patient.process import in_single_precision
from wardround.randomness import Randomness
from wardround.training import device
from wardround.training.device import CPU, device_for, mixed_precision
from wardround.training.losses import cross_entropy
from wardround.training.patients import Sample
from wardround.training.workbench import Workbench

BACKENDS: Any = torch.backends
CONVOLUTIONS = BACKENDS.cudnn.conv


@pytest.fixture
def gpu(monkeypatch):
    with emulated_gpu(monkeypatch):
        yield GPU


def there(model, pictures):
    """Returns a network and its pictures on the GPU; `Module.to` would give modules that share a parameter two."""
    known: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                moved = torch.nn.Parameter(value.detach().to(GPU), value.requires_grad)
                module._parameters[name] = known.setdefault(id(value), moved)
    batch_there = PatientBatch(
        pictures.inputs.to(GPU), pictures.labels.to(GPU), pictures.patient.to(GPU), pictures.num_patients
    )
    return model.to(GPU), batch_there


@pytest.mark.parametrize("asked", ["auto", "cpu", "cuda"])
@pytest.mark.parametrize("has_gpu", [True, False])
@pytest.mark.parametrize("processor_for", [None, "a seed"])
def test_auto_takes_a_gpu_that_is_seen_unless_bits_are_promised(asked, has_gpu, processor_for, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    if asked == "cuda" and (processor_for or not has_gpu):
        with raises_code(StudyError, "study-device"):
            device_for(asked, processor_for)
        return
    expected = device.GPU if has_gpu and asked != "cpu" and not processor_for else CPU
    assert device_for(asked, processor_for) == expected


@pytest.mark.thorough
@pytest.mark.parametrize("norm", [CLIP, math.inf])
def test_a_gpu_gives_the_sums_and_answers_of_the_processor(gpu, norm):
    """Dropout is drawn from each patient's key on both; several hospitals share batches; everything comes back."""
    bench, patients = hospital()
    far = Workbench(bench.network, bench._pixels, cross_entropy, 1 << 26, device=gpu)
    weights = bench.initial_weights
    samples = [Sample(patients, np.arange(first, last)) for first, last in ((0, 5), (3, 3), (3, 12))]
    near, found = (
        each.gradient_sums(weights, samples, norm, 7, class_weights=(0.5, 2.0)) for each in (bench, far)
    )
    assert isinstance(next(far._there.parameters()), There)
    assert not isinstance(next(far.network.trained.parameters()), There), "what others read stays where it was"
    for one, other in zip(near, found, strict=True):
        assert type(other.vector) is torch.Tensor
        assert other.within == one.within
        # The same kernels run: no tolerance is needed.
        assert torch.equal(one.vector, other.vector)
    rows = np.arange(4)
    assert np.array_equal(bench.probabilities(weights, rows), far.probabilities(weights, rows))


@pytest.mark.thorough
def test_gradients_under_masks_are_computed_on_the_processor_bit_for_bit(gpu, monkeypatch):
    bench, patients = hospital()
    far = Workbench(bench.network, bench._pixels, cross_entropy, 1 << 26, device=gpu)
    everyone, weights = Sample(patients, np.arange(len(patients))), bench.initial_weights
    far.gradient_sums(weights, [everyone], CLIP, 3)
    monkeypatch.setattr(There, "__torch_dispatch__", None)  # no kernel of the GPU can run
    near, found = (list(each.patient_gradients(weights, everyone, 7)) for each in (bench, far))
    assert np.array_equal(near, found)


def test_noise_is_the_same_on_every_device():
    def drawn():
        noise = np.zeros(1000, dtype=np.float32)
        Randomness(7, "study/main").stream("noise").add_normal(noise, 2.5)
        return noise

    known = drawn()
    with torch.device("meta"):  # what torch makes has no values there
        assert np.array_equal(drawn(), known)
    assert known[:2].tolist() == pytest.approx(KNOWN, rel=1e-6)


KNOWN = [-2.760660171508789, -6.247499465942383]


NOT_EMULATED = {
    "positions by Embedding of arange, as many as pictures", "Linear on a table, as long as there are pictures",
    "weighted, smoothed cross-entropy", "gradient checkpointing", "GRU",
}  # fmt: skip
"""Networks and losses that hold or make tensors on the processor; the last two ask for kernels of a real device."""


@pytest.mark.thorough
@pytest.mark.parametrize("counts", [UNEVEN, ONE_EACH])
@pytest.mark.parametrize("name", sorted(CASES.keys() - NOT_EMULATED))
def test_an_engine_case_on_a_gpu_agrees_with_the_oracle(name, counts, gpu):
    def engine(model, loss, pictures, norm):
        far, moved = there(model, pictures)
        return clipped_sum(far, loss, moved, clipping_norm=norm).vector.cpu()

    verdict = judge(CASES[name], engine, counts=counts, shave=SINGLE_PRECISION, tolerance=1e-9)
    assert verdict.passed, verdict


def test_tf32_of_a_gpu_does_not_reach_norms_and_sums(gpu, monkeypatch):
    """Convolutions of a GPU round to TF32 by default. A ghost norm and its sum would differ by more than the margin."""
    torch.manual_seed(0)
    layer, shape = CANCELLING["convolution, four pixels under a kernel"]
    picture = torch.rand(shape[0]).view(-1, 1, 1).expand(shape).contiguous()
    model, pictures = there(layer(), alone(picture))
    sign = torch.ones(256, 2, 2)
    sign[..., ::2] = -1 - 2.0**-3  # the terms cancel, not so far that the gradient is formed
    sign = sign.to(GPU)

    def longest():
        sums = [
            (norm, clipped_sum(model, lambda y, _: (y * sign).flatten(1).sum(1), pictures, clipping_norm=norm))
            for norm in (0.7, 0.8, 0.9, 1.0)  # the factors that TF32 rounds follow from the norm
        ]
        return max(float(summed.vector.cpu().double().norm()) / norm for norm, summed in sums)

    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPath)  # in TF32 the network would not agree with pictures alone
        assert longest() <= 1.0
    assert CONVOLUTIONS.fp32_precision == "tf32", "it is put back"
    unguarded = clipped_sum.__globals__["clipped_sums_by_group"].__wrapped__
    monkeypatch.setitem(clipped_sum.__globals__, "clipped_sums_by_group", unguarded)
    assert longest() > 1.0, "the test would not see a missing guard"


def test_precision_is_put_back_after_an_error(gpu):
    @in_single_precision()
    def stopped():
        raise RuntimeError(CONVOLUTIONS.fp32_precision)

    with pytest.raises(RuntimeError, match="ieee"):
        stopped()
    assert CONVOLUTIONS.fp32_precision == "tf32"


def over_the_clip(clipping_norm=0.01):
    """Counts patients whose bfloat16 gradient, clipped and added up, is longer than the clip."""
    count = 0
    for name in NETWORKS:
        for seed in range(4):
            torch.manual_seed(seed)
            model, pictures = built(name), batch(10.0)
            for patient in range(pictures.num_patients):
                own = pictures.patient == patient
                mine = PatientBatch(pictures.inputs[own], pictures.labels[own], pictures.patient[own] * 0, 1)
                with coarse():
                    vector = clipped_sum(model, picture_loss, mine, clipping_norm=clipping_norm).vector
                count += bool(vector.double().norm() > clipping_norm)
    return count


@pytest.mark.thorough
def test_bfloat16_activations_keep_every_patient_within_the_clip(monkeypatch):
    assert over_the_clip() == 0
    monkeypatch.setattr(clipping_rules, "SINGLE_PRECISION", 1.0)
    assert over_the_clip() > 0, "the test would not see a missing margin"


def test_training_steps_are_bfloat16_where_the_gpu_has_it(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "autocast", lambda *arguments: made.append(arguments))
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        mixed_precision(torch.device("cuda", 0))
        mixed_precision(CPU)
    assert made == [("cuda", torch.bfloat16)]
