"""`[privacy]` of plans that release a few coordinates, which each hospital chooses and noises by itself."""

from typing import Literal

from pydantic import AliasChoices, Field

from wardround.config.privacy import PLAN, SAMPLING_PROB, Probability, PublishedPlan


class ChoosingSection(PublishedPlan):
    """The keys that these plans share; the unit is the hospital."""

    unit: Literal["hospital"] = Field(  # type: ignore[assignment]  # another unit than other plans
        "hospital", description="Who is protected: one hospital with all its data."
    )
    sampling_prob: Probability = SAMPLING_PROB
    truncation: float = Field(
        1.0,
        gt=0,
        description="Bound on the size of each coordinate of an update.",
        validation_alias=AliasChoices("truncation", "clipping_norm"),
    )
    answers: int = Field(ge=1, description="Coordinates of an update that are released, at most.")
    values_share: float = Field(
        0.5, gt=0, lt=1, description="Part of the privacy that goes to values, not to places."
    )
    trust: Literal["nobody"] = Field("nobody", description="Each hospital chooses and noises by itself.")


class SparseVectors(ChoosingSection):
    """`plan = "sparse-vector"`: coordinates are gone through in a random order until enough were large."""

    plan: Literal["sparse-vector"] = Field(description=PLAN)
    answer_threshold: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Changes from this size on are released."
    )


class TopK(ChoosingSection):
    """`plan = "top-k"`: the largest coordinates by the exponential mechanism."""

    plan: Literal["top-k"] = Field(description=PLAN)


SECTIONS = {"sparse-vector": SparseVectors, "top-k": TopK}
