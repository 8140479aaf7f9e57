"""`[privacy]`: everything that changes the guarantee, and nothing else."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from wardround.config.section import Section, conflict

UPDATE_PLANS = frozenset({"clipped-update", "sparse-vector", "top-k"})
"""Plans whose noise goes on a hospital's whole update; the unit is the hospital."""

CHOOSING = frozenset({"sparse-vector", "top-k"})
"""Update plans that release a few coordinates, which each hospital chooses and noises by itself."""

PictureMechanismName = Literal[
    "laplace-pixels", "gaussian-pixels", "dp-pix", "laplace-features", "gaussian-features"
]
FEATURE_PLANS = ("gaussian-features", "laplace-features")
"""Mechanisms that noise a network's fixed encoding of a picture instead of its pixels."""
_PICTURE_KEYS = ("pictures", "block", "neighbourhood", "feature_norm", "label_epsilon")

Probability = Annotated[float, Field(gt=0, le=1)]


class PrivacySection(Section):
    """`[privacy]`: everything that changes the guarantee, and nothing else."""

    plan: Literal[
        "dp-sgd",
        "clipped-update",
        "sparse-vector",
        "top-k",
        "output-perturbation",
        "correlated-noise",
        "local-pictures",
        "none",
    ] = Field(
        description="Where the noise goes: on sums of gradients (correlated-noise: later rounds take part back), "
        "on a hospital's clipped update, on a few of its coordinates (sparse-vector, top-k), on the weights of a "
        "linear head that was fitted to the end (output-perturbation), on every picture before any training "
        "(local-pictures), or nowhere "
        '("none": epsilon is then infinity).'
    )
    unit: Literal["patient", "hospital"] = Field(
        "patient", description="Who is protected: one person with all images; under clipped-update one hospital."
    )
    epsilon: float | None = Field(None, gt=0, description="The promise; noise_multiplier is computed.")
    noise_multiplier: float | None = Field(
        None,
        gt=0,
        description="Noise std / clipping_norm (clipped-update: / twice that; local-pictures: noise / what "
        "a replaced picture moves; sparse-vector, top-k, output-perturbation: noise on values / what they can move); "
        "epsilon is computed.",
    )
    delta: float | None = Field(None, gt=0, lt=1, description="Target delta; well below 1 / patients.")
    clipping_norm: float = Field(
        1.0,
        gt=0,
        description="Bound (L2) on a patient's gradient, or a hospital's update; sparse-vector, top-k: on "
        "each coordinate of it; output-perturbation: on a picture's row of features.",
    )
    answers: int | None = Field(
        None, ge=1, description="sparse-vector, top-k: coordinates of an update that are released, at most."
    )
    answer_threshold: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="sparse-vector: changes from this size on are released."
    )
    values_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="sparse-vector, top-k: part of the privacy that goes to values, not to places.",
    )
    regularisation: float = Field(
        0.01,
        gt=0,
        allow_inf_nan=False,
        description="one-shot: half of this times the squared weights is added to the loss.",
    )
    clipping: Literal["flat", "per-layer", "per-layer-by-size", "automatic", "adaptive"] = Field(
        "flat", description="How gradients are brought to that norm; an adaptive norm starts there."
    )
    clipping_quantile: float = Field(
        0.5, ge=0, le=1, description='Share of patients left unclipped, for clipping = "adaptive".'
    )
    sampling_prob: Probability = Field(1.0, description="Poisson probability of a patient; 1 = everyone.")
    cohorts: int | None = Field(
        None,
        ge=1,
        description="correlated-noise: a patient takes part in every round of this number, in no other.",
    )
    bands: int | None = Field(
        None, ge=1, description="correlated-noise: rounds that share noise; default: what leaves the least error."
    )
    images_per_patient: int = Field(8, ge=1, description="A patient's gradient averages at most this many.")
    pictures: PictureMechanismName | None = Field(
        None, description="local-pictures: what is noised, and how; default: gaussian-features."
    )
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
        None, gt=0, description="local-pictures: of epsilon, the labels' part; default: a quarter."
    )
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
    sum: Literal["simulated", "masked"] = Field(
        "simulated",
        description="How a sum under secure-aggregation is formed: in the open with floating-point noise "
        "(simulated), or of whole numbers with discrete noise under masks that cancel (masked).",
    )
    epsilon_limit: float | None = Field(
        None, gt=0, description="A hospital's own limit over all its studies; default: this study's epsilon."
    )
    ledger: Path | None = Field(None, description="A ledger shared between runs; default: one in the run folder.")

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, given: Any) -> Any:
        """The unit follows from where the noise goes; what is not given says so in the resolved study."""
        if isinstance(given, dict) and given.get("plan") in UPDATE_PLANS:
            own = {"trust": "nobody"} if given["plan"] in CHOOSING else {}
            return {"unit": "hospital"} | own | given
        if isinstance(given, dict) and given.get("plan") == "local-pictures":
            return _local_defaults(given) | given
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
    def _chosen(self) -> Self:
        if self.plan in CHOOSING:
            if self.answers is None:
                raise ValueError(
                    f'plan = "{self.plan}" needs answers, the number of coordinates that are released'
                )
            if self.trust != "nobody":
                raise ValueError(
                    f'each hospital chooses and noises by itself: trust must be "nobody", got "{self.trust}"; remove it'
                )
        elif self.answers is not None:
            raise ValueError(f'answers belongs to plan = "sparse-vector" or "top-k", got "{self.plan}"; remove it')
        if self.plan != "sparse-vector" and self.answer_threshold:
            raise ValueError(f'answer_threshold belongs to plan = "sparse-vector", got "{self.plan}"; remove it')
        return self

    @model_validator(mode="after")
    def _output_perturbation(self) -> Self:
        if self.plan != "output-perturbation":
            return self
        if self.num_patients is None:
            raise ValueError('plan = "output-perturbation" divides by a public number: num_patients must be given')
        if self.sampling_prob < 1 or self.clipping != "flat":
            raise ValueError('plan = "output-perturbation" fits all patients; remove sampling_prob and clipping')
        if self.trust == "coordinator":
            raise ValueError('hospitals noise what they fitted: trust must be "secure-aggregation" or "nobody"')
        return self

    @model_validator(mode="after")
    def _local_pictures(self) -> Self:
        if self.plan != "local-pictures":
            given = [key for key in _PICTURE_KEYS if getattr(self, key) is not None]
            if given:
                raise ValueError(f'{given[0]} belongs to plan = "local-pictures", got "{self.plan}"; remove it')
            return self
        if self.trust != "nobody":
            raise ValueError(
                f'each hospital noises its own pictures: trust must be "nobody", got "{self.trust}"; remove it'
            )
        if self.clipping != "flat":
            raise ValueError('plan = "local-pictures" clips no gradient; remove clipping')
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

    @model_validator(mode="after")
    def _correlated(self) -> Self:
        if self.plan != "correlated-noise":
            given = [key for key in ("cohorts", "bands") if getattr(self, key) is not None]
            if given:
                raise ValueError(f'{given[0]} belongs to plan = "correlated-noise", got "{self.plan}"; remove it')
            return self
        if self.cohorts is None:
            raise ValueError('plan = "correlated-noise" needs cohorts, for instance cohorts = 10')
        if self.bands is not None and self.bands > self.cohorts:
            raise ValueError(f"bands must be <= cohorts, got {self.bands} and {self.cohorts}; lower bands")
        if self.sampling_prob < 1 or self.clipping == "adaptive":
            raise ValueError(
                "correlated noise needs cohorts that are fixed and one clipping norm; remove sampling_prob, and "
                "clipping if it is adaptive"
            )
        if self.trust == "coordinator" or self.dropouts:
            raise ValueError(
                'correlated noise comes from every hospital in every round: trust must be "secure-aggregation" or '
                f'"nobody" and dropouts 0, got "{self.trust}" and {self.dropouts}'
            )
        return self

    @model_validator(mode="after")
    def _masked(self) -> Self:
        if self.sum != "masked":
            return self
        if self.plan != "dp-sgd":
            raise ValueError(
                f'sum = "masked" adds up patients\' gradients on a grid, and plan = "{self.plan}" noises something '
                'else; use plan = "dp-sgd"'
            )
        if self.trust != "secure-aggregation":
            raise ValueError(
                f'masks hide what a hospital sends until all have sent, and under trust = "{self.trust}" somebody sees '
                'it alone: trust must be "secure-aggregation" for sum = "masked"'
            )
        return self

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.plan == "none":
            given = [k for k in ("epsilon", "noise_multiplier") if getattr(self, k) is not None]
            if given:
                raise conflict(
                    "study-no-promise", f'plan = "none" takes no {given[0]}; remove it, or set plan = "dp-sgd"'
                )
            return self
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise conflict(
                "study-epsilon-or-noise",
                "give epsilon or noise_multiplier, exactly one of them; the other is computed",
            )
        if self.delta is None:
            raise conflict(
                "study-delta", "delta must be given, for instance delta = 1e-5 for a few thousand patients"
            )
        return self


def _local_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """What plan = "local-pictures" takes where nothing is said."""
    pictures, epsilon = given.get("pictures") or "gaussian-features", given.get("epsilon")
    own: dict[str, Any] = {"pictures": pictures, "trust": "nobody"}
    if pictures == "dp-pix":
        own["block"] = 16
    if pictures in FEATURE_PLANS:
        own["feature_norm"] = 1.0
    if isinstance(epsilon, int | float) and given.get("noise_multiplier") is None:
        own["label_epsilon"] = epsilon / 4
    return own
