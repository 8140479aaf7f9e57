"""`[evaluation]`: what leaves real hospitals about their test patients; one class for each level."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from wardround.config.data import DataSection
from wardround.config.federation import ALONE, EvaluationStrategy, Rounds
from wardround.config.model import ModelSection
from wardround.config.privacy import PlanSection, Untrained
from wardround.config.section import Section, conflict

LEVEL = "What leaves hospitals about test patients."


class NoEvaluation(Section):
    """`level = "none"`: nothing; each hospital has the figures of its own test patients in its own folder."""

    level: Literal["none"] = Field(description=LEVEL)


class NoisedEvaluation(Section):
    """`level = "noised"`: histograms of scores by class, summed over all hospitals with noise, once at the end."""

    level: Literal["noised"] = Field(description=LEVEL)
    epsilon: float = Field(
        gt=0, description="The promise to a test patient, at `[privacy] delta`; charged to test patients alone."
    )


class UnprotectedEvaluation(Section):
    """`level = "unprotected"`: the same histograms of each hospital as they are, where its policy allows it."""

    level: Literal["unprotected"] = Field(description=LEVEL)


EvaluationSection: TypeAlias = Annotated[
    NoEvaluation | NoisedEvaluation | UnprotectedEvaluation, Field(discriminator="level")
]
"""`[evaluation]`, one class for each level."""


def check_evaluation(
    evaluation: NoEvaluation | NoisedEvaluation | UnprotectedEvaluation,
    data: DataSection,
    model: ModelSection,
    privacy: PlanSection,
    federation: Rounds,
) -> None:
    """Refuses figures of test patients that no histogram of scores gives.

    Raises:
        PydanticCustomError: what must hold between the sections of a study.
    """
    level, plan, strategy = evaluation.level, getattr(privacy, "plan", ""), getattr(federation, "strategy", "")
    only = isinstance(privacy, Untrained)
    if only != isinstance(federation, EvaluationStrategy):
        raise conflict(
            "study-plan-strategy",
            f'plan = "evaluation" and strategy = "evaluation" belong together, got plan = "{plan}" and strategy = '
            f'"{strategy}"; change one of them',
        )
    if only and (level != "noised" or model.weights is None):
        raise conflict(
            "study-evaluation-only",
            'plan = "evaluation" is of the model in [model] weights with [evaluation] level = "noised", got '
            f'weights = {model.weights} and level = "{level}"; give both',
        )
    if level == "none":
        return
    if data.classes is None:
        raise conflict(
            "study-evaluation-classes", f'[evaluation] level = "{level}" needs [data] classes: name them'
        )
    if data.test != "patients":
        raise conflict(
            "study-evaluation-test",
            f'[evaluation] level = "{level}" is of test patients by their own ids: [data] test must be "patients", '
            f'got "{data.test}"; change one of them',
        )
    if strategy in ALONE:
        raise conflict(
            "study-evaluation-model",
            f'[evaluation] level = "{level}" is of one model, got strategy = "{strategy}"; set level = "none"',
        )
    if isinstance(evaluation, NoisedEvaluation) and getattr(privacy, "delta", None) is None:
        raise conflict("study-delta", 'delta must be given in [privacy] for [evaluation] level = "noised"')
