"""Selective sharing at a hospital: a replica of its own, and the few changes of it that are sent.

The replica starts from the public initial weights and stays in the hospital's memory. What leaves is part of its
change over a visit, to the server and every reader of the model.

Source: Shokri and Shmatikov 2015, Figure 4, https://doi.org/10.1145/2810103.2813687.
"""

import numpy as np

from wardround.hospital.kept.memory import Memory
from wardround.privacy.plans.kinds import Training
from wardround.privacy.plans.releases import noised_update, selects
from wardround.randomness import Stream
from wardround.training.local import LocalRun, local_steps
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Workbench
from wardround.types import Vector
from wardround.work import LocalSteps, Selection

_REPLICA = "replica"


def update_of(
    workbench: Workbench,
    memory: Memory,
    round: int,
    fetched: Vector,
    patients: TrainingPatients,
    part: Training,
    run: LocalSteps,
    selection: Selection,
    *,
    sampling: Stream,
    noise: Stream,
    draw: Stream,
) -> Vector:
    """Returns what a hospital sends of the change of its replica, (parameter,); zero where nothing is sent.

    `memory` holds the replica after earlier visits, and is given the replica after this one; the workbench's initial
    weights are the first. `fetched` are the server's parameters at `selection.positions`, (fetched,); `draw` chooses
    among changes, where that is left to chance.

    Guarantee:
        Where steps are noised, the replica is made of public weights, of parameters that the server sent, and of
        noised sums alone: the replica of every visit was, so this one is. A visit releases `run.steps` noised sums as
        `local_steps` does; choosing, cutting and leaving out is post-processing of them. Where whole updates are
        noised, the replica is a secret of the hospital, and its whole change goes through `noised_update`
        before anything is chosen by it: a visit costs one release of that mechanism, whatever the replica was. A
        mechanism that selects by itself has the last word.
    """
    replica = memory.before(round).get(_REPLICA, workbench.initial_weights).astype(np.float32)
    replica[selection.positions] = fetched
    [(_, trained, _)] = local_steps(workbench, part, [LocalRun(replica, patients, run, sampling, noise)])
    memory.write(round, {_REPLICA: trained})
    update = noised_update(part, trained - replica, noise)
    if selects(part):
        return update
    return chosen_changes(update, selection, draw)


def chosen_changes(change: Vector, selection: Selection, draw: Stream) -> Vector:
    """The change where it is chosen, cut to size; zero elsewhere, (parameter,)."""
    number = max(1, round(selection.fraction * change.size))
    size = np.abs(change)
    candidates = np.flatnonzero(size > selection.threshold)
    order = draw.uniform(candidates.size) if selection.random else -size[candidates]
    chosen = candidates[np.argsort(order, kind="stable")[:number]]
    update = np.zeros_like(change)
    update[chosen] = np.clip(change[chosen], -selection.truncation, selection.truncation)
    return update
