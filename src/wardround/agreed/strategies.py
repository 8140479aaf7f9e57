"""The one place that maps the names in a study file to strategies, their turns, and what each costs a hospital."""

from wardround.config import Study
from wardround.config.federation import LOCAL, RING
from wardround.federation.aggregators import Aggregator, CoordinatorNoise, PlainSum
from wardround.federation.local_training import LocalTraining, Repair
from wardround.federation.server import ServerOptimizer
from wardround.federation.strategies.alone import Alone
from wardround.federation.strategies.asynchronous import Asynchronous
from wardround.federation.strategies.fedavg import FedAvg
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategies.one_shot import OneShot
from wardround.federation.strategies.ring import Ring
from wardround.federation.strategies.scaffold import Scaffold
from wardround.federation.strategies.selective import Selective
from wardround.federation.strategy import Call, Strategy
from wardround.federation.timetable import Order, Timetable
from wardround.privacy.plans.kinds import NoisedUpdates
from wardround.privacy.plans.noisers import ByCoordinator
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of, coordinator_noise, share_of_patients
from wardround.randomness import Randomness
from wardround.types import Vector
from wardround.work import FittedHead, GradientSum, HeadFit, LocalUpdate, SelectiveUpdate, Work

_ORDERS = {
    "round-robin": Order.FIXED,
    "single-pass": Order.FIXED,
    "random-order": Order.RANDOM,
    "stochastic": Order.STOCHASTIC,
    "asynchronous": Order.STOCHASTIC,
}
_TURNS = {"fixed": Order.FIXED, "random": Order.RANDOM, "stochastic": Order.STOCHASTIC}


def timetable_of(study: Study, strategy: str | None = None) -> Timetable:
    """Returns the hospitals asked in each round of a study's main run, or of a reference run with another strategy."""
    federation, name = study.federation, strategy or study.federation.strategy
    count = 1 if name == "pooled" else study.hospitals.count
    if name in _ORDERS:
        return Timetable(count, _ORDERS[name], seed=federation.timetable_seed)
    if name == "selective":
        return Timetable(count, _TURNS[federation.turns], seed=federation.timetable_seed)
    if name in LOCAL and federation.fraction < 1:
        return Timetable(count, Order.FRACTION, federation.fraction, federation.timetable_seed)
    return Timetable(count)


def releases_after(study: Study, rounds: int, strategy: str | None = None) -> int:
    """Returns the releases of the hospital that was asked most often in the first `rounds` rounds.

    A release is one noised sum of gradients, or, where updates are noised, one update. Sums whose noise is correlated
    are one release all together.
    """
    if study.privacy.plan == "local-pictures":
        return 1  # of all pictures, before round 1
    if study.privacy.plan == "correlated-noise":
        return min(rounds, 1)
    name = strategy or study.federation.strategy
    steps = study.local_steps if name in LOCAL and study.privacy.plan in ("dp-sgd", "none") else 1
    return timetable_of(study, strategy).most_visits(rounds) * steps


def work_of(study: Study, strategy: str) -> type[Work]:
    """Returns the kind of work that hospitals are asked for in the rounds of a strategy."""
    if study.fits_head:
        return FittedHead
    if strategy == "selective":
        return SelectiveUpdate
    return LocalUpdate if strategy in LOCAL else GradientSum


def head_fit_of(study: Study) -> HeadFit:
    """Returns the objective of each hospital's head; a public number of patients is taken to be spread evenly."""
    privacy = study.privacy
    patients = None if privacy.num_patients is None else privacy.num_patients / study.hospitals.count
    return HeadFit(privacy.regularisation, privacy.clipping_norm, patients)


def strategy_of(
    study: Study, plan: Plan, name: str, aggregator: Aggregator, *, allowed_missing: int = 0
) -> Strategy:
    """Returns the strategy of that name, every number taken from the study and its plan."""
    federation, part = study.federation, plan.training
    call = Call(study.digest, allowed_missing=allowed_missing)
    timetable = timetable_of(study, name)
    if study.fits_head:
        shot = OneShot(call, aggregator, head_fit_of(study))
        return Alone(shot) if name in ("alone", "ensemble") else shot
    if name not in LOCAL:
        size = plan.public_size
        if name in ("alone", "ensemble") and size is not None:
            size = max(1, round(size / plan.hospitals))
        sgd = FedSGD(
            call=call,
            aggregator=aggregator,
            learning_rate=federation.learning_rate,
            momentum=federation.momentum,
            sampling_prob=share_of_patients(part),
            num_patients=size,
            clipping_norm=clip_of(part).norm,
            adaptive=clip_of(part).adaptive,
        )
        return Alone(sgd) if name in ("alone", "ensemble") else sgd
    local = LocalTraining(
        call=call,
        steps=study.local_steps,
        learning_rate=federation.learning_rate,
        momentum=federation.momentum,
        sampling_prob=share_of_patients(part),
        num_patients=plan.public_size,
        own_size=isinstance(part, NoisedUpdates),
        proximal=federation.proximal if name == "fedprox" else 0.0,
        keep_velocity=federation.optimizer_state == "travels",
        repair=Repair(federation.repair),
    )
    if name in RING:
        return Ring(local, timetable)
    if name == "asynchronous":
        return Asynchronous(local, timetable, federation.mixing, federation.staleness, federation.staleness_power)
    if name == "selective":
        return Selective(
            local, timetable,
            download_fraction=federation.download_fraction,
            upload_fraction=federation.upload_fraction,
            random=federation.selection == "random",
            threshold=federation.threshold,
            truncation=federation.truncation,
            counter_decay=federation.counter_decay,
        )  # fmt: skip
    if name == "scaffold":
        return Scaffold(local, timetable, federation.server_learning_rate)
    server = ServerOptimizer(
        federation.server_optimizer, federation.server_learning_rate, federation.server_momentum
    )
    return FedAvg(local, aggregator, timetable, server, federation.hospital_weights)


def open_aggregator(plan: Plan, randomness: Randomness) -> Aggregator:
    """Returns the aggregator that forms sums in the open, with the coordinator's noise where the plan has it."""
    if not isinstance(plan.noiser, ByCoordinator):
        return PlainSum()

    def noise(size: int, round: int) -> Vector:
        part = plan.training if round else plan.count
        return coordinator_noise(part, size, randomness.stream("coordinator", "noise", round))

    return CoordinatorNoise(PlainSum(), noise)
