"""A hospital's test patients: set aside by their own ids, never trained on, and the figures of a model on them.

Who is set aside follows from a keyed hash of the patient's own id (`[data] test_fraction`, key `[hospitals]
split_seed`): the same patients as in a simulation of the study, and the same ones when the cohort grows.

Released: with `[evaluation] level = "none"` nothing. Else each patient's row (`wardround.privacy.histograms`) in a sum,
as the plan's evaluation says, once their own account is charged or, where nothing protects them, once the ledger lists
them. A hospital's own figures are exact; they stay in a file of its folder.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wardround.boundary.private import make_private_folder
from wardround.config import Study
from wardround.errors import MissingExtra
from wardround.hospital.charged import run_of
from wardround.images.entries import Target
from wardround.images.patients import ImageSet, Patient
from wardround.images.quality.mistakes import write_mistakes
from wardround.ledger.account import Account
from wardround.ledger.file import LedgerFile
from wardround.privacy.histograms import dice_of, dice_row, histogram_row
from wardround.privacy.plans.kinds import NoisedHistograms, OpenHistograms
from wardround.privacy.plans.plan import Plan
from wardround.randomness.places import Places
from wardround.secure_aggregation.keys.key_files import write_key_file
from wardround.training.metrics.classification import evaluate
from wardround.training.patients import Rows, TrainingPatients, training_patients
from wardround.training.workbench import Workbench
from wardround.types import Masks, Vector
from wardround.work import histogram_coordinates

FOLDER = "evaluation"


def set_aside(patients: Sequence[Patient], study: Study) -> tuple[list[Patient], list[Patient]]:
    """Returns the patients to train on and those to test on, each decided by the patient's own id alone.

    Where `[data] test` is not "patients" nobody is set aside: exact shares and published parts are a simulation's.
    """
    if study.data.test != "patients":
        return list(patients), []
    places, fraction = Places.of_seed(study.hospitals.split_seed), study.data.test_fraction
    tested = [places.of("test", patient.id) < fraction for patient in patients]
    return (
        [patient for patient, is_tested in zip(patients, tested, strict=True) if not is_tested],
        [patient for patient, is_tested in zip(patients, tested, strict=True) if is_tested],
    )


@dataclass(frozen=True)
class Examined:
    """A hospital's test patients in one study.

    Attributes:
        patients: those whose figures may leave by the plan, with all of their pictures.
        account: theirs, which each noised sum is charged to; None where none leaves.
        list_unprotected: writes them down in the ledger as released without protection; before every such release.
        everybody: all test patients, for the hospital's own figures.
        path: of the file of those figures; the page of wrong calls is beside it.
        images: all of the hospital's.
    """

    patients: TrainingPatients
    account: Account | None
    list_unprotected: Callable[[], None]
    everybody: TrainingPatients
    path: Path
    images: ImageSet

    def rows(self, workbench: Workbench, weights: Vector) -> Iterator[npt.NDArray[np.float64]]:
        """Yields what each test patient adds to the histograms, (coordinate,). Private, each of them."""
        patients = self.patients
        for first, last in pairwise(patients.starts):
            # A patient alone in a batch: in another one's company the last bit of a score could differ.
            own = patients.rows[first:last]
            if self.images.target is Target.MASKS:
                yield dice_row(_masks(workbench, weights, own), len(self.images.class_names))
            else:
                yield histogram_row(workbench.probabilities(weights, own), patients.labels[first:last])

    def histograms(self, workbench: Workbench, weights: Vector, classes: int) -> npt.NDArray[np.float64]:
        """Returns the sum of the test patients' rows, (coordinate,); zeros without patients. Private."""
        return sum(self.rows(workbench, weights), np.zeros(histogram_coordinates(classes)))

    def keep_own_figures(self, workbench: Workbench, weights: Vector) -> None:
        """Writes the exact figures of a model on all test patients into the hospital's own folder (mode 0600).

        Of a segmentation it is the mean Dice of the patients who have each class. Beside figures of classes stands a
        page with the pictures that the model calls wrongly, where Jinja2 is installed.
        """
        tested, classes = self.everybody, self.images.class_names
        figures: dict[str, object] | None = None
        if len(tested) and self.images.target is Target.MASKS:
            own = [tested.rows[first:last] for first, last in pairwise(tested.starts)]
            found = [dice_of(_masks(workbench, weights, rows), len(classes)) for rows in own]
            dice, has = (np.stack(column) for column in zip(*found, strict=True))
            having = has.sum(axis=0)
            means = (dice * has).sum(axis=0) / np.maximum(having, 1)
            figures = {
                "dice": {
                    name: float(mean) if count else None
                    for name, mean, count in zip(classes, means, having, strict=True)
                }
            }
        elif len(tested):
            scores = workbench.probabilities(weights, tested.rows)
            if np.isfinite(scores).all():
                of = np.repeat(np.arange(len(tested)), tested.counts)
                generator, grades = np.random.default_rng(0), self.images.target is Target.GRADES
                figures = evaluate(scores, tested.labels, of, generator=generator, grades=grades).to_json()
                with suppress(MissingExtra):
                    make_private_folder(self.path.parent)
                    page = self.path.with_suffix(".html")
                    write_mistakes(self.images, tested.rows, scores, page, named=True)
        content = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "test_patients": len(tested),
            "protected_by": "nothing: for this hospital alone",
            "figures": figures,
        }
        make_private_folder(self.path.parent)
        write_key_file(self.path, (json.dumps(content, indent=2) + "\n").encode(), replace=True)


def _masks(workbench: Workbench, weights: Vector, rows: Rows) -> Iterator[tuple[Masks, Masks]]:
    """Yields predicted and true masks of some pictures, part by part."""
    for part, predicted in workbench.predicted_masks(weights, rows):
        yield predicted, workbench.true_masks(part)


def examined_of(
    ledgers: LedgerFile, study: Study, plan: Plan, hospital: str, tested: Sequence[Patient], folder: Path,
    images: ImageSet,
) -> Examined:  # fmt: skip
    """Returns a hospital's test patients in a study, with an account of their own where the plan charges them.

    What the evaluation may cost them is kept for it from here on; who cannot afford that is in no figure that leaves.

    Args:
        ledgers: the hospital's.
        study: names the run.
        plan: the study's.
        hospital: its name in the study.
        tested: all test patients.
        folder: of the hospital.
        images: all of the hospital's; their digest stays in the ledger.

    Raises:
        BudgetExhausted: nobody could afford the evaluation.
        LedgerError: the ledger is damaged, busy, or cannot be written.
    """
    run, persons = f"{run_of(study, images.digest, study.digest)}/evaluation", [patient.id for patient in tested]
    account, admitted = None, list(tested)
    match plan.evaluation:
        case NoisedHistograms():
            account = ledgers.begin(
                run=run, study=study.digest, name=study.study.name, hospital=hospital, persons=persons,
                foreseen=plan.evaluation_event, epsilon=plan.evaluation_epsilon, delta=plan.delta,
                accountant=plan.accountant, seeded=study.study.seed is not None,
            )  # fmt: skip
            admitted = [patient for patient, is_in in zip(tested, account.admitted, strict=True) if is_in]
        case None:
            admitted = []
        case OpenHistograms():
            pass
    return Examined(
        patients=training_patients(admitted, None),
        account=account,
        list_unprotected=lambda: ledgers.unprotected(
            run=run, study=study.digest, persons=persons, purpose="evaluation"
        ),
        everybody=training_patients(tested, None),
        path=folder / FOLDER / f"{study.digest}.json",
        images=images,
    )
