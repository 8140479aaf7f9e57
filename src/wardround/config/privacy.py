"""`[privacy]`: everything that changes the guarantee, and nothing else; one class for each kind of plan.

A key stands in the classes that have a use for it, so that no study file can give one that is ignored.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AliasChoices, Field, model_validator

from wardround.config.data import DataSection
from wardround.config.section import PublishedSection, Section, conflict
from wardround.published import PublishedPlanName

PLAN = "Where the noise goes."

Probability = Annotated[float, Field(gt=0, le=1)]

SAMPLING_PROB: Any = Field(1.0, description="Poisson probability of a patient in one step; 1 = everyone.")
NUM_PATIENTS: Any = Field(
    None, ge=1, description="Public size of the training set; left out, it is counted (with noise, and charged)."
)
COLLUDERS: Any = Field(1, ge=0, description="Hospitals that may collude, under secure-aggregation.")
DROPOUTS: Any = Field(0, ge=0, description="Hospitals that may be missing, under secure-aggregation.")
SHARED_TRUST: Any = Field("secure-aggregation", description="Who adds noise, and so who may see what.")
SPARE_ATTEMPTS: Any = Field(
    0,
    ge=0,
    description="Answers beyond one a round that a hospital gives over the whole study, where a round lost a hospital "
    "or an answer was lost after its charge; epsilon covers them.",
)
CLIPPING_NORM: Any = Field(1.0, gt=0, description="Bound (L2) on a patient's gradient.")


class PlanSection(Section):
    """The keys that every plan has."""

    releases_pictures: ClassVar[bool] = False
    """True where noised pictures and labels are released, once, before round 1."""

    accountant: Literal["pld", "rdp"] = Field("pld", description="What computes epsilon; both are upper bounds.")
    images_per_patient: int = Field(8, ge=1, description="At most so many pictures of a patient are used.")
    epsilon_limit: float | None = Field(
        None,
        gt=0,
        description="What one run may cost; default: this study's epsilon. A ledger has the limit over all studies.",
    )
    ledger: Path | None = Field(
        None,
        description="The ledger that runs are charged to; default: the lasting one of the person who runs them.",
    )

    @property
    def spare(self) -> int:
        """Answers beyond one a round that the plan pays for."""
        attempts: int = getattr(self, "spare_attempts", 0)
        return attempts

    @property
    def public_size(self) -> int | None:
        """The number of training patients, where the study file gives it."""
        size: int | None = getattr(self, "num_patients", None)
        return size


class PrivateSection(PlanSection):
    """The keys that every plan with a promise has."""

    unit: Literal["patient"] = Field(
        "patient",
        description="Who is protected: one person with all images; one picture where `[site]` and the pictures name no "
        "person.",
    )
    epsilon: float | None = Field(None, gt=0, description="The promise; noise_multiplier is computed.")
    noise_multiplier: float | None = Field(
        None,
        gt=0,
        description="Noise (std, or scale) over the sensitivity: how far one unit moves what is released; epsilon is "
        "computed.",
    )
    delta: float = Field(gt=0, lt=1, description="Target delta; well below 1 / patients.")

    @model_validator(mode="before")
    @classmethod
    def _has_delta(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("delta") is None:
            raise conflict(
                "study-delta", "delta must be given, for instance delta = 1e-5 for a few thousand patients"
            )
        return given

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise conflict(
                "study-epsilon-or-noise",
                "give epsilon or noise_multiplier, exactly one of them; the other is computed",
            )
        return self


class DPSGD(PrivateSection):
    """`plan = "dp-sgd"`: noise on sums of clipped per-patient gradients."""

    plan: Literal["dp-sgd"] = Field(description=PLAN)
    clipping_norm: float = CLIPPING_NORM
    clipping: Literal["flat", "per-layer", "per-layer-by-size", "automatic", "adaptive"] = Field(
        "flat", description="How gradients are brought to that norm; an adaptive norm starts there."
    )
    clipping_quantile: float = Field(
        0.5, ge=0, le=1, description='Share of patients left unclipped, for clipping = "adaptive".'
    )
    sampling_prob: Probability = SAMPLING_PROB
    num_patients: int | None = NUM_PATIENTS
    trust: Literal["coordinator", "secure-aggregation", "nobody"] = SHARED_TRUST
    colluders: int = COLLUDERS
    dropouts: int = DROPOUTS
    spare_attempts: int = SPARE_ATTEMPTS
    sum: Literal["simulated", "masked"] = Field(
        "simulated",
        description="How a sum under secure-aggregation is formed: in the open with floating-point noise "
        "(simulated), a rehearsal, or of whole numbers with discrete noise under masks that cancel (masked); default: "
        'masked for "fedsgd" of three hospitals or more.',
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if self.sum == "masked" and self.trust != "secure-aggregation":
            raise ValueError(
                f'masks hide what a hospital sends until all have sent, and under trust = "{self.trust}" somebody sees '
                'it alone: trust must be "secure-aggregation" for sum = "masked"'
            )
        if self.clipping != "adaptive" and self.clipping_quantile != 0.5:
            raise ValueError(
                f'clipping_quantile belongs to clipping = "adaptive", got "{self.clipping}"; remove clipping_quantile'
            )
        return self


class CorrelatedNoise(PrivateSection):
    """`plan = "correlated-noise"`: noise on sums of gradients, of which later rounds take part back."""

    plan: Literal["correlated-noise"] = Field(description=PLAN)
    clipping_norm: float = CLIPPING_NORM
    clipping: Literal["flat", "per-layer", "per-layer-by-size", "automatic"] = Field(
        "flat", description="How gradients are brought to that norm, the same in all rounds."
    )
    cohorts: int = Field(ge=1, description="A patient takes part in every round of this number, in no other.")
    bands: int | None = Field(
        None, ge=1, description="Rounds that share noise; default: what leaves the least error."
    )
    num_patients: int | None = NUM_PATIENTS
    trust: Literal["secure-aggregation", "nobody"] = SHARED_TRUST
    colluders: int = COLLUDERS

    @model_validator(mode="after")
    def _bands_fit(self) -> Self:
        if self.bands is not None and self.bands > self.cohorts:
            raise ValueError(f"bands must be <= cohorts, got {self.bands} and {self.cohorts}; lower bands")
        return self


class ClippedUpdates(PrivateSection):
    """`plan = "clipped-update"`: noise on a hospital's clipped update; the unit is the hospital."""

    plan: Literal["clipped-update"] = Field(description=PLAN)
    unit: Literal["hospital"] = Field(  # type: ignore[assignment]  # another unit than other plans
        "hospital", description="Who is protected: one hospital with all its data."
    )
    sampling_prob: Probability = SAMPLING_PROB
    clipping_norm: float = Field(1.0, gt=0, description="Bound (L2) on a hospital's update.")
    trust: Literal["secure-aggregation", "nobody"] = SHARED_TRUST
    colluders: int = COLLUDERS
    dropouts: int = DROPOUTS
    spare_attempts: int = SPARE_ATTEMPTS


class PublishedPlan(PublishedSection, PrivateSection):
    """A plan of a published system, whose own keys stand beside its mechanism: see `wardround.published`."""

    plan: PublishedPlanName = Field(description=PLAN)

    def check(self, data: DataSection) -> None:
        """Refuses data that the plan has no use for.

        Raises:
            ValueError: what must hold between the two.
        """


class OutputPerturbed(PrivateSection):
    """`plan = "output-perturbation"`: noise on the weights of a linear head that was fitted to the end."""

    plan: Literal["output-perturbation"] = Field(description=PLAN)
    row_norm: float = Field(
        1.0,
        gt=0,
        description="Bound (L2) on a picture's row of features.",
        validation_alias=AliasChoices("row_norm", "clipping_norm"),
    )
    regularisation: float = Field(
        0.01, gt=0, description="Half of this times the squared weights is added to the loss."
    )
    num_patients: int = Field(ge=1, description="Public size of the training set, that losses are divided by.")
    trust: Literal["secure-aggregation", "nobody"] = SHARED_TRUST
    colluders: int = COLLUDERS
    dropouts: int = DROPOUTS


class Untrained(PlanSection):
    """`plan = "evaluation"`: nothing is trained; `[evaluation]` has the promise to test patients."""

    plan: Literal["evaluation"] = Field(description=PLAN)
    delta: float = Field(gt=0, lt=1, description="Target delta; well below 1 / test patients.")
    trust: Literal["secure-aggregation", "nobody"] = Field(
        "secure-aggregation",
        description="Who adds noise: shares of it under masks, or all of it from each hospital.",
    )
    colluders: int = COLLUDERS
    dropouts: int = DROPOUTS
    spare_attempts: int = SPARE_ATTEMPTS


class NoPrivacy(PlanSection):
    """`plan = "none"`: no noise; epsilon is infinity."""

    plan: Literal["none"] = Field(description=PLAN)
    delta: float | None = Field(
        None, gt=0, lt=1, description="Of the ledger, for later runs on the same patients."
    )
    sampling_prob: Probability = SAMPLING_PROB
    num_patients: int | None = NUM_PATIENTS
    row_norm: float = Field(1.0, gt=0, description="one-shot: bound (L2) on a picture's row of features.")
    regularisation: float = Field(
        0.01, gt=0, description="one-shot: half of this times the squared weights is added to the loss."
    )

    @model_validator(mode="before")
    @classmethod
    def _promises_nothing(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for key in ("epsilon", "noise_multiplier"):
                if given.get(key) is not None:
                    raise conflict(
                        "study-no-promise", f'plan = "none" takes no {key}; remove it, or set plan = "dp-sgd"'
                    )
        return given


PrivacySection: TypeAlias = Annotated[
    DPSGD | CorrelatedNoise | ClippedUpdates | PublishedPlan | OutputPerturbed | Untrained | NoPrivacy,
    Field(discriminator="plan"),
]
"""`[privacy]`, one class for each plan."""
