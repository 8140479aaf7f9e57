"""Networks whose gradients are kept in every way, and clipping rules as a loop over patients and layers."""

import functools
import math

import pytest
import torch
from tests.cases import family
from tests.per_patient.case import Custom, parameter
from tests.per_patient.oracle import cross_entropy, parameter_sizes, patient_gradients, relative_error
from torch import nn

from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipping_rules import Automatic, Flat, PerLayer, Split
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE

ONE_EACH = (1, 1, 1, 1)
UNEVEN = (2, 0, 1, 3)
RULES = {
    "flat": Flat(),
    "equal": PerLayer(Split.EQUAL),
    "size": PerLayer(Split.SIZE),
    "automatic": Automatic(),
    "sharp": Automatic(1e-9),
}

every_rule = pytest.mark.parametrize(
    "rule", family(RULES.values(), keep=[RULES["flat"], RULES["size"], RULES["sharp"]]), ids=RULES
)


# Networks. What becomes of a gradient: "few" is kept beside other small ones, "large" is kept alone, "deferred" is
# known by its norm alone, "formed" is deferred but for pictures whose terms cancel.


def convolutional():
    """Few, large, and (where nobody has two pictures) deferred."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.Tanh(),
        nn.Conv2d(16, 48, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48 * 9, 400),
        nn.Tanh(),
        nn.Linear(400, 3),
    )


def of_two_tokens():
    """Deferred, and formed where `batch_of` makes the second token almost minus the first."""
    return Custom(
        lambda m, x: m.head(m.wide(x.view(len(x), 2, -1)).mean(1)),
        head=nn.Linear(100, 3),
        wide=nn.Linear(100, 100, bias=False),
    )


def roomy():
    """Every kind of gradient that is formed in memory of its own, two of one shape, and a deferred one."""

    def run(m, x):
        channels = torch.tanh(m.point(torch.tanh(m.near(x)))).flatten(2)
        return m.head(torch.tanh(m.again(torch.tanh(m.tokens(channels)))).flatten(1))

    return Custom(
        run,
        near=nn.Conv2d(1, 4, 3),
        point=nn.Conv2d(4, 80, 1),
        tokens=nn.Linear(9, 9),
        again=nn.Linear(9, 9),
        head=nn.Linear(80 * 9, 3),
    )


def with_one_use_of_two_modules():
    return Custom(
        lambda m, x: m.head(torch.tanh(nn.functional.linear(x, m.first.weight, m.second.bias))),
        first=nn.Linear(6, 6, bias=False),
        second=nn.LayerNorm(6),
        head=nn.Linear(6, 3),
    )


def with_a_shared_weight():
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(6, 3))


def with_a_module_used_twice():
    return Custom(
        lambda m, x: m.head(torch.tanh(m.mix(torch.tanh(m.norm(m.mix(x)))))),
        norm=nn.GroupNorm(2, 6),
        mix=nn.Linear(6, 6),
        head=nn.Linear(6, 3),
    )


def with_bare_parameters():
    return Custom(
        lambda m, x: m.head(torch.tanh(m.norm(x * m.scale) + m.shift)),
        head=nn.Linear(6, 3),
        scale=parameter(6),
        norm=nn.LayerNorm(6),
        shift=parameter(6),
    )


def with_a_slow_module():
    stretched = Custom(lambda m, x: x * torch.exp(m.stretch), stretch=parameter(6))
    return nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), stretched, nn.Tanh(), nn.Linear(6, 3))


def slow_as_a_whole():
    return Custom(
        lambda m, x: m.head(torch.tanh(m.mix(x) * torch.exp(m.stretch))),
        stretch=parameter(6),
        mix=nn.Linear(6, 6),
        head=nn.Linear(6, 3),
    )


NETWORKS = {
    convolutional: (1, 5, 5),
    of_two_tokens: (200,),
    roomy: (1, 5, 5),
    with_one_use_of_two_modules: (6,),
    with_a_shared_weight: (6,),
    with_a_module_used_twice: (6,),
    with_bare_parameters: (6,),
    with_a_slow_module: (6,),
    slow_as_a_whole: (6,),
}
SLOW = [with_a_slow_module, slow_as_a_whole]

every_network = pytest.mark.parametrize("network", family(NETWORKS, keep=[convolutional, slow_as_a_whole]))
every_slow_network = pytest.mark.parametrize("network", SLOW)


def built(network, dtype=torch.float64, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network().to(dtype)


@functools.cache
def studied(network, dtype=torch.float64):
    """One network for many tests; not to be changed."""
    return built(network, dtype)


def batch_of(network, counts, *, seed=1, dtype=torch.float64):
    """Pictures of noise; the second of them is one whose gradient cancels in `of_two_tokens`."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    inputs = torch.randn(total, *NETWORKS[network], dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (total,), generator=generator)
    if network is of_two_tokens and total > 1:
        inputs[1, 100:] = -inputs[1, :100] + 1e-3 * inputs[1, 100:]
    patient = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
    return PatientBatch(inputs.to(dtype), labels, patient, len(counts))


def changed(batch, patient, value):
    """The batch with one patient's pictures multiplied by a value; NaN and infinities replace one number each."""
    inputs, mine = batch.inputs.clone(), batch.patient == patient
    if math.isfinite(value):
        inputs[mine] *= value
    else:
        inputs.flatten(1)[mine, 0] = value
    return PatientBatch(inputs, batch.labels, batch.patient, batch.num_patients)


def without(batch, patient):
    kept = batch.patient != patient
    index = batch.patient[kept]
    return PatientBatch(
        batch.inputs[kept], batch.labels[kept], index - (index > patient).long(), batch.num_patients - 1
    )


# The oracle.


def columns_of_layers(model):
    """Where the trained parameters that each module holds itself stand in the vector, module by module."""
    starts, at = {}, 0
    for p in model.parameters():
        starts[id(p)] = at
        at += p.numel()
    layers = []
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if id(p) in starts]
        columns = [index for p in own for index in range(starts[id(p)], starts.pop(id(p)) + p.numel())]
        if columns:
            layers.append(torch.tensor(columns))
    return layers


def clipped_by_hand(model, gradients, rule, clipping_norm):
    """Every patient's clipped gradient, (patient, parameter), one patient and one layer at a time."""
    clipped = torch.zeros_like(gradients)
    layers = columns_of_layers(model) if isinstance(rule, PerLayer) else [torch.arange(gradients.shape[1])]
    for row, gradient in zip(clipped, gradients, strict=True):
        for layer in layers:
            norm = float(gradient[layer].norm())
            if isinstance(rule, Automatic):
                factor = SHAVE * clipping_norm / (norm + rule.stability)
            else:
                size = isinstance(rule, PerLayer) and rule.split is Split.SIZE
                share = len(layer) / gradients.shape[1] if size else 1 / len(layers)
                factor = min(1.0, SHAVE * clipping_norm * math.sqrt(share) / norm) if norm else 1.0
            row[layer] = factor * gradient[layer]
    return clipped


@functools.cache
def gradients_of(network, counts):
    """The oracle's gradients of `batch_of(network, counts)`, (patient, parameter)."""
    return patient_gradients(studied(network), cross_entropy, batch_of(network, counts))


def agrees(model, vector, expected, tolerance=1e-9):
    one = float(expected.norm(dim=1).max())
    error, worst = relative_error(vector, expected.sum(0), parameter_sizes(model), one=one)
    assert error < tolerance, (error, worst)
