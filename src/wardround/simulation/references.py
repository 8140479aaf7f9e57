"""Reference runs beside the main one: what pooling would give, what being alone gives, what privacy costs.

They exist in a simulation only, where one machine holds all patients anyway. Nothing is charged to the
hospitals' ledgers for them, so nothing of them may be published as if it were covered by the statement: the
record marks each as "released without protection".

Without privacy, a private head is compared with the best of its family: logistic regression on the same rows,
fitted to the end (`fitted_reference`). Of other networks it is the same training, clipped alike, without noise.

They begin when the main run is finished: its model, its signed record and its page wait for none of them. Each is on
disk when it ends, so that what was interrupted goes on with the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wardround.accounting.numbers import number_to_json
from wardround.agreed.plans import check_fit
from wardround.agreed.schedule import own_size, rate_of
from wardround.agreed.strategies import average_last_of, releases_after
from wardround.config import Study
from wardround.config.federation import ALONE, FederatedSGD
from wardround.coordinator.observer import Observer
from wardround.coordinator.rounds import JsonDict, Models, Position, Schedule, run_rounds
from wardround.errors import StudyError
from wardround.federation.strategies.alone import Alone
from wardround.federation.strategies.fedsgd import PerPatient
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.calibrate import alone, in_the_open, not_private
from wardround.privacy.plans.kinds import CorrelatedGradients, NoisedGradients, NotPrivate
from wardround.privacy.plans.plan import Plan
from wardround.records.added import write_reference
from wardround.records.folder import RunRecord
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.simulation.evaluation import evaluate_models, headlines_of, summary_of
from wardround.simulation.federate import federate_apart
from wardround.simulation.materials import Hospitals, Materials
from wardround.simulation.sweeps.together import Head, share_passes, trained_together
from wardround.training.convex import fit_head
from wardround.training.patients import TrainingPatients, united
from wardround.training.workbench import Workbench
from wardround.types import HospitalName, Vector
from wardround.work import HeadFit

POOLED = HospitalName("pooled")


@dataclass(frozen=True)
class Reference:
    """One kind of reference run.

    Attributes:
        strategy: what is run.
        private: under the main run's plan with full noise; else without noise.
        text: what it is, for a reader.
    """

    strategy: str
    private: bool
    text: str


REPEATS, NUM_REPEATS = "repeats", 5
"""The run again with other noise: its spread. The released model is the run's own, however the repeats end."""

_QUICK_RESAMPLES = 2  # intervals of single repeats are not shown

REFERENCES: dict[str, Reference] = {
    REPEATS: Reference("fedsgd", True, "federated, private, with other draws of the noise"),
    "no-privacy": Reference("fedsgd", False, "federated, without privacy"),
    "pooled": Reference("pooled", True, "all patients in one place, private"),
    "pooled-no-privacy": Reference("pooled", False, "all patients in one place, without privacy"),
    "alone": Reference("alone", True, "each hospital alone, private"),
    "alone-no-privacy": Reference("alone", False, "each hospital alone, without privacy"),
    "ensemble": Reference("ensemble", True, "the hospitals' own models, outputs averaged, private"),
    "ensemble-no-privacy": Reference(
        "ensemble", False, "the hospitals' own models, outputs averaged, without privacy"
    ),
}

_OF_ALL = (REPEATS, "no-privacy", "pooled", "pooled-no-privacy")
"""References whose sums are over all patients."""

_CENTRED = (REPEATS, "pooled")
"""Those whose first rounds release the mean row, where the study's do; others see rows as they are."""

PENALTY = 0.01
"""Half of it times the squared weights of a head without privacy is added to its patients' summed losses. Public."""

_FITTED = "logistic regression on the same features, fitted to the end, with no clip and no noise"


class _Forget:
    """A journal for runs that are not resumed."""

    def write_checkpoint(self, round: int, arrays: object) -> None:
        """See `Journal`."""

    def append_round(self, entry: JsonDict) -> None:
        """See `Journal`."""


def wanted(study: Study, plan: Plan) -> tuple[str, ...]:
    """Returns the reference runs that a study asks for, without those that a run without privacy is itself."""
    return tuple(
        name
        for name in study.federation.compare
        if plan.is_private or not (REFERENCES[name].private or name == "no-privacy")
    )


def num_runs(study: Study) -> int:
    """Returns how many reference runs a study asks for, each repeat of the noise for itself."""
    return sum(len(_labels(name)) for name in study.federation.compare)


def run_references(
    study: Study, plan: Plan, materials: Materials, record: RunRecord, observer: Observer, key: SigningKey
) -> RunRecord:
    """Runs what is outstanding of a finished run's references; returns its record with them.

    Args:
        study: of the run.
        plan: of the run.
        materials: that it was trained on.
        record: of the run.
        observer: watches.
        key: private, which signed the record; signs each reference when it ends.
    """
    names, rows = record.outstanding, dict[str, dict[str, object]]()
    fitted = [name for name in names if not REFERENCES[name].private] if is_fitted(study, materials) else []
    heads: dict[bool, Models] = {}  # of each hospital or of all together: references of one kind share them
    alike = [name for name in names if name in _OF_ALL and name not in fitted]
    for name in names:
        observer.stage(f"reference run: {name}")
        if name in fitted:
            row = fitted_reference(name, study, plan, materials, heads)
        elif name in alike and share_passes(study, plan, materials):
            rows = rows or run_together(alike, study, plan, materials, observer)
            row = rows[name]
        else:
            row = run_reference(name, study, plan, materials, observer)
        write_reference(record.path, name, row, key)
    return RunRecord.read(record.path)


def run_together(
    names: Sequence[str], study: Study, plan: Plan, materials: Materials, observer: Observer
) -> dict[str, dict[str, object]]:
    """Returns the rows of references of all patients, which share each pass over the features; see `share_passes`."""
    heads = []
    for name in names:
        resting, own = _resting_on(name, study, plan)
        heads += [(name, Head(label, resting, own)) for label in _labels(name)]
    models = trained_together([head for _, head in heads], materials, observer)
    found: dict[str, dict[str, object]] = {}
    for name in names:
        own_models = [(head, model) for (of, head), model in zip(heads, models, strict=True) if of == name]
        found[name] = _row(
            name, own_models[0][0].plan, {head.label: model for head, model in own_models}, materials
        )
    return found


def is_fitted(study: Study, materials: Materials) -> bool:
    """Returns whether references without privacy are fitted to the end: those of a private head."""
    return study.recipe is not None and materials.workbench.trains_head


def fitted_reference(
    name: str, study: Study, plan: Plan, materials: Materials, heads: dict[bool, Models]
) -> dict[str, object]:
    """Returns the row of a head without privacy: logistic regression on the rows, fitted to the end; see `is_fitted`.

    A patient weighs one over all own pictures. Of all hospitals' patients, or of each hospital's a head: `heads` has
    those of each kind that are fitted already, and gets them.
    """
    strategy, (_, own) = _strategy_of(name, study), _resting_on(name, study, plan)
    is_alone = strategy in ALONE
    if is_alone not in heads:
        hospitals = materials.hospitals if is_alone else {POOLED: pooled(materials.hospitals)}
        heads[is_alone] = {
            hospital: _fitted(materials.workbench, patients) for hospital, patients in hospitals.items()
        }
    return _row(name, own, heads[is_alone], materials, ensemble=strategy == "ensemble", how=_FITTED)


def _fitted(workbench: Workbench, patients: TrainingPatients) -> Vector:
    fit = HeadFit(PENALTY / max(1, len(patients)), 1.0, None)
    return fit_head(workbench, patients, fit).astype(np.float32)


def run_reference(
    name: str, study: Study, plan: Plan, materials: Materials, observer: Observer
) -> dict[str, object]:
    """One reference run from first to last round; its row for the comparison."""
    reference = REFERENCES[name]
    strategy = _strategy_of(name, study)
    if not reference.private and materials.originals is not None:
        materials = materials.originals
    hospitals = {POOLED: pooled(materials.hospitals)} if strategy == "pooled" else materials.hospitals
    study, own = _resting_on(name, study, plan)
    if not reference.private:
        noised = plan if name == "no-privacy" else _noised(name, study, plan)
        study = _with_rate(study, noised, materials, hospitals)
    schedule = Schedule(study.rounds, study.rounds, average_last_of(study))

    def look(round: int, models: Models | None) -> JsonDict:
        observer.progress(round, schedule.num_rounds)
        return {}

    models: Models = {}
    for label in _labels(name):
        with LedgerFile(":memory:") as ledger:
            federation = federate_apart(study, own, materials, hospitals, ledger, label=label)
            chosen, channel = federation.coordinator.strategy, federation.coordinator.channel
            if study.fits_head and strategy in ALONE and not isinstance(chosen, Alone):
                chosen = Alone(chosen)
            state = chosen.init(materials.workbench.initial_weights, channel)
            outcome = run_rounds(chosen, channel, schedule, Position(0, state), _Forget(), look)
        models |= dict.fromkeys([label], *outcome.models.values()) if name == REPEATS else outcome.models
    return _row(name, own, models, materials, ensemble=strategy == "ensemble")


def _labels(name: str) -> list[str]:
    """Returns the label of each run of a reference, by which its streams are named."""
    if name != REPEATS:
        return [f"reference/{name}"]
    return [f"reference/{name}/{number}" for number in range(1, NUM_REPEATS + 1)]


def _row(
    name: str, own: Plan, models: Models, materials: Materials, *, ensemble: bool = False, how: str = ""
) -> dict[str, object]:
    """Returns a reference as its record has it; of repeats with the headline of each."""
    metrics = evaluate_models(
        models, materials, ensemble=ensemble, num_resamples=_QUICK_RESAMPLES if name == REPEATS else 1000
    )
    row: dict[str, object] = {
        "text": REFERENCES[name].text,
        "private": own.is_private,
        **({"how": how} if how else {}),
        "epsilon": number_to_json(own.epsilon),
        "delta": own.delta,
        "released": "without protection: a reference in a simulation, charged to no ledger",
        "metrics": summary_of(metrics),
    }
    if name == REPEATS:
        row["headlines"] = headlines_of(metrics)
    return row


def check_references(study: Study, plan: Plan) -> None:
    """Refuses, before a run has begun, reference runs that ask for answers which the plan does not protect.

    Raises:
        StudyError: names the reference, and what would fit.
    """
    for name in study.federation.compare:
        is_for = isinstance(plan.training, NoisedGradients | CorrelatedGradients | NotPrivate)
        if name == REPEATS and (study.federation.strategy in ALONE or not is_for):
            raise StudyError(
                '`[federation] compare` has "repeats", which is for noised sums of gradients and one model, got '
                f'plan = "{study.privacy.plan}" and strategy = "{study.federation.strategy}". Remove it.',
                code="study-repeats",
            )
        try:
            check_fit(*_resting_on(name, study, plan))
        except StudyError:
            raise StudyError(
                f'The reference "{name}" must ask for answers that plan = "{study.privacy.plan}" protects, and asks '
                f'for sums of gradients; use "{name}-no-privacy".',
                code="study-plan-strategy",
            ) from None


def _resting_on(name: str, study: Study, plan: Plan) -> tuple[Study, Plan]:
    """Returns the study and the plan of a reference run."""
    study = _with_strategy(study, _strategy_of(name, study), study.centre_rounds if name in _CENTRED else 0)
    own = _noised(name, study, plan)
    return study, own if REFERENCES[name].private else not_private(own, own.releases)


def _noised(name: str, study: Study, plan: Plan) -> Plan:
    """Returns the plan of a reference with noise; `study` has the reference's strategy."""
    if name == REPEATS and plan.is_private:
        return in_the_open(plan, releases_after(study, study.rounds))
    hospitals = 1 if study.federation.strategy == "pooled" else study.hospitals.count
    return alone(plan, hospitals, releases_after(study, study.rounds), centres=study.centre_rounds)


def _with_rate(study: Study, noised: Plan, materials: Materials, hospitals: Hospitals) -> Study:
    """Returns the study of a reference without noise at the rate of the run with noise; it may know its patients."""
    section = study.federation
    if not isinstance(section, FederatedSGD) or section.learning_rate != "auto":
        return study
    size = noised.public_size or sum(map(len, hospitals.values()))
    rate = rate_of(study, section, noised, len(materials.images.class_names))
    assert isinstance(rate, PerPatient), "it is by the rule"
    number = rate.at(own_size(study, size) or 1)
    return study.model_copy(update={"federation": section.model_copy(update={"learning_rate": number})})


def _strategy_of(name: str, study: Study) -> str:
    """Returns the strategy of a reference; of repeats, and without privacy, federated, it is the main one."""
    return study.federation.strategy if name in (REPEATS, "no-privacy") else REFERENCES[name].strategy


def _with_strategy(study: Study, strategy: str, centre_rounds: int) -> Study:
    """Returns the study with another strategy of one gradient a round, without scores; a fit to the end stays one."""
    own = study.federation
    if isinstance(own, FederatedSGD):
        less = {"score_rounds": 0, "centre_rounds": centre_rounds}
        study = study.model_copy(update={"federation": own.model_copy(update=less)})
    if strategy == own.strategy or study.fits_head:
        return study
    steps = {key: getattr(own, key) for key in ("learning_rate", "momentum", "average_last")}
    steps |= {"rounds": study.training_rounds, "centre_rounds": centre_rounds}
    section = FederatedSGD.model_validate({"strategy": strategy, **steps})
    return study.model_copy(update={"federation": section})


def pooled(hospitals: Hospitals) -> TrainingPatients:
    """All hospitals' patients as one hospital's, in the hospitals' order."""
    return united(list(hospitals.values()))
