"""Noised pictures, before any training: each hospital charges its ledger, noises once, and lets go of the result.

What is released: `released.safetensors`, by hospital: noised pictures or features, noised labels, and where each
patient's begin. To whom: everybody. When: only after the charge is on disk. A run that goes on after an interruption
reads the file again; where it was interrupted before the file was whole, the charge stands and is made once more.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from wardround.agreed.network import loss_of
from wardround.boundary.private import write_whole
from wardround.config import Study
from wardround.errors import PrivacyError, RecordError
from wardround.hospital.charged import PICTURES
from wardround.hospital.pictures import workbench_of
from wardround.images.entries import Target
from wardround.per_patient.batch import Loss
from wardround.privacy.pictures import LocalRelease, PictureMechanism, Values
from wardround.privacy.plans.kinds import NoisedPictures
from wardround.privacy.plans.plan import Plan
from wardround.randomness import Randomness, Stream
from wardround.records.arrays import arrays_from_file, arrays_to_bytes
from wardround.records.folder import RunFolder
from wardround.reproduce.mechanisms.pictures.labels import backward_corrected, forward_corrected, response_of
from wardround.reproduce.mechanisms.pictures.noise import to_bytes
from wardround.reproduce.mechanisms.pictures.resemblance import coarse, reidentified, structural_similarity
from wardround.simulation.accounts import Accounts
from wardround.simulation.materials import Hospitals, Materials
from wardround.training.patients import Rows, TrainingPatients
from wardround.training.workbench import Workbench
from wardround.types import Labels

FILE = "released.safetensors"
_COMPARED = 1000

Array = npt.NDArray[np.generic]


def released_materials(
    study: Study,
    plan: Plan,
    materials: Materials,
    hospitals: Hospitals,
    accounts: Accounts,
    folder: RunFolder,
) -> Materials:
    """The materials that training sees: noised pictures and labels for training patients, the originals for all others.

    Guarantee:
        The release of `NoisedPictures`, for every training patient; test and validation patients are never released.

    Raises:
        PrivacyError: pictures that the mechanism cannot noise, or a ledger that refuses.
    """
    part = plan.training
    assert isinstance(part, NoisedPictures), "only a plan on pictures releases them"
    release = part.release
    check_noised(plan, materials.images.target, materials.workbench)
    path = folder.path / FILE
    _charge(plan, accounts, again=not path.exists())
    if not path.exists():
        write_whole(path, arrays_to_bytes(_noised(study, release, materials, hospitals)))
    return _in_place(study, release, materials, hospitals, arrays_from_file(path))


def check_noised(plan: Plan, target: Target, workbench: Workbench) -> None:
    """Refuses pictures that the plan's mechanism cannot noise.

    Raises:
        PrivacyError: they have masks, or their features are noised and the network has no fixed encoding.
    """
    part = plan.training
    assert isinstance(part, NoisedPictures), "only a plan on pictures releases them"
    if target is Target.MASKS:
        raise PrivacyError(
            'plan = "local-pictures" noises one label a picture, and the data has masks; use plan = "dp-sgd".',
            code="privacy-noised-pictures",
        )
    if part.release.pictures.reads_features and workbench.kept_inputs is None:
        raise PrivacyError(
            f"Noised features need a network with a fixed encoding, got {workbench.network.name}; use "
            'model.name = "features", train = "head" with public weights, or noise pixels.',
            code="privacy-noised-pictures",
        )


def _charge(plan: Plan, accounts: Accounts, *, again: bool) -> None:
    """All hospitals' charges, on disk when it returns; `again` also for those that were charged before."""
    with accounts.ledger.transaction():
        for account in accounts.of.values():
            if again or not account.charges(PICTURES):
                account.charge(plan.event_after(1), release=PICTURES, purpose=PICTURES)


def _noised(
    study: Study, release: LocalRelease, materials: Materials, hospitals: Hospitals
) -> dict[str, npt.NDArray[np.float32]]:
    """The release, by hospital; nothing else of the originals leaves this function."""
    randomness = Randomness(study.study.seed, f"{study.stream_name}/{PICTURES}")
    num_classes = len(materials.images.class_names)
    found: dict[str, Array] = {}
    for name, patients in hospitals.items():
        pictures, labels = [_as_released(release.pictures, materials, patients.rows[:0])], [patients.labels[:0]]
        for number, patient in enumerate(patients.names):
            of = slice(patients.starts[number], patients.starts[number + 1])
            # A stream for each patient: their noise in a seeded run does not depend on who is released before them.
            mine = patient.astype("<u8").tobytes().hex()
            noise = randomness.stream(name, "pictures", mine)
            pictures.append(_as_released(release.pictures, materials, patients.rows[of], noise))
            noise = randomness.stream(name, "labels", mine)
            labels.append(response_of(release).release(patients.labels[of], num_classes, noise))
        found[f"{name}/pictures"], found[f"{name}/labels"] = np.concatenate(pictures), np.concatenate(labels)
        found[f"{name}/patients"] = patients.starts
    return found  # type: ignore[return-value]  # safetensors keep every array's own type


def _as_released(
    mechanism: PictureMechanism, materials: Materials, rows: Rows, noise: Stream | None = None
) -> Array:
    """Returns noised pictures in the form that they are kept in, (picture, ...); without a stream only of none."""
    values = _originals(mechanism, materials, rows)
    assert noise is not None or not len(values), "pictures are noised"
    noisy = values if noise is None else mechanism.release(values, noise)
    return noisy.astype(np.float32) if mechanism.reads_features else to_bytes(noisy)


def _originals(mechanism: PictureMechanism, materials: Materials, rows: Rows) -> Values:
    if mechanism.reads_features:
        return materials.workbench.inputs_of(rows).numpy().astype(np.float64)
    return np.asarray(materials.images.pixels[rows], dtype=np.float64)


def _in_place(
    study: Study,
    release: LocalRelease,
    materials: Materials,
    hospitals: Hospitals,
    found: Mapping[str, Array],
) -> Materials:
    """The materials with what was released where the originals stood: all that follows is post-processing."""
    images, inputs = materials.images, materials.workbench.kept_inputs
    reads_features = release.pictures.reads_features
    pixels = images.pixels if reads_features else np.array(images.pixels)
    inputs = inputs.clone() if reads_features and inputs is not None else None
    labels = np.full(len(images.pixels), -1, dtype=np.int64)
    for name, patients in hospitals.items():
        values = _as_stored(found, f"{name}/pictures", len(patients.rows))
        labels[patients.rows] = _as_stored(found, f"{name}/labels", len(patients.rows))
        if inputs is not None:
            inputs[torch.from_numpy(patients.rows)] = torch.from_numpy(values)
        else:
            pixels[patients.rows] = values
    noised = replace(images, pixels=pixels)
    transition = response_of(release).transition(len(images.class_names))
    workbench = workbench_of(
        study, noised, copy.deepcopy(materials.workbench.network),
        loss=_corrected(study, loss_of(study, images.target), transition), inputs=inputs,
    )  # fmt: skip
    return replace(
        materials,
        images=noised,
        hospitals={name: _relabelled(p, labels) for name, p in materials.hospitals.items()},
        workbench=workbench,
        originals=materials,
    )


def _as_stored(found: Mapping[str, Array], name: str, count: int) -> Array:
    if name not in found or len(found[name]) != count:
        raise RecordError(f"{FILE} must hold {count} rows of {name}, and does not; start a new run.")
    return found[name]


def _relabelled(patients: TrainingPatients, labels: Labels) -> TrainingPatients:
    return replace(patients, labels=labels[patients.rows])


def _corrected(study: Study, loss: Loss, transition: npt.NDArray[np.float64]) -> Loss:
    match study.training.label_correction:
        case "forward":
            return forward_corrected(loss, transition)
        case "backward":
            return backward_corrected(loss, transition)
        case "none":
            return loss


def resemblance_of(plan: Plan, materials: Materials) -> dict[str, object] | None:
    """The resemblance of the released pictures to their originals; None where none were released.

    Guarantee: none. It needs the originals, and is a reference of a simulation. Of a thousand pictures at most.
    """
    originals = materials.originals
    part = plan.training
    if not isinstance(part, NoisedPictures) or originals is None:
        return None
    rows = np.concatenate([patients.rows for patients in materials.hospitals.values()])
    some = rows[:_COMPARED]
    similarity = None
    if part.release.pictures.reads_features:
        first, second = (_features(each, part) for each, part in ((originals, rows), (materials, some)))
    else:
        before, after = originals.images.pixels, materials.images.pixels
        first, second = coarse(before[rows]), coarse(after[some])
        similarity = float(structural_similarity(before[some], after[some]).mean())
    return {
        "ssim": similarity,
        "reidentified": reidentified(first, second),
        "chance": 1 / max(1, len(rows)),
        "compared": len(some),
    }


def _features(materials: Materials, rows: Rows) -> Values:
    return materials.workbench.inputs_of(rows).numpy().reshape(len(rows), -1).astype(np.float64)
