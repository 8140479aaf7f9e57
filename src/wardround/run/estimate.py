"""What a study will promise and what it will take, without opening an image."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from wardround.accounting.insiders import InsiderRow
from wardround.accounting.ledger_entry import number_to_json
from wardround.accounting.statement import Statement
from wardround.config import Study
from wardround.errors import DataError
from wardround.images.entries import Task
from wardround.images.phantom import PhantomOptions, list_phantom
from wardround.images.readers import READERS
from wardround.models.network import Network
from wardround.privacy.clipping import PatientBatch, clipped_sum
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.promise import insiders_of, statement_of
from wardround.run.assemble import build_network, plan_of
from wardround.training.losses import cross_entropy


@dataclass(frozen=True)
class Estimate:
    """A checked study.

    Attributes:
        plan: the calibrated plan.
        statement: what will be promised at the end.
        insiders: against whom.
        parameters: trained parameters of the network.
        patients: in the data folder, by its file names and tables; None where nothing is there to list.
        pictures: likewise.
        seconds: of training, from one timed step on random numbers; None without pictures to count.
        memory_bytes: of training at its peak, beside the libraries themselves.
    """

    plan: PrivacyPlan
    statement: Statement
    insiders: tuple[InsiderRow, ...]
    parameters: int
    patients: int | None
    pictures: int | None
    seconds: float | None
    memory_bytes: int

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "epsilon": number_to_json(self.statement.epsilon),
            "delta": self.statement.delta,
            "noise_multiplier": self.plan.noise_multiplier,
            "statement": self.statement.sentence(),
            "insiders": [row.to_json() for row in self.insiders],
            "parameters": self.parameters,
            "patients": self.patients,
            "pictures": self.pictures,
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
        }


def estimate(study: Study) -> Estimate:
    """Checks a study and foresees its promise, time and memory.

    Raises:
        WardroundError: whatever `run` would refuse before it opens an image.
    """
    plan = plan_of(study)
    patients, pictures, classes = _listed(study)
    network = build_network(study, num_classes=classes)
    per_picture, gradient_bytes = _probe(study, network)
    seconds = None
    if pictures is not None:
        each_round = pictures * (1 - study.data.test_fraction) * plan.sampling_prob * study.federation.local_steps
        runs = 1 + len(study.federation.compare)
        seconds = per_picture * each_round * study.federation.rounds * runs
    cache = (pictures or 0) * study.data.channels * study.data.image_size**2
    inputs = cache * 4 if network.encode_once else 0
    hospitals = study.hospitals.count * network.num_parameters * 12  # each hospital's sum, float64, and its reply
    return Estimate(
        plan=plan,
        statement=statement_of(plan, simulated=True, seeded=study.study.seed is not None),
        insiders=insiders_of(plan),
        parameters=network.num_parameters,
        patients=patients,
        pictures=pictures,
        seconds=seconds,
        memory_bytes=int(cache + inputs + hospitals + gradient_bytes),
    )


def _listed(study: Study) -> tuple[int | None, int | None, int]:
    """Patients, pictures and classes, by file names and tables alone."""
    data = study.data
    if data.layout == "phantom":
        phantom = data.phantom
        options = PhantomOptions(patients=phantom.patients, max_images=phantom.max_images, seed=phantom.seed)
        listing = list_phantom(options)
    elif data.path is None:
        return None, None, 3 if data.task == "subtype" else 2
    elif not data.path.is_dir():
        raise DataError(f"the data folder must exist, got {data.path}. Check its path.")
    else:
        listing = READERS[data.layout].read(data.path, Task(data.task))
    return len({entry.patient for entry in listing.entries}), len(listing.entries), len(listing.class_names)


def _probe(study: Study, network: Network) -> tuple[float, int]:
    """Seconds a picture of one private gradient sum, and the memory of the gradients at one time."""
    limit = int(study.performance.memory_gb * 1e9)
    _seconds_of_one_sum(study, network, 4, limit)  # the first call loads and compiles
    seconds, pictures = 0.0, 4
    while seconds < 0.02 and pictures <= 256:  # large enough for the fixed cost of a call to vanish
        pictures *= 4
        seconds = min(_seconds_of_one_sum(study, network, pictures, limit) for _ in range(2))
    size = network.num_parameters
    gradients = min(64, max(1, limit // (8 * size))) * 8 * size
    return seconds / pictures, gradients


def _seconds_of_one_sum(study: Study, network: Network, pictures: int, limit: int) -> float:
    side, channels = study.data.image_size, study.data.channels
    drawn = np.random.default_rng(0).integers(0, 256, (pictures, channels, side, side), dtype=np.uint8)
    with torch.no_grad():
        inputs = network.encode(torch.from_numpy(drawn))
    labels, patient = torch.zeros(pictures, dtype=torch.int64), torch.arange(pictures)
    batch = PatientBatch(inputs, labels, patient, pictures)
    started = time.perf_counter()
    clipped_sum(network.trained, cross_entropy, batch, clipping_norm=1.0, memory_bytes=limit)
    return time.perf_counter() - started
