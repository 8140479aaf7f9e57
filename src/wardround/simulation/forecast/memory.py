"""The memory of a study, from sizes that are known before a picture is read."""

import math

import numpy as np

from wardround.agreed.strategies import timetable_of
from wardround.agreed.upload import MaskedUpload
from wardround.config import Study
from wardround.config.federation import Averaging, Scaffolding
from wardround.models.network import Network, activation_bytes
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of
from wardround.simulation.federate import answers_as_one
from wardround.simulation.references import num_runs
from wardround.training.pairs import MOST_KEPT
from wardround.training.slotted import ROW_BYTES
from wardround.training.workbench import Workbench


def bytes_of_vectors(study: Study, plan: Plan, network: Network, upload: MaskedUpload | None) -> int:
    """Returns the bytes of weights and of what hospitals answer, beside the gradients on the cores.

    The network, its starting weights and the model are float32. Under masks all uploads are kept until the last one is
    there, and one hospital at a time has its sum and its share of the noise (int64) and a patient's row (int32);
    elsewhere each has its sum (float64) and its reply.
    """
    size, hospitals = network.num_parameters, study.hospitals.count
    if upload is not None:
        return (12 + 20) * size + hospitals * upload.num_bytes
    return 12 * size + (1 if answers_as_one(study, plan) else hospitals) * 12 * size


def bytes_of_steps(
    study: Study, plan: Plan, bench: Workbench, gradient_bytes: int, of_patient: int, of_step: int
) -> int:
    """Returns the bytes of gradients at one time, of all that compute side by side.

    Under masks each core takes patients, whose gradients wait for some others, with a copy of the network; a process
    also has a row (int32) and a sum (int64), which is answered in shared memory as the weights are asked, and keeps
    memory of two gradients that are no more. In local steps a process takes a hospital, with its weights and velocity,
    which are asked and answered so. A seeded run takes one thread, so that other sums of small networks take a process
    a core. Beside the activations of a batch a gradient is there twice, as autograd gives it and as one vector.

    Args:
        study: as it is resolved.
        plan: of the study.
        bench: of made-up pictures; it makes no copies and no processes.
        gradient_bytes: of patients' gradients of one clipped batch.
        of_patient: pictures of a patient.
        of_step: pictures of a hospital in one step or masked round.
    """
    is_local = isinstance(study.federation, Averaging | Scaffolding)
    if bench.trains_head:
        return gradient_bytes
    trained, vector = bench.network.trained, 4 * bench.network.num_parameters
    activations = activation_bytes(trained, bench.inputs_of(np.zeros(1, dtype=np.int64)))
    copy = sum(each.nbytes for each in (*trained.parameters(), *trained.buffers()))
    if not is_local and plan.masked is None:
        is_shared = study.study.seed is not None and bench.batch_processes is not None
        return bench.cores * (gradient_bytes + copy + 3 * vector) if is_shared else gradient_bytes
    references = gradient_bytes if num_runs(study) else 0  # they clip beside the copies, and beside the processes
    if not is_local:
        cores = max(1, bench.num_copies) if bench.processes is None else bench.cores
        at_work = 2 * vector + min(bench.at_once, of_patient) * activations
        if bench.processes is None:
            waiting = max(cores * vector, min(ROW_BYTES, of_step * vector))
            return bench.num_copies * copy + cores * at_work + waiting + references
        waiting = max(vector, min(ROW_BYTES, of_step * vector // cores))
        return cores * (copy + 8 * vector + at_work + waiting) + references
    is_clipped = math.isfinite(clip_of(plan.training).norm)
    of_batch = gradient_bytes if is_clipped else min(bench.at_once, of_step) * activations
    return at_work_of(study, bench) * (copy + 5 * vector + of_batch) + references


def bytes_of_head(study: Study, plan: Plan, inputs: int, patients: int, size: int) -> int:
    """Returns the bytes of batches that are kept, in double precision under masks, and of centred rows and mean rows.

    A centre's mean rows are those of one hospital, or of all where references are, with as many numbers as the head.
    """
    kept = min(MOST_KEPT, inputs * (1 if plan.masked is None else 2))
    alone = 1 if num_runs(study) else study.hospitals.count
    return kept + (inputs + 8 * size * patients // alone if study.centre_rounds else 0)


def at_work_of(study: Study, bench: Workbench) -> int:
    """Returns the number of hospitals that take local steps at one time, each in a process of its own if several."""
    return min(1 if bench.processes is None else bench.cores, timetable_of(study).at_once)
