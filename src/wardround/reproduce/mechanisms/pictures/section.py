"""`[privacy]` of the plan that noises pictures and labels, once."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from wardround.config.data import DataSection
from wardround.config.privacy import NUM_PATIENTS, PLAN, SAMPLING_PROB, Probability, PublishedPlan

PictureMechanismName = Literal[
    "laplace-pixels", "gaussian-pixels", "dp-pix", "laplace-features", "gaussian-features"
]
FEATURE_PLANS = ("gaussian-features", "laplace-features")
"""Mechanisms that noise a network's fixed encoding of a picture instead of its pixels."""


class LocalPictures(PublishedPlan):
    """`plan = "local-pictures"`: noise on every picture and label, once, before any training."""

    releases_pictures = True

    plan: Literal["local-pictures"] = Field(description=PLAN)
    pictures: PictureMechanismName = Field("gaussian-features", description="What is noised, and how.")
    block: int | None = Field(None, ge=1, description="dp-pix: side of a block in pixels; default: 16.")
    neighbourhood: int | None = Field(
        None,
        ge=1,
        description="dp-pix: pixels in which two versions of a picture differ, for the published promise.",
    )
    feature_norm: float | None = Field(
        None, gt=0, description="Noised features: the norm they are brought to (L2; laplace: L1); default: 1."
    )
    label_epsilon: float | None = Field(
        None, gt=0, description="Of epsilon, the labels' part; default: a quarter."
    )
    sampling_prob: Probability = SAMPLING_PROB
    num_patients: int | None = NUM_PATIENTS
    trust: Literal["nobody"] = Field("nobody", description="Each hospital noises its own pictures.")

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, given: Any) -> Any:
        """Fills in what the mechanism needs, so that the resolved study says it."""
        if not isinstance(given, dict):
            return given
        pictures, epsilon = given.get("pictures") or "gaussian-features", given.get("epsilon")
        own: dict[str, Any] = {}
        if pictures == "dp-pix":
            own["block"] = 16
        if pictures in FEATURE_PLANS:
            own["feature_norm"] = 1.0
        if isinstance(epsilon, int | float) and given.get("noise_multiplier") is None:
            own["label_epsilon"] = epsilon / 4
        return own | given

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        for key, kinds in (
            ("block", ("dp-pix",)),
            ("neighbourhood", ("dp-pix",)),
            ("feature_norm", FEATURE_PLANS),
        ):
            if getattr(self, key) is not None and self.pictures not in kinds:
                raise ValueError(f'{key} belongs to pictures = "{kinds[0]}", got "{self.pictures}"; remove it')
        if self.label_epsilon is None and self.noise_multiplier is not None:
            raise ValueError("labels are noised too: with noise_multiplier, label_epsilon must be given")
        if self.epsilon is not None and self.label_epsilon is not None and self.label_epsilon >= self.epsilon:
            raise ValueError(
                f"label_epsilon is a part of epsilon: it must be < {self.epsilon:g}, got {self.label_epsilon:g}"
            )
        return self

    def check(self, data: DataSection) -> None:
        """See `PublishedPlan`: pictures that the mechanism can noise."""
        if data.volume_size is not None:
            raise ValueError(
                'plan = "local-pictures" noises pictures, and volume_size is set; use plan = "dp-sgd"'
            )
        if self.block is not None and data.image_size % self.block:
            raise ValueError(f"block must divide image_size, {data.image_size}, got {self.block}")
        if self.neighbourhood is not None and self.neighbourhood > data.image_size**2:
            raise ValueError(
                f"neighbourhood must be <= the {data.image_size**2} pixels of a picture, got {self.neighbourhood}"
            )


SECTIONS = {"local-pictures": LocalPictures}
