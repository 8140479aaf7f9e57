"""`[evaluation]`: what leaves real hospitals about their test patients; one class for each level."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from wardround.config.section import Section

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
