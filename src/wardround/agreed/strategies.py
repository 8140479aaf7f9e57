"""The strategy of a study: its turns, what it asks hospitals for, and what each of them releases."""

import math
from collections.abc import Callable, Iterator
from typing import assert_never

import numpy as np

from wardround.agreed.schedule import own_size, rate_of, sum_std
from wardround.config import Study
from wardround.config.federation import (
    ALONE,
    AsynchronousSection,
    Averaging,
    Descent,
    EvaluationStrategy,
    FederatedSGD,
    Local,
    OneShotSection,
    Proximal,
    PublishedStrategy,
    RandomOrder,
    RoundRobin,
    Scaffolding,
    SinglePass,
    StochasticOrder,
)
from wardround.config.privacy import NoPrivacy, OutputPerturbed
from wardround.config.robust import robust_section
from wardround.federation.aggregators import Aggregator, CoordinatorNoise, PlainSum
from wardround.federation.local_training import LocalTraining, Repair
from wardround.federation.robust import Krum, Mean, Median, MultiKrum, Robust, Rule, Trimmed
from wardround.federation.server import ServerOptimizer
from wardround.federation.strategies.alone import Alone
from wardround.federation.strategies.asynchronous import Asynchronous
from wardround.federation.strategies.centred import Centred
from wardround.federation.strategies.fedavg import FedAvg
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategies.one_shot import OneShot
from wardround.federation.strategies.ring import Ring
from wardround.federation.strategies.scaffold import Scaffold
from wardround.federation.strategies.scored import Scored, average_from
from wardround.federation.strategy import Call, Strategy, Unchanged
from wardround.federation.timetable import Order, Timetable
from wardround.noisers import ByCoordinator
from wardround.privacy.plans.kinds import NoisedGradients, NoisedUpdates
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of, coordinator_noise, share_of_patients
from wardround.published import published
from wardround.randomness import Randomness
from wardround.training.centring import estimated, folded, unit_of
from wardround.types import Vector
from wardround.work import (
    CountClasses,
    CountPatients,
    Evaluate,
    FittedHead,
    GradientSum,
    HeadFit,
    LocalUpdate,
    RowSum,
    ScoreSum,
    SelectiveUpdate,
    Work,
)

_NO_WEIGHTS = np.zeros(0, dtype=np.float32)


def timetable_of(study: Study) -> Timetable:
    """Returns the hospitals asked in each round."""
    section, count = study.federation, study.hospitals.count
    match section:
        case FederatedSGD(strategy="pooled"):
            return Timetable(1)
        case FederatedSGD() | OneShotSection() | EvaluationStrategy():
            return Timetable(count)
        case Averaging() | Scaffolding():
            if section.fraction < 1:
                return Timetable(count, Order.FRACTION, section.fraction, section.timetable_seed)
            return Timetable(count)
        case RoundRobin() | SinglePass():
            return Timetable(count, Order.FIXED)
        case RandomOrder():
            return Timetable(count, Order.RANDOM, seed=section.timetable_seed)
        case StochasticOrder() | AsynchronousSection():
            return Timetable(count, Order.STOCHASTIC, seed=section.timetable_seed)
        case PublishedStrategy():
            turns: Timetable = published(section.strategy, "strategy").timetable_of(section, count)
            return turns
        case _:
            assert_never(section)


def releases_after(study: Study, rounds: int) -> int:
    """Returns the releases of the hospital that was asked most often in the first `rounds` rounds.

    A release is one noised sum of gradients, or, where updates are noised, one update. Sums whose noise is correlated
    are one release all together.
    """
    return releases_of_visits(study, timetable_of(study).most_visits(rounds))


def releases_of_visits(study: Study, visits: int) -> int:
    """Returns the releases of a hospital that answered in `visits` rounds."""
    if study.privacy.releases_pictures:
        return 1  # of all pictures, before round 1
    if study.privacy.plan == "correlated-noise":
        return min(visits, 1)
    return visits * (study.local_steps if study.privacy.plan in ("dp-sgd", "none") else 1)


def spare_releases(study: Study) -> int:
    """Returns the releases that the study's spare attempts may add to those of its rounds, at one hospital.

    Every one of them may be the attempt of a round, or of the count before round 1, which is paid for in
    `NoisedCounts.releases`.
    """
    return study.privacy.spare * (study.local_steps if study.privacy.plan == "dp-sgd" else 1)


def asks(study: Study, plan: Plan) -> Iterator[Work]:
    """Yields one of each piece of work that hospitals are asked for, without the model: what a plan has to protect."""
    local = isinstance(study.federation, Local)
    repair = Repair(getattr(study.federation, "repair", "none"))
    if isinstance(study.federation, EvaluationStrategy):
        pass  # the model is given
    elif repair.counts_classes:
        yield CountClasses()
    elif repair is Repair.PROPORTIONAL or not (
        study.fits_head or plan.public_size is not None or (local and _own_size(plan))
    ):
        yield CountPatients()
    section = study.federation
    if study.fits_head:
        yield FittedHead(head_fit_of(study))
    elif isinstance(section, EvaluationStrategy):
        pass
    elif isinstance(section, PublishedStrategy):
        steps = _local(study, plan, Call("")).steps_for(_ONE, 0)
        yield published(section.strategy, "strategy").work_of(section, steps)
    elif isinstance(section, Local):
        yield LocalUpdate(_NO_WEIGHTS, _local(study, plan, Call("")).steps_for(_ONE, 0))
    else:
        clip = clip_of(plan.training)
        yield GradientSum(_NO_WEIGHTS, None if clip.adaptive is None else clip.norm)
        if _centres(plan):
            yield RowSum(_NO_WEIGHTS)
        if study.score_rounds:
            yield ScoreSum(_NO_WEIGHTS)
    if plan.evaluation is not None:
        yield Evaluate(_NO_WEIGHTS)


_ONE = {"num_patients": np.ones(1, dtype=np.float32), "class_counts": np.ones((1, 2), dtype=np.float32)}
"""A state in which the one hospital has one patient of each class."""


def asked_by(study: Study, plan: Plan) -> Callable[[Work, int], bool]:
    """Returns whether the study's strategy asks a hospital for this work in a round, with these parameters.

    The model and what follows from it may be anything; every number of the study is as the study has it.
    """
    kinds = {type(work): work for work in asks(study, plan)}
    section, hospitals = study.federation, timetable_of(study).hospitals
    is_local = any(isinstance(work, LocalUpdate | SelectiveUpdate) for work in kinds.values())
    local, centres = _local(study, plan, Call("")) if is_local else None, _centres(plan)

    def is_asked(work: Work, round: int) -> bool:
        agreed = kinds.get(type(work))
        match work:
            case Evaluate():
                return agreed is not None
            case GradientSum():
                if agreed is None or not centres < round <= study.training_rounds:
                    return False
                is_centred = work.centre is not None
                return is_centred == (centres > 0) and clip_of(plan.training).asked_in(round, work.clipping_norm)
            case RowSum():
                return agreed is not None and 0 < round <= centres
            case ScoreSum():
                return agreed is not None and round > study.training_rounds
            case LocalUpdate() | SelectiveUpdate():
                if agreed is None or local is None:
                    return False
                if not local.asks_for(work.steps, hospitals, corrected=isinstance(section, Scaffolding)):
                    return False
                if not isinstance(work, SelectiveUpdate) or not isinstance(agreed, SelectiveUpdate):
                    return True
                chosen: bool = published(section.strategy, "strategy").selects_as(agreed.selection, work.selection)
                return chosen
            case _:
                return agreed == work

    return is_asked


def average_last_of(study: Study) -> float:
    """Returns the last part of the rounds whose weights are averaged; 0 where everything is fitted at once."""
    return study.federation.average_last if isinstance(study.federation, Descent) else 0.0


def head_fit_of(study: Study) -> HeadFit:
    """Returns the objective of each hospital's head; a public number of patients is taken to be spread evenly."""
    privacy = study.privacy
    if not isinstance(privacy, OutputPerturbed | NoPrivacy):
        return HeadFit(0.01, 1.0, None)  # asked for by no strategy under another plan, and protected by none
    patients = None if privacy.num_patients is None else privacy.num_patients / study.hospitals.count
    return HeadFit(privacy.regularisation, privacy.row_norm, patients)


def strategy_of(
    study: Study, plan: Plan, aggregator: Aggregator, *, classes: int, allowed_missing: int = 0
) -> Strategy:
    """Returns the study's strategy, every number taken from the study, its plan and the number of classes.

    `classes` is their number, as the hospitals have them; only heads need it.
    """
    call, timetable = Call(study.digest, allowed_missing=allowed_missing), timetable_of(study)
    section = study.federation
    if study.fits_head:
        shot = OneShot(call, aggregator, head_fit_of(study))
        return Alone(shot) if section.strategy in ALONE else shot
    match section:
        case FederatedSGD():
            clip = clip_of(plan.training)
            sgd = FedSGD(
                call=call,
                aggregator=aggregator,
                learning_rate=rate_of(study, section, plan, classes),
                momentum=section.momentum,
                sampling_prob=share_of_patients(plan.training),
                num_patients=own_size(study, plan.public_size),
                clipping_norm=clip.norm,
                adaptive=clip.adaptive,
                left_out_from=section.rounds - study.hospitals.count + 1 if section.leave_one_out else 0,
            )
            if section.strategy in ALONE:
                return Alone(sgd)
            head: Strategy = sgd
            if _centres(plan):
                head = _centred(study, plan, sgd, classes)
            if not section.score_rounds:
                return head
            return Scored(
                head, call, aggregator, section.rounds, average_from(section.rounds, section.average_last)
            )
        case EvaluationStrategy():
            return Unchanged()
        case OneShotSection():
            return OneShot(call, aggregator, head_fit_of(study))
        case Scaffolding():
            return Scaffold(_local(study, plan, call), timetable, section.server_learning_rate)
        case Averaging():
            server = ServerOptimizer(
                section.server_optimizer, section.server_learning_rate, section.server_momentum
            )
            return FedAvg(_local(study, plan, call), aggregator, timetable, server, section.hospital_weights)
        case RoundRobin() | SinglePass() | RandomOrder() | StochasticOrder():
            return Ring(_local(study, plan, call), timetable)
        case AsynchronousSection():
            local = _local(study, plan, call)
            return Asynchronous(local, timetable, section.mixing, section.staleness, section.staleness_power)
        case PublishedStrategy():
            local, module = _local(study, plan, call), published(section.strategy, "strategy")
            made: Strategy = module.strategy_of(section, local, timetable)
            return made
        case _:
            assert_never(section)


def _centres(plan: Plan) -> int:
    """Returns the rounds before training that release the mean row."""
    return plan.training.centres if isinstance(plan.training, NoisedGradients) else 0


def _centred(study: Study, plan: Plan, sgd: FedSGD, classes: int) -> Centred:
    """Returns a head's descent on rows less their mean, which its first rounds release."""
    part, heads = plan.training, classes - (study.model.head == "ordinal")
    assert isinstance(part, NoisedGradients), "it has rounds of mean rows"
    unit = part.centres * part.sampling_prob * unit_of(part.clip.norm)
    std = sum_std(study, part) * math.sqrt(part.centres) / unit

    def centre_of(sums: Vector, patients: float) -> Vector:
        return estimated(sums / np.float32(unit), patients, std, sums.size // heads)

    def fold(weights: Vector, centre: Vector) -> Vector:
        return folded(weights, centre, weights.size // heads)

    return Centred(sgd, sgd.call, sgd.aggregator, part.centres, centre_of, fold)


def _local(study: Study, plan: Plan, call: Call) -> LocalTraining:
    """Returns the local training that a strategy with local steps asks for."""
    section = study.federation
    assert isinstance(section, Local), "asked for local strategies alone"
    return LocalTraining(
        call=call,
        steps=study.local_steps,
        learning_rate=section.learning_rate,
        momentum=section.momentum,
        sampling_prob=share_of_patients(plan.training),
        num_patients=plan.public_size,
        own_size=_own_size(plan),
        proximal=section.proximal if isinstance(section, Proximal) else 0.0,
        keep_velocity=getattr(section, "optimizer_state", "reset") == "travels",
        repair=Repair(getattr(section, "repair", "none")),
    )


def _own_size(plan: Plan) -> bool:
    """Returns whether each hospital divides by its own number of patients, which a mechanism on its update hides."""
    return isinstance(plan.training, NoisedUpdates)


def open_aggregator(study: Study, plan: Plan, randomness: Randomness) -> Aggregator:
    """Returns the aggregator that forms sums in the open, with the coordinator's noise where the plan has it."""
    section = robust_section(study.federation)
    if section is not None:
        return Robust(_rule_of(section), section.norm_bound)
    if not isinstance(plan.noiser, ByCoordinator):
        return PlainSum()

    def noise(size: int, round: int) -> Vector:
        part = plan.training if round else plan.count
        return coordinator_noise(part, size, randomness.stream("coordinator", "noise", round))

    return CoordinatorNoise(PlainSum(), noise)


def fewest_answers(study: Study) -> int:
    """Returns the answers that the mean of a round cannot do without."""
    section = robust_section(study.federation)
    return 1 if section is None else _rule_of(section).fewest


def _rule_of(section: FederatedSGD | Averaging) -> Rule:
    match section.aggregate:
        case "mean":
            return Mean()
        case "median":
            return Median()
        case "trimmed":
            return Trimmed(section.byzantine)
        case "krum":
            return Krum(section.byzantine)
        case "multi-krum":
            return MultiKrum(section.byzantine)
        case _:
            assert_never(section.aggregate)
