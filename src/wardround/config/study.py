"""A study as a whole: its sections, what must hold between them, and its identity."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, SerializeAsAny, model_validator

from wardround.config.choice import with_choice
from wardround.config.data import DataSection, HospitalsSection, PersonTable, SiteSection, with_site
from wardround.config.evaluation import EvaluationSection, NoEvaluation, check_evaluation
from wardround.config.federation import (
    ALONE,
    OF_ONE,
    Averaging,
    EvaluationStrategy,
    FederatedSGD,
    FederationSection,
    Local,
    OneShotSection,
    Scaffolding,
    rounds_of,
)
from wardround.config.model import ModelSection, PerformanceSection, TrainingSection, check_stride
from wardround.config.privacy import (
    DPSGD,
    ClippedUpdates,
    CorrelatedNoise,
    NoPrivacy,
    OutputPerturbed,
    PrivacySection,
    PublishedPlan,
    Untrained,
)
from wardround.config.recipe import HeadRecipe, check_recipe, name_constants, recipe_for, with_recipe
from wardround.config.robust import check_robust, forget_defaults
from wardround.config.section import Section, conflict, kinds_of, without_defaults_of_others
from wardround.config.sums import FEWEST, with_sum


class StudySection(Section):
    """`[study]`: what this is."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Lower-case name; names the run folder.")
    description: str = Field("", description="A sentence for the report.")
    seed: int | None = Field(
        None,
        ge=0,
        description="Makes the run reproducible and NOT private: noise and sampling can be recomputed. "
        "Left out, both come from the operating system.",
    )


class Study(Section):
    """One study file, checked as a whole."""

    study: StudySection
    site: SiteSection
    data: DataSection = Field(default_factory=DataSection.model_construct)
    hospitals: HospitalsSection = Field(default_factory=HospitalsSection.model_construct)
    model: ModelSection = Field(default_factory=ModelSection.model_construct)
    training: TrainingSection = Field(default_factory=TrainingSection.model_construct)
    privacy: SerializeAsAny[PrivacySection]
    federation: SerializeAsAny[FederationSection] = Field(default_factory=lambda: FederatedSGD.model_validate({}))
    evaluation: SerializeAsAny[EvaluationSection] = Field(default_factory=lambda: NoEvaluation(level="none"))
    performance: PerformanceSection = Field(default_factory=PerformanceSection.model_construct)

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_files(cls, given: Any) -> Any:
        """Reads files from before kinds had keys of their own: another kind's key at its default asks for nothing."""
        if not isinstance(given, dict):
            return given
        read = with_site(dict(given))
        if isinstance(read.get("privacy"), dict) and "rounding" in read["privacy"]:
            read["privacy"] = _rounded_by_patient(read["privacy"])
        if isinstance(read.get("privacy"), dict) and read["privacy"].get("plan") == "evaluation":
            read.setdefault("federation", {"strategy": "evaluation"})
        for section, tag, kinds in (
            ("privacy", "plan", kinds_of(PrivacySection)),
            ("federation", "strategy", kinds_of(FederationSection)),
        ):
            if isinstance(read.get(section), dict):
                named = {"strategy": "fedsgd"} | read[section] if section == "federation" else read[section]
                read[section] = without_defaults_of_others(named, tag, kinds)
        if _fits_in_the_open(read) and "clipping_norm" in read["privacy"]:
            norm = {"row_norm": read["privacy"].pop("clipping_norm")}  # its name before there was this one
            read["privacy"] = norm | read["privacy"]
        return with_recipe(with_choice(with_sum(read)))

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        privacy, federation = self.privacy, self.federation
        if self.model.name == "auto":
            raise conflict(
                "study-no-choice",
                '[model] name = "auto" knows no network for classes of whole volumes; give a name, or set '
                '[data] view = "slices"',
            )
        if self.site.class_names is not None and self.data.classes is None:
            raise conflict(
                "study-classes",
                "[site.class_names] are names for the study's classes: give [data] classes as well",
            )
        shares, count = getattr(federation, "hospital_weights", None), self.hospitals.count
        if shares is not None and (len(shares) != count or min(shares) <= 0):
            raise ValueError(f"hospital_weights must be {count} numbers above 0, one for each hospital")
        if isinstance(federation, Local) and getattr(privacy, "clipping", "flat") == "adaptive":
            raise conflict(
                "study-plan-strategy",
                f"an adaptive clipping norm follows the sum of a round, and {federation.strategy} has none; "
                'use strategy = "fedsgd", or clipping = "flat"',
            )
        if getattr(federation, "repair", "none") != "none" and privacy.public_size is not None:
            raise ValueError(
                "repair follows each hospital's patients, counted before round 1, and num_patients is public: remove "
                "num_patients, or remove repair"
            )
        if isinstance(privacy, CorrelatedNoise):
            if federation.strategy in ALONE:
                raise ValueError(
                    f'plan = "correlated-noise" is for strategy = "fedsgd" or "pooled", got "{federation.strategy}"'
                )
            if privacy.cohorts > self.rounds:
                raise ValueError(f"cohorts must be <= rounds, {self.rounds}, got {privacy.cohorts}; lower cohorts")
        check_recipe(federation, self.recipe, self.model.name, privacy.plan)
        check_stride(self.model, self.training)
        self._published()
        self._fitted()
        self._unreliable()
        self._masked()
        self._trusted()
        check_robust(self.federation, self.privacy, self.hospitals)
        self._honest()
        check_evaluation(self.evaluation, self.data, self.model, self.privacy, self.federation)
        return self

    def _trusted(self) -> None:
        """Refuses keys of shared noise where no noise is shared."""
        privacy, strategy = self.privacy, self.federation.strategy
        trust = getattr(privacy, "trust", None)
        if strategy in OF_ONE and trust == "coordinator":
            raise ValueError(f'{strategy} has no sum of several hospitals: trust must be "nobody"; or remove it')
        if trust == "secure-aggregation" and strategy not in OF_ONE:
            return
        given = [key for key in ("colluders", "dropouts") if _is_given(privacy, key)]
        if given:
            raise ValueError(
                f'{given[0]} belongs to trust = "secure-aggregation" and a sum over hospitals; remove {given[0]}'
            )

    def _honest(self) -> None:
        """Refuses shares of noise if none is surely added by an honest hospital."""
        privacy, count = self.privacy, self.hospitals.count
        kinds = DPSGD | ClippedUpdates | OutputPerturbed | CorrelatedNoise | Untrained
        if self.shares_noise and isinstance(privacy, kinds):
            dropouts = 0 if isinstance(privacy, CorrelatedNoise) else privacy.dropouts
            if privacy.colluders + dropouts >= count:
                raise conflict(
                    "study-honest-hospital",
                    f"colluders + dropouts must leave at least one honest hospital of {count}, "
                    f"got {privacy.colluders} + {dropouts}; lower one of them",
                )

    def _published(self) -> None:
        """Refuses data that a published plan has no use for."""
        privacy = self.privacy
        if isinstance(privacy, PublishedPlan):
            privacy.check(self.data)
        if not privacy.releases_pictures and self.training.label_correction != "forward":
            raise ValueError("label_correction belongs to a plan that noises labels; remove it")

    def _unreliable(self) -> None:
        """Refuses absences where an answer that is missing would break something."""
        strategy, plan = self.federation.strategy, self.privacy.plan
        if self.hospitals.is_reliable:
            return
        if strategy in ("one-shot", *OF_ONE):
            raise ValueError(
                f"absent_rate and late_rate need rounds that go on without a hospital, and {strategy} has none; "
                "remove them"
            )
        if plan == "correlated-noise":
            raise ValueError(
                'under plan = "correlated-noise" every round takes back noise of the rounds before, so no hospital '
                'may be missing: remove absent_rate and late_rate, or use plan = "dp-sgd"'
            )

    def _fitted(self) -> None:
        """Refuses keys of rounds where everything is fitted at once, and keys of a fit where nothing is fitted."""
        privacy, federation = self.privacy, self.federation
        if not self.fits_head:
            if isinstance(privacy, NoPrivacy):
                given = [key for key in ("row_norm", "regularisation") if _is_given(privacy, key)]
                if given:
                    raise ValueError(f'{given[0]} belongs to strategy = "one-shot"; remove it')
            return
        if isinstance(privacy, NoPrivacy) and privacy.sampling_prob != 1:
            raise ValueError("a fit to the end takes all patients; remove sampling_prob")
        given = [
            key for key in ("rounds", "learning_rate", "momentum", "average_last") if _is_given(federation, key)
        ]
        if given and not (given == ["rounds"] and getattr(federation, "rounds", 1) == 1):
            raise ValueError(f"a fit to the end has one round and no steps, got {given[0]}; remove {given[0]}")
        without = [name for name in federation.compare if name in ("pooled", "pooled-no-privacy")]
        if without:
            raise ValueError(f'a fit to the end has no reference "{without[0]}"; remove it from compare')

    def _masked(self) -> None:
        """Refuses masked sums that would hide nothing."""
        privacy, count = self.privacy, self.hospitals.count
        evaluates = isinstance(privacy, Untrained) and privacy.trust == "secure-aggregation"
        if not evaluates and not (isinstance(privacy, DPSGD) and privacy.sum == "masked"):
            return
        assert isinstance(privacy, DPSGD | Untrained), "of one kind or the other"
        if self.federation.strategy != "fedsgd" and not evaluates:
            raise conflict(
                "study-plan-strategy",
                f'sum = "masked" is the sum of all hospitals in every round, and {self.federation.strategy} has none; '
                'use strategy = "fedsgd", or sum = "simulated"',
            )
        if count - privacy.dropouts < FEWEST:
            raise ValueError(
                "of two hospitals each learns the other's vector from a masked sum: hospitals.count less dropouts must "
                f"be >= {FEWEST}, got {count} - {privacy.dropouts}; invite more hospitals, foresee fewer dropouts, or "
                'use sum = "simulated"'
            )

    @property
    def shares_noise(self) -> bool:
        """True if each hospital adds a share of the noise to a sum of all, which alone is seen."""
        return getattr(self.privacy, "trust", "nobody") == "secure-aggregation" and self.forms_sums

    @property
    def leaves_one_out(self) -> bool:
        """True if some rounds leave out a hospital, and with it a share of the noise."""
        return isinstance(self.federation, FederatedSGD) and self.federation.leave_one_out

    @property
    def forms_sums(self) -> bool:
        """True if the answers of all hospitals in a round are summed, and no single one is needed."""
        match self.federation:
            case FederatedSGD(strategy="fedsgd") | OneShotSection() | EvaluationStrategy():
                return True
            case Scaffolding():
                return False
            case Averaging() as averaging:
                travels = averaging.optimizer_state == "travels"
                return averaging.hospital_weights is None and averaging.fraction == 1 and not travels
            case _:
                return False

    @property
    def recipe(self) -> HeadRecipe | None:
        """The recipe that fills in what the study leaves out of its schedule; None for other studies."""
        clipping = getattr(self.privacy, "clipping", None)
        return recipe_for(self.model.name, self.privacy.plan, clipping, self.federation.strategy)

    @property
    def fits_head(self) -> bool:
        """True if each hospital fits a linear head to the end, once."""
        strategy = self.federation.strategy
        return strategy == "one-shot" or (isinstance(self.privacy, OutputPerturbed) and strategy in ALONE)

    @property
    def rounds(self) -> int:
        """Rounds of the whole run: as given, or as many as the cycles or the single pass take, and rounds of scores."""
        return 1 if self.fits_head else rounds_of(self.federation, self.hospitals.count)

    @property
    def score_rounds(self) -> int:
        """Rounds after training, which release moments of class scores."""
        return self.federation.score_rounds if isinstance(self.federation, FederatedSGD) else 0

    @property
    def centre_rounds(self) -> int:
        """Rounds before training, which release the mean row."""
        return self.federation.centre_rounds if isinstance(self.federation, FederatedSGD) else 0

    @property
    def descent_rounds(self) -> int:
        """Rounds that release a sum of gradients."""
        return self.training_rounds - self.centre_rounds

    @property
    def training_rounds(self) -> int:
        """Rounds that train, and those before them that release the mean row."""
        return self.rounds - self.score_rounds

    @property
    def local_steps(self) -> int:
        """Optimizer steps of a hospital in a visit; 1 where a round is one gradient."""
        federation = self.federation
        if not isinstance(federation, Local):
            return 1
        if federation.local_epochs is None:
            return federation.local_steps
        return max(1, round(federation.local_epochs / getattr(self.privacy, "sampling_prob", 1.0)))

    @property
    def stream_name(self) -> str:
        """The study's part of the name of every seeded stream: its public name, not the layout of its file.

        Two seeded studies of one name and one seed share their draws; a seeded run is not private anyway.
        """
        return self.study.name

    @property
    def digest(self) -> str:
        """Identity of the study: a hash of everything that changes its result or its guarantee.

        It does not depend on where files lie, nor on anything else of `[site]`; of a weights file its hash counts, or
        its name where the study has no hash; of a backbone the hashes of its weights and constants count too.
        """
        content = self.model_dump(
            mode="json",
            exclude={"site": True, "performance": True, "privacy": {"ledger"}},
        )
        if isinstance(self.evaluation, NoEvaluation):
            del content["evaluation"]  # a study from before there were levels is the same study
        forget_defaults(content["federation"])
        if content["federation"].get("compare") == ["repeats"]:
            content["federation"]["compare"] = []  # a study from before this default is the same study
        name_constants(content["federation"])
        content["model"] = self.model.identity
        return _hash(content)

    @property
    def run_digest(self) -> str:
        """Identity of a simulation: the study's, and the pictures that `[site]` names, wherever they lie."""
        site = self.site.model_dump(mode="json", exclude={"path", "labels", "key_file"})
        if isinstance(self.site.patients, PersonTable):
            site["patients"] = {"table": self.site.patients.table.name}
        return _hash({"study": self.digest, "site": site})

    def to_toml(self) -> str:
        """The resolved study as TOML text; reading it back gives an equal study.

        `[privacy] unit` is left out: a plan has one value for it, and the pictures may know less.
        """
        lines: list[str] = []
        tables = self.model_dump(mode="json", exclude_none=True, exclude={"privacy": {"unit"}})
        if isinstance(self.evaluation, NoEvaluation):
            del tables["evaluation"]
        forget_defaults(tables["federation"], but=("centre_rounds",) if self.recipe else ())
        for section, values in tables.items():
            nested = {key: value for key, value in values.items() if isinstance(value, dict)}
            lines += [f"[{section}]", *_toml_lines(values), ""]
            for key, inner in nested.items():
                lines += [f"[{section}.{key}]", *_toml_lines(inner), ""]
        return "\n".join(lines)


def _rounded_by_patient(privacy: dict[str, Any]) -> dict[str, Any]:
    """Returns `[privacy]` without `rounding`, a key that earlier files have; of its two values one is left."""
    if privacy["rounding"] != "patient":
        raise conflict(
            "study-rounding",
            f"each patient's gradient is rounded to the grid, and rounding = {privacy['rounding']!r} asks "
            "for another grid; remove rounding",
        )
    return {key: value for key, value in privacy.items() if key != "rounding"}


def _fits_in_the_open(tables: Mapping[str, Any]) -> bool:
    """Returns whether a study fits heads without privacy."""
    privacy, federation = tables.get("privacy"), tables.get("federation")
    if not isinstance(privacy, dict) or not isinstance(federation, dict):
        return False
    return privacy.get("plan") == "none" and federation.get("strategy") == "one-shot"


def _hash(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_given(section: Section, key: str) -> bool:
    """Returns whether a key was given another value than its default."""
    field = type(section).model_fields.get(key)
    return field is not None and getattr(section, key) != field.default


def _toml_lines(values: Mapping[str, object]) -> list[str]:
    return [
        f"{_toml_key(key)} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, dict)
    ]


def _toml_key(key: str) -> str:
    """Returns a key as TOML has it: in quotes, unless it is of letters, digits, dashes and underscores alone."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else str(_toml_value(key))


def _toml_value(value: object) -> str:
    # JSON's strings, numbers, booleans and flat arrays are TOML as well, but for two things: TOML knows no
    # surrogate pairs, so characters stand as they are, and it wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
