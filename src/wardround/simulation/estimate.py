"""The promise, time and memory of a study, foreseen without opening an image."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from wardround.accounting.insiders import InsiderRow
from wardround.accounting.numbers import number_to_json
from wardround.accounting.statement import Statement
from wardround.agreed.masks import mechanism_of
from wardround.agreed.network import augmentation_of, build_network, loss_of
from wardround.agreed.plans import check_limit, plan_of
from wardround.agreed.schedule import Schedule, feasibility, own_size, schedule_of
from wardround.agreed.strategies import timetable_of
from wardround.agreed.upload import MaskedUpload, upload_of
from wardround.boundary.text import counted
from wardround.config import Study
from wardround.config.choice import choice_for
from wardround.config.federation import Averaging, Scaffolding
from wardround.hospital.masked import steps_of
from wardround.hospital.pictures import device_of, kept_on_processor, list_pictures
from wardround.images.entries import Target
from wardround.images.listing import Listing
from wardround.models.backbones.names import OwnEncoder
from wardround.models.network import Network, activation_bytes
from wardround.per_patient.layout import Layout
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of, share_of_patients
from wardround.privacy.plans.wording import statement_of, words_of
from wardround.privacy.rows import rows_of
from wardround.published import published
from wardround.randomness import names_of
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.simulation.availability import check_availability
from wardround.simulation.federate import answers_as_one
from wardround.simulation.masked import check_masks
from wardround.simulation.materials import foreseen
from wardround.simulation.references import check_references, num_runs
from wardround.training.encodings import Lattice, strided
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.slotted import ROW_BYTES
from wardround.training.threads import least_seconds, using_threads
from wardround.training.workbench import Workbench
from wardround.types import HospitalName, Persons


@dataclass(frozen=True)
class Estimate:
    """A checked study.

    Attributes:
        plan: the calibrated plan.
        statement: the promise at the end.
        insiders: epsilon against each attacker.
        parameters: trained parameters of the network.
        patients: in the data folder, by its file names and tables; None where nothing is there to list.
        pictures: likewise.
        classes: in the model's order; of masks the values from 0 on; empty where nothing is there to list.
        noticed: sentences about ids and classes that look alike, what was left out, and the time of a frozen network.
        seconds: of training, from timed steps on random numbers; None without pictures to count. Local steps are those
            of hospitals side by side. Of masked sums it has gradients, rounding and noise of all hospitals, one after
            the other, and no keys, notes or network. Each reference and each repeat counts as a run, though heads that
            share passes take less.
        memory_bytes: of training at its peak, beside the libraries themselves: pictures, kept inputs, weights, answers
            of hospitals, and gradients; where patients or hospitals are spread over the cores, a copy of the network on
            each, with its gradients and activations.
        upload: of a hospital in a round; None where sums are not masked.
        schedule: of a private head; None for other networks.
        feasibility: a sentence on mu n, with the public number of patients, else with the listed ones; empty where
            neither is known.
        choice: a sentence on the network, where it is the one that `[model] name = "auto"` takes; else empty.
    """

    plan: Plan
    statement: Statement
    insiders: tuple[InsiderRow, ...]
    parameters: int
    patients: int | None
    pictures: int | None
    classes: tuple[str, ...]
    noticed: tuple[str, ...]
    seconds: float | None
    memory_bytes: int
    upload: MaskedUpload | None
    schedule: Schedule | None
    feasibility: str
    choice: str

    def to_json(self) -> dict[str, object]:
        """Returns the estimate as a JSON object."""
        return {
            "epsilon": number_to_json(self.statement.epsilon),
            "delta": self.statement.delta,
            "noise_multiplier": words_of(self.plan).noise_multiplier,
            "statement": self.statement.sentence(),
            "insiders": [row.to_json() for row in self.insiders],
            "parameters": self.parameters,
            "patients": self.patients,
            "pictures": self.pictures,
            "classes": list(self.classes),
            "noticed": list(self.noticed),
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
            "upload": None if self.upload is None else self.upload.to_json(),
            "schedule": None if self.schedule is None else self.schedule.to_json(),
            "feasibility": self.feasibility,
            "choice": self.choice,
        }


def estimate(study: Study) -> Estimate:
    """Checks a study and foresees its promise, time and memory.

    Raises:
        WardroundError: anything that `run` would refuse before it opens an image.
    """
    with using_threads(study.performance.threads):
        return _estimate(study)


def _estimate(study: Study) -> Estimate:
    timetable = timetable_of(study)
    check_availability(study, timetable)
    plan = plan_of(study)
    check_references(study, plan)
    check_limit(study, plan)
    listing = list_pictures(study)
    split = None if listing is None else foreseen(study, listing)
    persons = Persons.NAMED if listing is None else listing.persons
    plan = replace(plan, persons=persons)
    patients = None if listing is None else len({entry.patient for entry in listing.entries})
    rows_each = study.data.volume_size[2] if study.data.volume_size and study.data.view == "slices" else 1
    pictures = None if listing is None else len(listing.entries) * rows_each  # at most
    shape = _shape(study, listing)
    target, classes = _target(study, listing)
    network = build_network(study, target=target, num_classes=classes, shape=shape)
    names = [HospitalName(f"hospital-{study.hospitals.count}")] if split is None else list(split.hospitals)
    check_masks(plan, network.num_parameters, names)
    per_picture, gradient_bytes = _probe(study, network, target, shape)
    seconds, of_step = None, 1
    if pictures is not None:
        trained_on = (1 - study.data.test_fraction) * (1 - study.data.validation_fraction)
        each_step = pictures * trained_on * share_of_patients(plan.training)
        each_round = each_step * study.local_steps * timetable.at_once / timetable.hospitals
        of_step = math.ceil(each_step / timetable.hospitals)
        runs = [(per_picture, 0.0)] * (1 + num_runs(study))
        if plan.masked is not None:  # of the main run alone: references are summed in the open
            sample = math.ceil(each_round / study.hospitals.count)
            runs[0] = _masked_probe(study, plan, network, target, shape, sample)
        elif isinstance(study.federation, Averaging | Scaffolding):
            runs[0] = _local_probe(study, plan, network, target, shape, of_step), 0.0
        seconds = study.rounds * sum(picture * each_round + fixed * timetable.at_once for picture, fixed in runs)
    cache = (pictures or 0) * math.prod(shape)
    inputs, encoding = _encoding_of(network, shape, pictures or 0)
    bench, _ = made_up_bench(study, network, target, shape, 2)
    if study.privacy.releases_pictures:
        published(study.privacy.plan, "simulation").check_noised(plan, target, bench)
    of_patient = math.ceil((pictures or 1) / (patients or 1))
    gradient_bytes = _bytes_of_steps(study, plan, bench, gradient_bytes, of_patient, of_step)
    upload = upload_of(plan, network.num_parameters, names)
    schedule, backbone = schedule_of(study, plan, classes), study.model.backbone
    question = (backbone.question(),) if isinstance(backbone, OwnEncoder) else ()
    return Estimate(
        plan=plan,
        statement=statement_of(plan, simulated=True, seeded=study.study.seed is not None),
        insiders=insiders_of(plan, all_present=not study.leaves_one_out),
        parameters=network.num_parameters,
        patients=patients,
        pictures=pictures,
        classes=() if listing is None else listing.class_names,
        noticed=(*(() if listing is None else listing.noticed()), *encoding, *question),
        seconds=seconds,
        memory_bytes=int(cache + inputs + _bytes_of_vectors(study, plan, network, upload) + gradient_bytes),
        upload=upload,
        schedule=schedule,
        feasibility=_feasibility(study, schedule, patients, classes),
        choice=_choice(study),
    )


def _feasibility(study: Study, schedule: Schedule | None, patients: int | None, classes: int) -> str:
    """Returns the sentence on mu n, of listed patients as many as are expected to train."""
    if schedule is None or not schedule.recipe.scores:
        return ""
    number, source = schedule.num_patients, ""
    if number is None:
        if patients is None:
            return ""
        expected = patients * (1 - study.data.test_fraction) * (1 - study.data.validation_fraction)
        number, source = own_size(study, round(expected)) or 1, ", by the patients listed here"
    return feasibility(schedule.mu, number, classes) + source


def _choice(study: Study) -> str:
    if study.model.own_encoder is not None:
        return ""
    chosen = choice_for(study.model_dump(include={"data": True, "site": {"layout"}}))
    encoder = study.model.encoder or ("hog" if study.model.name == "features" else None)
    if chosen is None or (chosen.name, chosen.encoder) != (study.model.name, encoder):
        return ""
    after = "" if chosen.encoder is None else f' with encoder = "{chosen.encoder}"'
    return f"model {chosen.name}{after}, as auto takes: {chosen.why}"


def _shape(study: Study, listing: Listing | None) -> tuple[int, ...]:
    """Returns (channel, *space) of a preprocessed picture."""
    data = study.data
    if data.volume_size is None:
        return (data.channels, data.image_size, data.image_size)
    channels = (None if listing is None else listing.channels) or 1
    x, y, z = data.volume_size
    return (channels, y, x) if data.view == "slices" else (channels, x, y, z)


def _target(study: Study, listing: Listing | None) -> tuple[Target, int]:
    """Returns the target and the number of classes, of the data or the study; guessed where neither has them."""
    if listing is not None:
        return listing.target, len(listing.class_names)
    task, named = study.data.task, len(study.data.classes or ())
    if study.site.layout == "decathlon" or task == "segmentation":
        return Target.MASKS, named or 3
    if study.site.layout == "aptos" and task in (None, "grading"):
        return Target.GRADES, named or 5
    return Target.CLASSES, named or (3 if task == "subtype" else 2)


def _probe(study: Study, network: Network, target: Target, shape: tuple[int, ...]) -> tuple[float, int]:
    """Returns seconds a picture of one private gradient sum, and the memory of the gradients at one time."""
    cores = _cores(study, network)

    def seconds_of(pictures: int) -> float:
        bench, everyone = made_up_bench(study, network, target, shape, pictures)
        return least_seconds(lambda: bench.gradient_sums(bench.initial_weights, [everyone], 1.0, 0), cores)

    seconds_of(2)  # the first call loads and compiles
    seconds, pictures = seconds_of(2), 2
    while seconds < 0.02 and pictures <= 256:  # large enough for the fixed cost of a call to vanish
        pictures *= 4
        seconds = seconds_of(pictures)
    limit, size = int(study.performance.memory_gb * 1e9), network.num_parameters
    gradients = min(64, max(1, limit // (8 * size))) * 8 * size
    return seconds / pictures, gradients


def _bytes_of_vectors(study: Study, plan: Plan, network: Network, upload: MaskedUpload | None) -> int:
    """Returns the bytes of weights and of what hospitals answer, beside the gradients on the cores.

    The network, its starting weights and the model are float32. Under masks all uploads are kept until the last one is
    there, and one hospital at a time has its sum and its share of the noise (int64) and a patient's row (int32);
    elsewhere each has its sum (float64) and its reply.
    """
    size, hospitals = network.num_parameters, study.hospitals.count
    if upload is not None:
        return (12 + 20) * size + hospitals * upload.num_bytes
    return 12 * size + (1 if answers_as_one(study, plan) else hospitals) * 12 * size


def _bytes_of_steps(
    study: Study, plan: Plan, bench: Workbench, gradient_bytes: int, of_patient: int, of_step: int
) -> int:
    """Returns the bytes of gradients at one time, of all that compute side by side.

    Under masks each core takes a patient, whose gradient waits for some others, with a copy of the network; in local
    steps a process takes a hospital, with its weights and velocity, which are asked and answered in shared memory.
    Beside the activations of a batch a gradient is there twice, as autograd gives it and as one vector.

    Args:
        study: as it is resolved.
        plan: of the study.
        bench: of made-up pictures; it makes no copies and no processes.
        gradient_bytes: of patients' gradients of one clipped batch.
        of_patient: pictures of a patient.
        of_step: pictures of a hospital in one step or masked round.
    """
    is_local = isinstance(study.federation, Averaging | Scaffolding)
    if bench.trains_head or not (is_local or plan.masked is not None):
        return gradient_bytes
    trained, vector = bench.network.trained, 4 * bench.network.num_parameters
    activations = activation_bytes(trained, bench.inputs_of(np.zeros(1, dtype=np.int64)))
    copy = sum(each.nbytes for each in (*trained.parameters(), *trained.buffers()))
    references = gradient_bytes if num_runs(study) else 0  # they clip beside the copies, and beside the processes
    if not is_local:
        cores = max(1, bench.num_copies)
        at_work = cores * (2 * vector + min(bench.at_once, of_patient) * activations)
        return (
            bench.num_copies * copy + at_work + max(cores * vector, min(ROW_BYTES, of_step * vector)) + references
        )
    is_clipped = math.isfinite(clip_of(plan.training).norm)
    of_batch = gradient_bytes if is_clipped else min(bench.at_once, of_step) * activations
    return _at_work(study, bench) * (copy + 5 * vector + of_batch) + references


def _at_work(study: Study, bench: Workbench) -> int:
    """Returns the number of hospitals that take local steps at one time, each in a process of its own if several."""
    return min(1 if bench.processes is None else bench.cores, timetable_of(study).at_once)


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


def _cores(study: Study, network: Network) -> int:
    """Returns the threads that a matrix product of the run takes at most."""
    chosen = study.performance.threads is not None or kept_on_processor(study, network) is None
    return torch.get_num_threads() if chosen else 1


def _encoding_of(network: Network, shape: tuple[int, ...], pictures: int) -> tuple[int, list[str]]:
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


def _inputs(network: Network, shown: torch.Tensor) -> torch.Tensor:
    """Returns the inputs of the trained part, (picture, ...), of a network that is encoded once.

    The first picture is encoded, and multiples of its encoding stand for the others, which take the time of pictures
    that differ.
    """
    first: torch.Tensor = network.encode(shown[:1])
    return first * torch.linspace(0.5, 1.0, len(shown)).reshape(-1, *[1] * (first.ndim - 1))


def _local_probe(
    study: Study, plan: Plan, network: Network, target: Target, shape: tuple[int, ...], of_step: int
) -> float:
    """Returns seconds a picture of local steps, as many hospitals at one time as have cores.

    A step takes so many pictures; fewer are timed of many.
    """
    pictures, clip = max(1, min(of_step, 64)), clip_of(plan.training).norm
    bench, everyone = made_up_bench(study, network, target, shape, pictures)
    at_work = _at_work(study, bench)
    cores = 1 if at_work > 1 else _cores(study, network)
    seconds = least_seconds(lambda: bench.gradient_sums(bench.initial_weights, [everyone], clip, 0), cores)
    return seconds / pictures / at_work


def _masked_probe(
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
        as_row = rows_of(clip, Layout.of(network.trained), norm)
        return least_seconds(
            lambda: mechanism.grid.sum_of(map(as_row, bench.patient_gradients(weights, everyone, 0)))
        )

    seconds, pictures = seconds_of(2), 2
    while seconds < 0.2 and pictures < min(sample, 1024):
        pictures = min(4 * pictures, sample)
        seconds = seconds_of(pictures)
    return seconds / pictures, least_seconds(lambda: mechanism.encode([], system_entropy))
