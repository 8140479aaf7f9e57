"""The recipe of private heads: defaults that are the same for every data set, so that nothing is tuned.

It is for a linear softmax head that starts at zero, on rows of norm one, and for a small head on features of each
voxel, trained by `plan = "dp-sgd"` with one gradient sum a round. A key that a study names keeps its value; a key that
it leaves out is filled in here, so that the resolved study, its digest and the record of its run show every value.

With all patients in every round, T rounds of noise multiplier z are one Gaussian mechanism with mu = sqrt(T) / z: for a
given total step the noise in the weights does not depend on T. The total step s / C * mu * n makes the noise in a class
score of a row of norm one s for every n, epsilon and length of a row. s is `TWO_CLASS_NOISE` or `LOGIT_NOISE`, by the
number of classes, which is public: every hospital says its classes before round 1, and all must have the same. A
softmax head of all hospitals is trained on rows less their noised mean, which the first rounds release; s is smaller.

Source: Dong, Roth and Su 2019, https://arxiv.org/abs/1905.02383, Corollary 3.3 (composition).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier
from wardround.config.federation import ALONE, LATER_KEYS, FederatedSGD, FederationSection
from wardround.config.section import conflict

CLIPPING_NORM = 0.25
"""C. A gradient of a two-class softmax on a row of norm one starts at 0.71: the clip levels pictures that are wrong."""

MOMENTUM = 0.9
AVERAGE_LAST = 0.5

ROUNDS = 100
"""Rounds of a study that names none."""

MANY_ROUNDS = 50
NETWORK_AVERAGE_LAST = 0.25
"""Part of a private network without a recipe, from `MANY_ROUNDS` on: the mean costs nothing, and has less noise.
A larger part, or one of fewer rounds, still holds the weights of a model that has not learned."""

LOGIT_NOISE = 3.0
"""Standard deviation of the noise in a class score of a row of norm one after the last round: 12 mu n in all at C."""

TWO_CLASS_NOISE = 2.0
"""The same of two classes, whose scores are one number and its opposite: 8 mu n in all at C."""


@dataclass(frozen=True)
class HeadRecipe:
    """Defaults of one kind of head.

    Attributes:
        clipping_norm: C.
        rounds: the fewest.
        noise: standard deviation to which the noise of all rounds adds up in a weight; of a linear head on rows of norm
            one, in a class score as well.
        noise_of_two: the same where there are two classes.
        stride: of `[training]`.
        scores: rounds after training release moments of class scores; their number and mu n judge what is feasible.
    """

    clipping_norm: float
    rounds: int
    noise: float
    noise_of_two: float
    stride: int
    scores: bool

    def noise_for(self, classes: int, *, is_centred: bool) -> float:
        """Returns the noise of a weight after all rounds, by the number of classes, and whether rows are centred."""
        if is_centred:
            return CENTRED_TWO_CLASS_NOISE if classes == 2 else CENTRED_NOISE
        return self.noise_of_two if classes == 2 else self.noise


CENTRED_NOISE, CENTRED_TWO_CLASS_NOISE = 2.0, 1.25
"""The same of a head on rows less their mean (`centre_rounds`), which needs a smaller step."""

HEADS = {
    "features": HeadRecipe(CLIPPING_NORM, 100, LOGIT_NOISE, TWO_CLASS_NOISE, 1, scores=True),
    "boxed_voxel_features": HeadRecipe(0.1, 120, 0.75, 0.75, 2, scores=False),
}
"""By the name of the network."""

MOST_RATE = 100.0
"""The largest learning rate. Rounds are added until the rate is below it."""

MOST_ROUNDS = 1000
"""Rounds are not added beyond these; the rate is then MOST_RATE."""

CENTRE_SHARE = 0.03
"""Share of the rounds before the scores that release the mean row of a softmax head's patients."""

SCORE_SHARE = 0.05
"""Share of mu squared that is spent on thresholds and calibration, after training."""

_RESOLVED = {
    key for key, field in FederatedSGD.model_fields.items() if key not in LATER_KEYS and field.default is not None
}
"""Keys of every run's resolved study. One of an earlier version has no `centre_rounds` beside them, and no centre."""

_STRATEGIES = ("fedsgd", "pooled", "alone", "ensemble")


def recipe_for(model: object, plan: object, clipping: object, strategy: object) -> HeadRecipe | None:
    """Returns the recipe of a study with this network, plan, clipping rule and strategy; None where it has none."""
    fits = plan == "dp-sgd" and clipping != "adaptive" and strategy in _STRATEGIES
    return HEADS.get(model) if fits and isinstance(model, str) else None


def check_recipe(federation: FederationSection, recipe: HeadRecipe | None, model: str, plan: str) -> None:
    """Refuses what only a private head has: an automatic rate, and rounds that release scores or the mean row.

    Raises:
        ValueError: names the key; the codes are `study-learning-rate`, `study-score-rounds`, `study-centre-rounds`.
    """
    if getattr(federation, "learning_rate", None) == "auto" and recipe is None:
        raise conflict(
            "study-learning-rate",
            'learning_rate = "auto" is for a head on fixed features under plan = "dp-sgd" without an adaptive norm, '
            f'got [model] name = "{model}" and plan = "{plan}"; give a number',
        )
    if not isinstance(federation, FederatedSGD):
        return
    is_one_head = recipe is not None and recipe.scores and federation.strategy not in ALONE
    for key in ("score_rounds", "centre_rounds"):
        if getattr(federation, key) and not is_one_head:
            raise conflict(
                f"study-{key.replace('_', '-')}",
                f'{key} is for one private head of all hospitals, got [model] name = "{model}", plan = "{plan}" and '
                f'strategy = "{federation.strategy}"; remove {key}',
            )
    if federation.centre_rounds >= federation.rounds:
        raise conflict(
            "study-centre-rounds",
            f"centre_rounds must be below rounds = {federation.rounds}, got {federation.centre_rounds}; lower it",
        )
    if federation.centre_rounds > round(federation.rounds * (1 - federation.average_last)):
        raise conflict(
            "study-centre-rounds",
            f"centre_rounds must end before the rounds whose weights are averaged, got {federation.centre_rounds} of "
            f"{federation.rounds} rounds and average_last = {federation.average_last:g}; lower either",
        )


def with_recipe(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tables of a study with the recipe's value for each of its keys that is left out."""
    found = dict(tables)
    names = ("model", "training", "privacy", "federation")
    model, training, privacy, federation = (found.get(name, {}) for name in names)
    if not all(isinstance(section, dict) for section in (model, training, privacy, federation)):
        return found
    kind = privacy.get("plan"), privacy.get("clipping"), federation.get("strategy", "fedsgd")
    recipe = recipe_for(model.get("name"), *kind)
    if recipe is None:
        federation = _with_mean(privacy, federation)
        return found | ({"federation": federation} if federation else {})  # an empty table would lack its strategy
    if recipe.stride > 1 and "augment" not in training:
        found["training"] = {"stride": recipe.stride} | training
    privacy = {"clipping_norm": recipe.clipping_norm} | privacy
    is_resolved = federation.keys() >= _RESOLVED
    own = {"strategy": "fedsgd", "learning_rate": "auto", "momentum": MOMENTUM, "average_last": AVERAGE_LAST}
    federation = own | federation
    if "rounds" not in federation:
        federation["rounds"] = _rounds(recipe, privacy, federation)
    if recipe.scores and federation["strategy"] in ("fedsgd", "pooled"):
        rounds = federation["rounds"]
        centres = 0 if is_resolved else _centre_rounds(rounds, federation["average_last"])
        scores = _score_rounds(rounds) if _positive(rounds) else 0
        federation = {"compare": ["repeats"], "score_rounds": scores} | federation
        if model.get("head", "softmax") == "softmax":  # a head for grades gained nothing from a centre
            federation = {"centre_rounds": centres} | federation
    return found | {"privacy": privacy, "federation": federation}


def name_constants(federation: dict[str, Any]) -> None:
    """Adds to a dumped `[federation]` the constants of an automatic rate on centred rows, which once were others."""
    if federation.get("centre_rounds") and federation.get("learning_rate") == "auto":
        federation["centred_noise"] = [CENTRED_TWO_CLASS_NOISE, CENTRED_NOISE]


def _with_mean(privacy: dict[str, Any], federation: dict[str, Any]) -> dict[str, Any]:
    """Returns the federation of a study without a recipe; many private rounds have the mean of their last quarter."""
    rounds, strategy = federation.get("rounds", ROUNDS), federation.get("strategy", "fedsgd")
    is_many = _positive(rounds) and rounds >= MANY_ROUNDS
    if privacy.get("plan") != "dp-sgd" or strategy not in _STRATEGIES or not is_many:
        return federation
    return {"strategy": strategy, "average_last": NETWORK_AVERAGE_LAST} | federation


def momentum_sum(rounds: int, momentum: float) -> float:
    """Returns the sum over t <= rounds of (1 - momentum^t) / (1 - momentum): steps of a unit gradient, in rates.

    >>> round(momentum_sum(100, 0.9), 2)
    910.0
    """
    return (rounds - momentum * (1 - momentum**rounds) / (1 - momentum)) / (1 - momentum)


def _centre_rounds(rounds: Any, average_last: Any) -> int:
    """Returns the rounds whose share is nearest to CENTRE_SHARE; none that average_last leaves no room for."""
    share = 1 - average_last if _positive(average_last) else 1.0
    return round(rounds * max(0.0, min(CENTRE_SHARE, share))) if _positive(rounds) else 0


def _score_rounds(rounds: float) -> int:
    """Returns the rounds whose share of all rounds, and so of mu squared, is nearest to SCORE_SHARE; none below ten."""
    return round(rounds * SCORE_SHARE / (1 - SCORE_SHARE))


def _rounds(recipe: HeadRecipe, privacy: Mapping[str, Any], federation: Mapping[str, Any]) -> int:
    """Returns the least number of rounds from the recipe's on at which the automatic rate is below MOST_RATE.

    The number of patients is public; one that is counted is not known yet, and the rounds are the recipe's. Noise for
    the count and for shares of hospitals only lowers mu, and so the rate. The classes may not be known yet either: the
    rate is that of several, which two classes have no more than.
    """
    patients, norm, momentum = privacy.get("num_patients"), privacy["clipping_norm"], federation["momentum"]
    if federation["learning_rate"] != "auto" or not all(_positive(value) for value in (patients, norm)):
        return recipe.rounds
    if not (momentum == 0 or _positive(momentum)) or momentum >= 1:
        return recipe.rounds

    def is_below(rounds: int) -> bool:
        mu = _mu(privacy, rounds)
        return mu is None or recipe.noise / norm * mu * patients / momentum_sum(rounds, momentum) < MOST_RATE

    return next((rounds for rounds in range(recipe.rounds, MOST_ROUNDS) if is_below(rounds)), MOST_ROUNDS)


def _mu(privacy: Mapping[str, Any], rounds: int) -> float | None:
    """Returns mu of the whole promise; None where the study does not give one, and is refused elsewhere."""
    epsilon, delta, noise = (privacy.get(key) for key in ("epsilon", "delta", "noise_multiplier"))
    if _positive(noise):
        return math.sqrt(rounds) / noise
    if not _positive(epsilon) or not _positive(delta) or delta >= 1:
        return None
    return 1 / analytic_gaussian_noise_multiplier(epsilon, delta)


def _positive(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
