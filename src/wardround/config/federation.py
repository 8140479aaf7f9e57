"""`[federation]`: how the rounds go; one class for each kind of strategy.

A key stands in the classes that have a use for it, so that no study file can give one that is ignored.
"""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from wardround.config.section import PublishedSection, Section
from wardround.published import PublishedStrategyName

ReferenceName = Literal[
    "repeats", "no-privacy", "pooled", "pooled-no-privacy", "alone", "alone-no-privacy", "ensemble",
    "ensemble-no-privacy",
]  # fmt: skip

TIMETABLE_SEED: Any = Field(0, ge=0, description="Which draw of turns. A public constant.")
OPTIMIZER_STATE: Any = Field(
    "reset", description="A hospital's momentum: from rest at every visit, or handed on with the model."
)
REPAIR: Any = Field("none", description="How unequal hospitals are made up for.")
FRACTION: Any = Field(1.0, gt=0, le=1, description="Share of the hospitals asked in a round, drawn in public.")
SERVER_LEARNING_RATE: Any = Field(1.0, gt=0, description="Step size of the server.")

AGGREGATE: Any = Field("mean", description='Mean of the hospitals\' answers; all but "mean" see single answers.')
BYZANTINE: Any = Field(
    1, ge=1, description='Hospitals that may send anything, for aggregate = "trimmed", "krum" and "multi-krum".'
)
NORM_BOUND: Any = Field(
    None,
    gt=0,
    description="An answer with a larger L2 norm, noise included, is scaled to this; single answers are seen.",
)

LATER_KEYS = {"aggregate": "mean", "byzantine": 1, "norm_bound": None, "leave_one_out": False, "centre_rounds": 0}
"""Keys that earlier studies have not, and their defaults: a study that leaves them so is the same study as before."""

STRATEGY = "How hospitals work."

Repair = Literal["none", "proportional", "weighted-sampling", "weighted-loss"]
OptimizerState = Literal["reset", "travels"]
Aggregate = Literal["mean", "median", "trimmed", "krum", "multi-krum"]


class Rounds(Section):
    """The keys that every strategy has."""

    evaluate_every: int = Field(10, ge=1, description="Rounds between two looks at the patients set aside.")
    compare: tuple[ReferenceName, ...] = Field(
        (),
        description="Reference runs beside the main one; simulation only. Default of a private head of "
        'classes or grades: "repeats", five repeats of the noise.',
    )


class Descent(Rounds):
    """The keys of strategies that go down gradients, step by step."""

    learning_rate: float = Field(1.0, gt=0, description="Step size.")
    momentum: float = Field(0.9, ge=0, lt=1, description="At the server for fedsgd, else at the hospital.")
    average_last: float = Field(
        0.0, ge=0, lt=1, description="Release the mean of the last part of the rounds' weights (0: the last)."
    )


class FederatedSGD(Descent):
    """One gradient sum a round: over all hospitals, or by each hospital alone, or with all patients in one place."""

    strategy: Literal["fedsgd", "alone", "ensemble", "pooled"] = Field("fedsgd", description=STRATEGY)
    rounds: int = Field(
        100, ge=1, le=1_000_000, description="Communication rounds; default of a private head: docs/heads.md."
    )
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(  # type: ignore[assignment]  # by a rule, too
        1.0,
        description='Step size; "auto", the default of a private head, follows from noise and patients: docs/heads.md.',
    )
    average_last: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Release the mean of the last part of the rounds' weights (0: the last); default under dp-sgd: 0.5 "
        "of a private head, 0.25 of another network from 50 rounds on.",
    )
    score_rounds: int = Field(
        0,
        ge=0,
        le=1000,
        description="Rounds after training that release moments of class scores, for thresholds and calibration; "
        "default of a private head: about 5 % of mu squared.",
    )
    centre_rounds: int = Field(
        0,
        ge=0,
        le=1000,
        description="The first of `rounds` release the mean of a private head's rows, which is taken away from them in "
        "the others; default of a private softmax head: 3 % of `rounds`.",
    )
    aggregate: Aggregate = AGGREGATE
    byzantine: int = BYZANTINE
    norm_bound: float | None = NORM_BOUND
    leave_one_out: bool = Field(
        False,
        description="The last rounds leave out one hospital each, and give the hospitals' contributions.",
    )


class LocalSection(Descent):
    """The keys of strategies in which a hospital takes steps of its own."""

    local_steps: int = Field(1, ge=1, le=1_000_000, description="Optimizer steps of a hospital in a visit.")
    local_epochs: float | None = Field(
        None, gt=0, description="Instead of local_steps: how often a patient is drawn in a visit, on average."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.local_epochs is not None and self.local_steps != 1:
            raise ValueError("give local_steps or local_epochs, not both")
        return self


class Averaging(LocalSection):
    """Federated averaging: local steps, then the mean of the updates, and a step of the server."""

    strategy: Literal["fedavg"] = Field(description=STRATEGY)
    rounds: int = Field(100, ge=1, le=1_000_000, description="Communication rounds.")
    fraction: float = FRACTION
    hospital_weights: tuple[float, ...] | None = Field(
        None, description="Public weight of each hospital in the mean; default: equal."
    )
    server_optimizer: Literal["momentum", "adam", "yogi"] = Field(
        "momentum", description="What the server does with the mean update."
    )
    server_learning_rate: float = SERVER_LEARNING_RATE
    server_momentum: float = Field(0.0, ge=0, lt=1, description="Of the server; 0 and rate 1 is plain averaging.")
    optimizer_state: OptimizerState = OPTIMIZER_STATE
    repair: Repair = REPAIR
    timetable_seed: int = TIMETABLE_SEED
    aggregate: Aggregate = AGGREGATE
    byzantine: int = BYZANTINE
    norm_bound: float | None = NORM_BOUND


class Proximal(Averaging):
    """FedProx: federated averaging with a pull towards the model of the round."""

    strategy: Literal["fedprox"] = Field(description=STRATEGY)  # type: ignore[assignment]  # another name, the same keys and one more
    proximal: float = Field(0.01, ge=0, description="mu, the pull towards the model of the round.")


class Scaffolding(LocalSection):
    """SCAFFOLD: local steps that are corrected by how far a hospital's gradients usually are from the mean."""

    strategy: Literal["scaffold"] = Field(description=STRATEGY)
    rounds: int = Field(100, ge=1, le=1_000_000, description="Communication rounds.")
    momentum: float = Field(0.0, ge=0, le=0, description="The source's steps are plain ones.")
    fraction: float = FRACTION
    server_learning_rate: float = SERVER_LEARNING_RATE
    timetable_seed: int = TIMETABLE_SEED


class RingSection(LocalSection):
    """The keys of strategies in which the model goes from hospital to hospital."""

    optimizer_state: OptimizerState = OPTIMIZER_STATE
    repair: Repair = REPAIR


class Cycled(RingSection):
    """The keys of strategies that visit every hospital once a cycle."""

    rounds: int = Field(100, ge=1, le=1_000_000, description="Hand-overs; or give cycles.")
    cycles: int | None = Field(
        None, ge=1, le=1_000_000, description="Instead of rounds: visits of every hospital."
    )

    @model_validator(mode="after")
    def _cycles_fit(self) -> Self:
        if self.cycles is not None and self.rounds != 100:
            raise ValueError("give rounds (hand-overs) or cycles, not both")
        return self


class RoundRobin(Cycled):
    """The hospitals' own order, over and over."""

    strategy: Literal["round-robin"] = Field(description=STRATEGY)


class SinglePass(RingSection):
    """Each hospital once, in the hospitals' own order."""

    strategy: Literal["single-pass"] = Field(description=STRATEGY)


class RandomOrder(Cycled):
    """Each hospital once a cycle, in an order drawn anew for each cycle."""

    strategy: Literal["random-order"] = Field(description=STRATEGY)
    timetable_seed: int = TIMETABLE_SEED


class StochasticOrder(RingSection):
    """A hospital drawn anew for every hand-over."""

    strategy: Literal["stochastic"] = Field(description=STRATEGY)
    rounds: int = Field(100, ge=1, le=1_000_000, description="Hand-overs.")
    timetable_seed: int = TIMETABLE_SEED


class AsynchronousSection(LocalSection):
    """Hospitals finish when they finish; late work weighs less."""

    strategy: Literal["asynchronous"] = Field(description=STRATEGY)
    rounds: int = Field(100, ge=1, le=1_000_000, description="Arrivals.")
    staleness: int = Field(10, ge=0, description="Rounds that a model may be old.")
    staleness_power: float = Field(0.5, ge=0, description="Late work weighs 1 / (1 + late) ** this.")
    mixing: float = Field(0.6, gt=0, le=1, description="Weight of work that is not late.")
    timetable_seed: int = TIMETABLE_SEED


class PublishedStrategy(PublishedSection, LocalSection):
    """A strategy of a published system, whose own keys stand beside it: see `wardround.published`."""

    strategy: PublishedStrategyName = Field(description=STRATEGY)
    rounds: int = Field(100, ge=1, le=1_000_000, description="Turns.")


class EvaluationStrategy(Rounds):
    """No round: the model of `[model] weights` is evaluated as it is."""

    strategy: Literal["evaluation"] = Field(description=STRATEGY)


class OneShotSection(Rounds):
    """Every hospital fits a linear head to the end, and the server takes the mean, once."""

    strategy: Literal["one-shot"] = Field(description=STRATEGY)


Averages: TypeAlias = Averaging | Proximal | Scaffolding
Ring: TypeAlias = RoundRobin | SinglePass | RandomOrder | StochasticOrder
Local: TypeAlias = Averages | Ring | AsynchronousSection | PublishedStrategy
"""Strategies in which a hospital takes steps of its own."""


FederationSection: TypeAlias = Annotated[
    FederatedSGD
    | EvaluationStrategy
    | Averaging
    | Proximal
    | Scaffolding
    | RoundRobin
    | SinglePass
    | RandomOrder
    | StochasticOrder
    | AsynchronousSection
    | PublishedStrategy
    | OneShotSection,
    Field(discriminator="strategy"),
]
"""`[federation]`, one class for each kind of strategy."""

ALONE = ("alone", "ensemble")
"""Strategies in which each hospital is a federation of one."""

OF_ONE = (*ALONE, "pooled")
"""Strategies that are federations of one: of each hospital, or of the patients of all."""


def rounds_of(section: FederationSection, hospitals: int) -> int:
    """Returns the rounds of a run: as given, or as many as the cycles, the single pass or the one shot take."""
    match section:
        case OneShotSection():
            return 1
        case EvaluationStrategy():
            return 0
        case FederatedSGD():
            return section.rounds + section.score_rounds
        case SinglePass():
            return hospitals
        case RoundRobin(cycles=int(cycles)) | RandomOrder(cycles=int(cycles)):
            return cycles * hospitals
        case _:
            return section.rounds
