"""The steps of a study's descent, and of a private head the rule behind them (`wardround.config.recipe`)."""

import math
from dataclasses import dataclass

from wardround.boundary.text import counted
from wardround.config import Study
from wardround.config.federation import ALONE, FederatedSGD
from wardround.config.recipe import MOST_RATE, HeadRecipe, momentum_sum
from wardround.errors import PrivacyError
from wardround.federation.strategies.fedsgd import PerPatient, Rate
from wardround.noisers import inflation_of
from wardround.privacy.plans.kinds import NoisedGradients
from wardround.privacy.plans.plan import Plan


@dataclass(frozen=True)
class Schedule:
    """The steps of a private head.

    Attributes:
        recipe: of which the rule is.
        classes: of the network; the noise is by their number.
        learning_rate: a number, or one that follows from the number of patients.
        rule: the learning rate that the recipe would take.
        mu: Gaussian privacy parameter of the noise in a sum, over all rounds of gradients.
            Shares of noise for colluders and dropouts are in it, so it is below that of the promise.
        total: steps of a unit gradient over all rounds, in learning rates.
        num_patients: public; None where patients are counted with noise.
        score_rounds: rounds after training that release moments of class scores.
        centre_rounds: of `rounds`, those before training that release the mean row.
        noise: standard deviation to which the noise of all rounds adds up by the rule, as the recipe has it.
    """

    recipe: HeadRecipe
    classes: int
    rounds: int
    learning_rate: Rate
    rule: PerPatient
    momentum: float
    average_last: float
    clipping_norm: float
    mu: float
    total: float
    num_patients: int | None
    score_rounds: int
    centre_rounds: int
    noise: float

    def sentence(self) -> str:
        """Returns the schedule and its reason."""
        last = f"the mean of the last {counted(round(self.average_last * self.rounds), 'round')}"
        end = last if self.average_last else "the last round's weights"
        factor = self.noise / self.clipping_norm
        why = f"{factor:g} mu n / {self.total:.0f}, mu = {self.mu:.3f} of the noise in a sum"
        n = self.num_patients
        ruled = (
            f"{why}, n the noised count, at most {MOST_RATE:g}"
            if n is None
            else f"{self.rule.at(n):.3g} = {why}, n = {n} patients"
        )
        if isinstance(self.learning_rate, PerPatient):
            where = "weight"
            if self.recipe.scores:
                where = f"score of {'two' if self.classes == 2 else 'several'} classes"
            rate = f"learning rate {ruled}: the noise in a {where} is then {self.noise:g} at any n and epsilon"
        else:
            rate = f"learning rate {self.learning_rate:g} as the study gives it (the rule: {ruled})"
        share = self.score_rounds / (self.rounds + self.score_rounds)
        after = (
            f"; then {counted(self.score_rounds, 'round')} ({share:.1%} of mu^2) for thresholds and calibration"
            if share
            else ""
        )
        before = (
            f", the first {self.centre_rounds} for the mean row "
            f"({self.centre_rounds / (self.rounds + self.score_rounds):.1%} of mu^2)"
            if self.centre_rounds
            else ""
        )
        return (
            f"schedule: {counted(self.rounds, 'round')}{before}, clipping norm {self.clipping_norm:g}, "
            f"momentum {self.momentum:g}, {end}, {rate}{after}"
        )

    def to_json(self) -> dict[str, object]:
        """Returns the schedule as a JSON object; rates of a counted number of patients are of one patient."""
        n = 1 if self.num_patients is None else self.num_patients
        rate = self.learning_rate.at(n) if isinstance(self.learning_rate, PerPatient) else self.learning_rate
        return {
            "rounds": self.rounds,
            "clipping_norm": self.clipping_norm,
            "momentum": self.momentum,
            "average_last": self.average_last,
            "learning_rate": rate,
            "learning_rate_by_rule": self.rule.at(n),
            "mu": self.mu,
            "num_patients": self.num_patients,
            "score_rounds": self.score_rounds,
            **({"centre_rounds": self.centre_rounds} if self.centre_rounds else {}),
        }


@dataclass(frozen=True)
class Lost:
    """AUROC that heads with a centre lost to their noise, on problems with a mu n in a range.

    Source: `benchmarks.expected_loss`, on generated sets and public ones; its rows are in
    `benchmarks/results/expected_loss.json`. Nothing of it is of a study's own patients.

    Attributes:
        least: mu n from which on.
        below: mu n below which; infinity for the last range.
        problems: trained heads in the range.
        median: of the losses.
        most: the largest loss.
    """

    least: float
    below: float
    problems: int
    median: float
    most: float

    def sentence(self) -> str:
        """Returns the loss to expect, in words."""
        end = (
            f"from {self.least:,.0f} on"
            if math.isinf(self.below)
            else f"of {self.least:,.0f} to {self.below:,.0f}"
        )
        return (
            f"heads with a mu n {end} lost {self.median:.2f} of AUROC (median) and at most "
            f"{self.most:.2f} to the noise, in {counted(self.problems, 'trial')} on generated and public sets"
        )


LOSSES = (
    Lost(0, 30, 8, 0.126, 0.542),
    Lost(30, 100, 14, 0.112, 0.334),
    Lost(100, 300, 18, 0.067, 0.344),
    Lost(300, 1000, 14, 0.017, 0.227),
    Lost(1000, math.inf, 6, 0.005, 0.052),
)


def expected_loss(mu_n: float) -> Lost:
    """Returns the losses of the trials with about that mu n; below the first range, those of the first."""
    return next((lost for lost in reversed(LOSSES) if mu_n >= lost.least), LOSSES[0])


def feasibility(mu: float, num_patients: float, classes: int) -> str:
    """Returns the sentence about mu n, the number that decides how much a private head loses to its noise.

    Source of the bounds: heads on features of five real sets, where the loss in AUROC was at most 0.01 from mu n = 500
    on for two classes, and several classes lost as little from 2,000 on. The loss to expect is that of `LOSSES`: it
    depends on the set more than on the number of classes.
    """
    works, marginal = (500, 150) if classes == 2 else (2000, 500)
    number = mu * num_patients
    verdict = (
        "works"
        if number >= works
        else "marginal"
        if number >= marginal
        else "too few patients for this noise: raise epsilon, or invite more hospitals"
    )
    bounds = f"from {works:,} on a head works, below {marginal:,} it does not"
    said = f"feasibility: mu n = {number:,.0f} with {classes} classes ({bounds}): {verdict}"
    return f"{said}; {expected_loss(number).sentence()}"


def schedule_of(study: Study, plan: Plan, classes: int) -> Schedule | None:
    """Returns the schedule of a private head of so many classes; None for a study that the recipe is not for."""
    section, part = study.federation, plan.training
    recipe = study.recipe
    if recipe is None or not isinstance(section, FederatedSGD) or not isinstance(part, NoisedGradients):
        return None
    rule, size = _rule(study, recipe, section, part, classes), plan.public_size
    return Schedule(
        recipe=recipe,
        classes=classes,
        rounds=study.training_rounds,
        learning_rate=rule if section.learning_rate == "auto" else section.learning_rate,
        rule=rule,
        momentum=section.momentum,
        average_last=section.average_last,
        clipping_norm=part.clip.norm,
        mu=_mu(study, part),
        total=momentum_sum(study.descent_rounds, section.momentum),
        num_patients=own_size(study, size),
        score_rounds=study.score_rounds,
        centre_rounds=study.centre_rounds,
        noise=_noise(study, recipe, classes),
    )


def rate_of(study: Study, section: FederatedSGD, plan: Plan, classes: int) -> Rate:
    """Returns the learning rate of a descent on noised sums, as given or by the rule for so many classes.

    Raises:
        PrivacyError: a rate that follows from noise, and a plan without.
    """
    if section.learning_rate != "auto":
        return section.learning_rate
    if study.recipe is None or not isinstance(plan.training, NoisedGradients):
        raise PrivacyError('learning_rate = "auto" follows from the noise of a plan, and this one has none.')
    return _rule(study, study.recipe, section, plan.training, classes)


def own_size(study: Study, num_patients: int | None) -> int | None:
    """Returns the patients that a sum is divided by: of all hospitals, or of one where each is a federation of one."""
    if num_patients is None or study.federation.strategy not in ALONE:
        return num_patients
    return max(1, round(num_patients / study.hospitals.count))


def norms_of(study: Study, plan: Plan, num_patients: float, parameters: int) -> dict[str, float]:
    """Returns what a noised sum of gradients is compared with, by the key of a line of `rounds.jsonl`.

    `noise_norm` is the norm that its noise has on average. `most_norm` is that of the clipped gradients of all expected
    patients, were they alike. Both follow from public or noised numbers. Empty where rounds release no such sum, or the
    clipping norm follows the gradients.
    """
    part = plan.training
    if not isinstance(part, NoisedGradients) or part.clip.adaptive is not None:
        return {}
    std = sum_std(study, part)
    most = part.sampling_prob * num_patients * part.clip.norm
    return {"noise_norm": std * math.sqrt(parameters), "most_norm": most}


def sum_std(study: Study, part: NoisedGradients) -> float:
    """Returns the standard deviation of the noise in each number of a round's sum."""
    inflation = inflation_of(part.noiser) if study.forms_sums else 1.0
    return part.noise.noise_multiplier * part.clip.norm * inflation


def _noise(study: Study, recipe: HeadRecipe, classes: int) -> float:
    return recipe.noise_for(classes, is_centred=study.centre_rounds > 0)


def _rule(
    study: Study, recipe: HeadRecipe, section: FederatedSGD, part: NoisedGradients, classes: int
) -> PerPatient:
    """Returns the rate at which the noise of all rounds adds up to the recipe's in a weight.

    A round moves the weights by rate * (sum + noise of std z C) / (q n); (z C) sqrt(T) / T is the noise of a mean
    round, and the momentum's steps add up to `momentum_sum`.
    """
    steps = momentum_sum(study.descent_rounds, section.momentum)
    each = _noise(study, recipe, classes) / part.clip.norm * _mu(study, part) * part.sampling_prob / steps
    return PerPatient(each, MOST_RATE)


def _mu(study: Study, part: NoisedGradients) -> float:
    inflation = inflation_of(part.noiser) if study.forms_sums else 1.0
    return math.sqrt(study.descent_rounds) / (part.noise.noise_multiplier * inflation)
