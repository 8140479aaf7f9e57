"""The promise, time and memory of a study, foreseen without opening an image."""

import math
from dataclasses import dataclass, replace

from wardround.accounting.insiders import InsiderRow
from wardround.accounting.numbers import number_to_json
from wardround.accounting.statement import Statement
from wardround.agreed.network import build_network
from wardround.agreed.plans import check_limit, plan_of
from wardround.agreed.schedule import Schedule, feasibility, own_size, schedule_of
from wardround.agreed.strategies import timetable_of
from wardround.agreed.upload import MaskedUpload, upload_of
from wardround.config import Study
from wardround.config.choice import choice_for
from wardround.config.federation import Averaging, Scaffolding
from wardround.hospital.pictures import list_pictures, recipe_of
from wardround.images.entries import Target
from wardround.images.listing import Listing
from wardround.models.backbones.names import OwnEncoder
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import share_of_patients
from wardround.privacy.plans.wording import statement_of, words_of
from wardround.published import published
from wardround.simulation.availability import check_availability
from wardround.simulation.forecast.memory import bytes_of_head, bytes_of_steps, bytes_of_vectors
from wardround.simulation.forecast.seconds import encoding_of, local_probe, made_up_bench, masked_probe, probe
from wardround.simulation.masked import check_masks
from wardround.simulation.materials import foreseen
from wardround.simulation.references import check_references, num_runs
from wardround.training.threads import using_threads
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
            of hospitals, and gradients; of a head its batches and centred rows; where patients or hospitals are spread
            over the cores, a copy of the network on each, with its gradients and activations.
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
    recipe = recipe_of(study, listing)
    shape = recipe.shape
    pictures = None if listing is None else len(listing.entries) * recipe.rows  # at most
    target, classes = _target(study, listing)
    network = build_network(study, target=target, num_classes=classes, shape=shape)
    names = [HospitalName(f"hospital-{study.hospitals.count}")] if split is None else list(split.hospitals)
    check_masks(plan, network.num_parameters, names)
    per_picture, gradient_bytes = probe(study, network, target, shape)
    seconds, of_step = None, 1
    if pictures is not None:
        trained_on = (1 - study.data.test_fraction) * (1 - study.data.validation_fraction)
        each_step = pictures * trained_on * share_of_patients(plan.training)
        each_round = each_step * study.local_steps * timetable.at_once / timetable.hospitals
        of_step = math.ceil(each_step / timetable.hospitals)
        runs = [(per_picture, 0.0)] * (1 + num_runs(study))
        if plan.masked is not None:  # of the main run alone: references are summed in the open
            sample = math.ceil(each_round / study.hospitals.count)
            runs[0] = masked_probe(study, plan, network, target, shape, sample)
        elif isinstance(study.federation, Averaging | Scaffolding):
            runs[0] = local_probe(study, plan, network, target, shape, of_step), 0.0
        seconds = study.rounds * sum(picture * each_round + fixed * timetable.at_once for picture, fixed in runs)
    cache = (pictures or 0) * math.prod(shape)
    inputs, encoding = encoding_of(network, shape, pictures or 0)
    bench, _ = made_up_bench(study, network, target, shape, 2)
    if study.privacy.releases_pictures:
        published(study.privacy.plan, "simulation").check_noised(plan, target, bench)
    of_patient = math.ceil((pictures or 1) / (patients or 1))
    gradient_bytes = bytes_of_steps(study, plan, bench, gradient_bytes, of_patient, of_step)
    if bench.trains_head:
        gradient_bytes += bytes_of_head(study, plan, inputs, patients or 0, network.num_parameters)
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
        memory_bytes=int(cache + inputs + bytes_of_vectors(study, plan, network, upload) + gradient_bytes),
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
