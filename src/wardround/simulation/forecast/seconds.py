"""The time of a study, by timed steps on made-up pictures."""

from dataclasses import replace

import numpy as np
import torch

from wardround.agreed.masks import mechanism_of
from wardround.agreed.network import augmentation_of, loss_of
from wardround.boundary.text import counted
from wardround.config import Study
from wardround.hospital.masked import steps_of
from wardround.hospital.pictures import device_of, kept_on_processor
from wardround.hospital.rounded import Rounding, rounded_sum
from wardround.images.entries import Target
from wardround.models.network import Network
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of
from wardround.randomness import names_of
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.simulation.forecast.memory import at_work_of
from wardround.training.encodings import Lattice, strided
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.threads import least_seconds
from wardround.training.workbench import Workbench


def probe(study: Study, network: Network, target: Target, shape: tuple[int, ...]) -> tuple[float, int]:
    """Returns seconds a picture of one private gradient sum, and the memory of the gradients at one time."""
    threads = _threads_of(study, network)

    def seconds_of(pictures: int) -> float:
        bench, everyone = made_up_bench(study, network, target, shape, pictures)
        return least_seconds(lambda: bench.gradient_sums(bench.initial_weights, [everyone], 1.0, 0), threads)

    seconds_of(2)  # the first call loads and compiles
    seconds, pictures = seconds_of(2), 2
    while seconds < 0.02 and pictures <= 256:  # large enough for the fixed cost of a call to vanish
        pictures *= 4
        seconds = seconds_of(pictures)
    limit, size = int(study.performance.memory_gb * 1e9), network.num_parameters
    gradients = min(64, max(1, limit // (8 * size))) * 8 * size
    return seconds / pictures, gradients


def _threads_of(study: Study, network: Network) -> set[int]:
    """Returns the numbers of threads of which a matrix product of the run will take one."""
    if study.performance.threads is not None:
        return {study.performance.threads}
    return {1} if kept_on_processor(study, network) else {1, torch.get_num_threads()}


def local_probe(
    study: Study, plan: Plan, network: Network, target: Target, shape: tuple[int, ...], of_step: int
) -> float:
    """Returns seconds a picture of local steps, as many hospitals at one time as have cores.

    A step takes so many pictures; fewer are timed of many, and one batch of several hospitals, for other batches would
    be summed on the cores that are the other hospitals'.
    """
    pictures, clip = max(1, min(of_step, 64)), clip_of(plan.training).norm
    bench, everyone = made_up_bench(study, network, target, shape, pictures)
    at_work = at_work_of(study, bench)
    if at_work > 1:
        everyone = replace(everyone, chosen=everyone.chosen[: bench.at_once])
    threads = {1} if at_work > 1 else _threads_of(study, network)
    seconds = least_seconds(lambda: bench.gradient_sums(bench.initial_weights, [everyone], clip, 0), threads)
    return seconds / len(everyone.chosen) / at_work


def masked_probe(
    study: Study, plan: Plan, network: Network, target: Target, shape: tuple[int, ...], sample: int
) -> tuple[float, float]:
    """Returns seconds a picture and seconds a hospital and round of masked sums, by what a hospital does.

    Fewer pictures than the `sample` of a hospital in a round are timed where each takes long.
    """
    mechanism = mechanism_of(plan, network.num_parameters)
    clip = clip_of(plan.training)
    norm = None if clip.adaptive is None else clip.norm
    steps = steps_of(mechanism.grid)

    def seconds_of(pictures: int) -> float:
        bench, everyone = made_up_bench(study, network, target, shape, pictures)
        weights = bench.initial_weights
        if clip.adaptive is None and bench.sums_exactly(steps):
            return least_seconds(lambda: bench.exact_sum(weights, everyone, clip.norm, clip.fixed, steps))
        rounding = Rounding(mechanism.grid, clip, norm, weights)
        return least_seconds(lambda: rounded_sum(bench, rounding, everyone, 0))

    seconds, pictures = seconds_of(2), 2
    while seconds < 0.2 and pictures < min(sample, 1024):
        pictures = min(4 * pictures, sample)
        seconds = seconds_of(pictures)
    return seconds / pictures, least_seconds(lambda: mechanism.encode([], system_entropy))


def encoding_of(network: Network, shape: tuple[int, ...], pictures: int) -> tuple[int, list[str]]:
    """Returns bytes of all inputs that are computed once, and a sentence on a frozen network's time for them."""
    if not network.encode_once:
        return 0, []
    shown = torch.zeros((1, *shape), dtype=torch.uint8)
    with torch.no_grad():
        size = network.encode(shown).numel() * pictures * 4
        seconds = least_seconds(lambda: network.encode(shown)) * pictures / torch.get_num_threads()
    if not pictures:
        return size, []
    return size, [
        f"encoding {counted(pictures, 'picture')} takes about {max(1, round(seconds))} s once, and is kept in the cache"
    ]


def made_up_bench(
    study: Study, network: Network, target: Target, shape: tuple[int, ...], pictures: int
) -> tuple[Workbench, Sample]:
    """Returns a workbench of made-up pictures, and all of their patients, of one picture each."""
    drawn = np.random.default_rng(0).integers(0, 256, (max(1, pictures), *shape), dtype=np.uint8)
    masks = np.zeros((len(drawn), *shape[1:]), dtype=np.uint8) if target is Target.MASKS else None
    stride = study.training.stride
    bench = Workbench(
        network, drawn, loss_of(study, target), int(study.performance.memory_gb * 1e9), masks=masks,
        augmentation=augmentation_of(study, None),
        inputs=_inputs(network, torch.from_numpy(drawn)) if network.encode_once else None,
        lattice=Lattice(stride, strided(network.encode(torch.from_numpy(drawn)), stride)) if stride > 1 else None,
        device=device_of(study, network),
    )  # fmt: skip
    rows = np.arange(pictures)
    names = names_of(map(str, rows))
    return bench, Sample(TrainingPatients(rows, np.zeros_like(rows), np.arange(pictures + 1), names), rows)


def _inputs(network: Network, shown: torch.Tensor) -> torch.Tensor:
    """Returns the inputs of the trained part, (picture, ...), of a network that is encoded once.

    The first picture is encoded, and multiples of its encoding stand for the others, which take the time of pictures
    that differ.
    """
    first: torch.Tensor = network.encode(shown[:1])
    return first * torch.linspace(0.5, 1.0, len(shown)).reshape(-1, *[1] * (first.ndim - 1))
