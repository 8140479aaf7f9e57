"""`[privacy]`: everything that changes the guarantee, and nothing else."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from wardround.config.section import Section

UPDATE_PLANS = frozenset({"clipped-update"})
"""Plans whose noise goes on a hospital's whole update; the unit is the hospital."""

Probability = Annotated[float, Field(gt=0, le=1)]


class PrivacySection(Section):
    """`[privacy]`: everything that changes the guarantee, and nothing else."""

    plan: Literal["dp-sgd", "clipped-update", "none"] = Field(
        description="Where the noise goes: on sums of gradients, on a hospital's clipped update, or nowhere "
        '("none": epsilon is then infinity).'
    )
    unit: Literal["patient", "hospital"] = Field(
        "patient", description="Who is protected: one person with all images; under clipped-update one hospital."
    )
    epsilon: float | None = Field(None, gt=0, description="The promise; noise_multiplier is computed.")
    noise_multiplier: float | None = Field(
        None, gt=0, description="Noise std / clipping_norm (clipped-update: / twice that); epsilon is computed."
    )
    delta: float | None = Field(None, gt=0, lt=1, description="Target delta; well below 1 / patients.")
    clipping_norm: float = Field(
        1.0, gt=0, description="Bound (L2) on a patient's gradient, or a hospital's update."
    )
    clipping: Literal["flat", "per-layer", "per-layer-by-size", "automatic", "adaptive"] = Field(
        "flat", description="How gradients are brought to that norm; an adaptive norm starts there."
    )
    clipping_quantile: float = Field(
        0.5, ge=0, le=1, description='Share of patients left unclipped, for clipping = "adaptive".'
    )
    sampling_prob: Probability = Field(1.0, description="Poisson probability of a patient; 1 = everyone.")
    images_per_patient: int = Field(8, ge=1, description="A patient's gradient averages at most this many.")
    num_patients: int | None = Field(
        None,
        ge=1,
        description="Public size of the training set; left out, it is counted privately and charged.",
    )
    accountant: Literal["pld", "rdp"] = Field("pld", description="What computes epsilon; both are upper bounds.")
    trust: Literal["coordinator", "secure-aggregation", "nobody"] = Field(
        "secure-aggregation", description="Who adds noise, and so who may see what."
    )
    colluders: int = Field(1, ge=0, description="Hospitals that may collude, under secure-aggregation.")
    dropouts: int = Field(0, ge=0, description="Hospitals that may be missing, under secure-aggregation.")
    epsilon_limit: float | None = Field(
        None, gt=0, description="A hospital's own limit over all its studies; default: this study's epsilon."
    )
    ledger: Path | None = Field(None, description="A ledger shared between runs; default: one in the run folder.")

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, given: Any) -> Any:
        """The unit follows from where the noise goes; what is not given says so in the resolved study."""
        if isinstance(given, dict) and given.get("plan") in UPDATE_PLANS:
            return {"unit": "hospital"} | given
        return given

    @model_validator(mode="after")
    def _unit_fits(self) -> Self:
        unit = "hospital" if self.plan in UPDATE_PLANS else "patient"
        if self.unit != unit:
            raise ValueError(f'unit must be "{unit}" under plan = "{self.plan}", got "{self.unit}"; remove it')
        if self.plan in UPDATE_PLANS and self.num_patients is not None:
            raise ValueError(f'plan = "{self.plan}" has no use for num_patients; remove it')
        if self.plan in UPDATE_PLANS and self.clipping != "flat":
            raise ValueError(f'plan = "{self.plan}" clips no gradient; remove clipping')
        return self

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.plan == "none":
            given = [k for k in ("epsilon", "noise_multiplier") if getattr(self, k) is not None]
            if given:
                raise ValueError(f'plan = "none" takes no {given[0]}; remove it, or set plan = "dp-sgd"')
            return self
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give epsilon or noise_multiplier, exactly one of them; the other is computed")
        if self.delta is None:
            raise ValueError("delta must be given, for instance delta = 1e-5 for a few thousand patients")
        return self
