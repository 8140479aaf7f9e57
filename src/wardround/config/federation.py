"""`[federation]`: how the rounds go."""

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from wardround.config.section import Section, conflict

StrategyName = Literal[
    "fedsgd", "fedavg", "fedprox", "scaffold",
    "round-robin", "single-pass", "random-order", "stochastic",
    "asynchronous", "selective", "one-shot", "ensemble", "alone", "pooled",
]  # fmt: skip
ReferenceName = Literal[
    "no-privacy", "pooled", "pooled-no-privacy", "alone", "alone-no-privacy", "ensemble", "ensemble-no-privacy"
]

RING = frozenset({"round-robin", "single-pass", "random-order", "stochastic"})
"""Strategies in which the model goes from hospital to hospital."""
AVERAGING = frozenset({"fedavg", "fedprox", "scaffold"})
LOCAL = AVERAGING | RING | {"asynchronous", "selective"}
"""Strategies in which a hospital takes steps of its own."""
TOGETHER = frozenset({"fedsgd", "one-shot"}) | AVERAGING
"""Strategies in which several hospitals' answers are summed."""

_BELONGS: dict[str, frozenset[str]] = {
    "local_steps": LOCAL,
    "local_epochs": LOCAL,
    "cycles": frozenset({"round-robin", "random-order"}),
    "fraction": AVERAGING,
    "hospital_weights": frozenset({"fedavg", "fedprox"}),
    "server_optimizer": frozenset({"fedavg", "fedprox"}),
    "server_learning_rate": AVERAGING,
    "server_momentum": frozenset({"fedavg", "fedprox"}),
    "proximal": frozenset({"fedprox"}),
    "optimizer_state": (AVERAGING - {"scaffold"}) | RING,
    "repair": (AVERAGING - {"scaffold"}) | RING,
    "timetable_seed": AVERAGING | {"random-order", "stochastic", "asynchronous", "selective"},
    "staleness": frozenset({"asynchronous"}),
    "staleness_power": frozenset({"asynchronous"}),
    "mixing": frozenset({"asynchronous"}),
    "download_fraction": frozenset({"selective"}),
    "upload_fraction": frozenset({"selective"}),
    "selection": frozenset({"selective"}),
    "threshold": frozenset({"selective"}),
    "truncation": frozenset({"selective"}),
    "counter_decay": frozenset({"selective"}),
    "turns": frozenset({"selective"}),
}
"""Keys that only some strategies have a use for."""


class FederationSection(Section):
    """`[federation]`: how the rounds go."""

    strategy: StrategyName = Field("fedsgd", description="How hospitals work.")
    rounds: int = Field(
        100,
        ge=1,
        description="Communication rounds; of a ring, hand-overs (or give cycles); of single-pass, one each.",
    )
    cycles: int | None = Field(None, ge=1, description="round-robin, random-order: visits of every hospital.")
    local_steps: int = Field(1, ge=1, description="Optimizer steps of a hospital in a visit.")
    local_epochs: float | None = Field(
        None, gt=0, description="Instead of local_steps: how often a patient is drawn in a visit, on average."
    )
    learning_rate: float = Field(1.0, gt=0, description="Step size.")
    momentum: float = Field(0.9, ge=0, lt=1, description="At the server for fedsgd, else at the hospital.")
    optimizer_state: Literal["reset", "travels"] = Field(
        "reset", description="A hospital's momentum: from rest at every visit, or handed on with the model."
    )
    average_last: float = Field(
        0.0, ge=0, lt=1, description="Release the mean of the last part of the rounds' weights (0: the last)."
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the hospitals asked in a round, drawn in public."
    )
    hospital_weights: tuple[float, ...] | None = Field(
        None, description="Public weight of each hospital in the mean; default: equal."
    )
    server_optimizer: Literal["momentum", "adam", "yogi"] = Field(
        "momentum", description="What the server does with the mean update."
    )
    server_learning_rate: float = Field(1.0, gt=0, description="Step size of the server.")
    server_momentum: float = Field(0.0, ge=0, lt=1, description="Of the server; 0 and rate 1 is plain averaging.")
    proximal: float = Field(0.01, ge=0, description="fedprox: mu, the pull towards the model of the round.")
    repair: Literal["none", "proportional", "weighted-sampling", "weighted-loss"] = Field(
        "none", description="How unequal hospitals are made up for."
    )
    timetable_seed: int = Field(0, ge=0, description="Which draw of turns. A public constant.")
    staleness: int = Field(10, ge=0, description="asynchronous: rounds that a model may be old.")
    staleness_power: float = Field(0.5, ge=0, description="asynchronous: late work weighs 1 / (1 + late) ** this.")
    mixing: float = Field(0.6, gt=0, le=1, description="asynchronous: weight of work that is not late.")
    download_fraction: float = Field(1.0, gt=0, le=1, description="selective: share of parameters fetched.")
    upload_fraction: float = Field(0.1, gt=0, le=1, description="selective: share of parameters sent, at most.")
    selection: Literal["largest", "random"] = Field(
        "largest", description="selective: the largest changes, or a draw of those above the threshold."
    )
    threshold: float = Field(0.0, ge=0, description="selective: changes below it are not sent.")
    truncation: float = Field(0.001, gt=0, description="selective: changes are cut to this size.")
    counter_decay: float = Field(1.0, gt=0, le=1, description="selective: how fast old updates are forgotten.")
    turns: Literal["fixed", "random", "stochastic"] = Field("fixed", description="selective: whose turn it is.")
    evaluate_every: int = Field(10, ge=1, description="Rounds between two looks at the patients set aside.")
    compare: tuple[ReferenceName, ...] = Field(
        (), description="Reference runs beside the main one; simulation only."
    )

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, given: Any) -> Any:
        """SCAFFOLD has no momentum; what is not given says so in the resolved study."""
        if isinstance(given, dict) and given.get("strategy") == "scaffold":
            return {"momentum": 0.0} | given
        return given

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        for key in sorted(self.model_fields_set & _BELONGS.keys()):
            known = _BELONGS[key]
            if self.strategy not in known and getattr(self, key) != type(self).model_fields[key].default:
                names = ", ".join(name for name in get_args(StrategyName) if name in known)
                raise conflict(
                    "study-strategy-key",
                    f'{key} belongs to {names}, got strategy = "{self.strategy}"; remove it or change the strategy',
                )
        default = type(self).model_fields
        if self.cycles is not None and self.rounds != default["rounds"].default:
            raise ValueError("give rounds (hand-overs) or cycles, not both")
        if self.local_epochs is not None and self.local_steps != default["local_steps"].default:
            raise ValueError("give local_steps or local_epochs, not both")
        if self.strategy == "one-shot" and self.rounds not in (1, default["rounds"].default):
            raise ValueError(f"one-shot has one round, got rounds = {self.rounds}; remove rounds")
        if self.strategy == "single-pass" and self.rounds != default["rounds"].default:
            raise ValueError("single-pass has one round for each hospital; remove rounds")
        if self.strategy == "scaffold" and self.momentum:
            raise ValueError(f"scaffold corrects plain steps: momentum must be 0, got {self.momentum}")
        return self
