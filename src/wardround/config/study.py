"""A study as a whole: its sections, what must hold between them, and its identity."""

import hashlib
import json
from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from wardround.config.data import DataSection, HospitalsSection
from wardround.config.federation import LOCAL, TOGETHER, FederationSection
from wardround.config.model import ModelSection, PerformanceSection, TrainingSection
from wardround.config.privacy import UPDATE_PLANS, PrivacySection
from wardround.config.section import Section, conflict


class StudySection(Section):
    """`[study]`: what this is."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Lower-case name; names the run folder.")
    description: str = Field("", description="A sentence for the report.")
    seed: int | None = Field(
        None,
        ge=0,
        description="Makes the run reproducible and NOT private: noise and sampling can be recomputed. "
        "Leave it out in earnest; they then come from the operating system.",
    )


class Study(Section):
    """One study file, checked as a whole."""

    study: StudySection
    data: DataSection
    hospitals: HospitalsSection = Field(default_factory=HospitalsSection.model_construct)
    model: ModelSection
    training: TrainingSection = Field(default_factory=TrainingSection.model_construct)
    privacy: PrivacySection
    federation: FederationSection = Field(default_factory=FederationSection.model_construct)
    performance: PerformanceSection = Field(default_factory=PerformanceSection.model_construct)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        privacy, count = self.privacy, self.hospitals.count
        strategy = self.federation.strategy
        if privacy.clipping == "adaptive" and strategy in LOCAL:
            raise ValueError(
                f"an adaptive clipping norm follows the sum of a round, and {strategy} has none; "
                'use strategy = "fedsgd", or clipping = "flat"'
            )
        shares = self.federation.hospital_weights
        if shares is not None and (len(shares) != count or min(shares) <= 0):
            raise ValueError(f"hospital_weights must be {count} numbers above 0, one for each hospital")
        if self.federation.repair != "none" and (privacy.num_patients is not None or privacy.plan in UPDATE_PLANS):
            raise ValueError(
                f'repair = "{self.federation.repair}" follows each hospital\'s patients, counted with noise before '
                'round 1: remove num_patients and use plan = "dp-sgd", or remove repair'
            )
        if self.federation.optimizer_state == "travels" and privacy.plan in UPDATE_PLANS:
            raise ValueError(
                f'plan = "{privacy.plan}" protects the update alone, and optimizer_state = "travels" sends a velocity '
                'too; use "reset"'
            )
        self._local_pictures()
        self._fitted()
        self._unreliable()
        if privacy.plan == "none":
            return self
        if privacy.plan == "correlated-noise":
            if strategy not in ("fedsgd", "pooled"):
                raise ValueError(
                    f'plan = "correlated-noise" is for strategy = "fedsgd" or "pooled", got "{strategy}"'
                )
            if privacy.cohorts is not None and privacy.cohorts > self.rounds:
                raise ValueError(f"cohorts must be <= rounds, {self.rounds}, got {privacy.cohorts}; lower cohorts")
        if privacy.plan in UPDATE_PLANS and strategy not in LOCAL:
            raise ValueError(
                f'plan = "{privacy.plan}" noises what comes of local steps, and {strategy} has none; use one of '
                f'{", ".join(sorted(LOCAL))}, or plan = "dp-sgd"'
            )
        self._masked()
        self._summed()
        if strategy not in TOGETHER:
            return self
        if privacy.trust == "secure-aggregation" and privacy.colluders + privacy.dropouts >= count:
            raise conflict(
                "study-honest-hospital",
                f"colluders + dropouts must leave at least one honest hospital of {count}, "
                f"got {privacy.colluders} + {privacy.dropouts}; lower one of them",
            )
        return self

    def _local_pictures(self) -> None:
        """Refuses pictures that the mechanism cannot noise."""
        privacy, data = self.privacy, self.data
        if privacy.plan != "local-pictures":
            if self.training.label_correction != "forward":
                raise ValueError('label_correction belongs to plan = "local-pictures"; remove it')
            return
        if data.volume_size is not None:
            raise ValueError(
                'plan = "local-pictures" noises pictures, and volume_size is set; use plan = "dp-sgd"'
            )
        if privacy.block is not None and data.image_size % privacy.block:
            raise ValueError(f"block must divide image_size, {data.image_size}, got {privacy.block}")
        if privacy.neighbourhood is not None and privacy.neighbourhood > data.image_size**2:
            raise ValueError(
                f"neighbourhood must be <= the {data.image_size**2} pixels of a picture, got {privacy.neighbourhood}"
            )

    def _unreliable(self) -> None:
        """Refuses absences where an answer that is missing would break something."""
        strategy, plan = self.federation.strategy, self.privacy.plan
        if self.hospitals.is_reliable:
            return
        if strategy in ("one-shot", "alone", "ensemble", "pooled"):
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
        """Refuses a fit to the end where something else is noised, and noise on a fit where nothing is fitted."""
        plan, strategy, compare = self.privacy.plan, self.federation.strategy, self.federation.compare
        if strategy == "one-shot" and plan not in ("output-perturbation", "none"):
            raise ValueError(f'strategy = "one-shot" needs plan = "output-perturbation" or "none", got "{plan}"')
        if plan == "output-perturbation" and strategy not in ("one-shot", "alone", "ensemble"):
            raise ValueError(
                f'plan = "{plan}" noises weights that were fitted to the end: strategy must be "one-shot", "alone" or '
                f'"ensemble", got "{strategy}"'
            )
        default = FederationSection.model_fields["rounds"].default
        if plan == "output-perturbation" and self.federation.rounds not in (1, default):
            raise ValueError(
                f'plan = "{plan}" has one round, got rounds = {self.federation.rounds}; remove rounds'
            )
        without = [name for name in compare if name in ("pooled", "pooled-no-privacy")]
        if self.fits_head and without:
            raise ValueError(f'a fit to the end has no reference "{without[0]}"; remove it from compare')
        private = [name for name in compare if not name.endswith("no-privacy")]
        if plan in UPDATE_PLANS and private:
            raise ValueError(
                f'plan = "{plan}" noises updates, and the reference "{private[0]}" makes none; use '
                f'"{private[0]}-no-privacy"'
            )

    def _masked(self) -> None:
        """Refuses masked sums where none is formed, or where one would hide nobody."""
        privacy, strategy, count = self.privacy, self.federation.strategy, self.hospitals.count
        if privacy.sum != "masked":
            return
        if strategy != "fedsgd":
            raise ValueError(
                f'sum = "masked" is the sum of all hospitals in every round, and {strategy} has none; use '
                'strategy = "fedsgd", or sum = "simulated"'
            )
        if count - privacy.dropouts < 3:
            raise ValueError(
                "of two hospitals each learns the other's vector from a masked sum: hospitals.count less dropouts must "
                f"be >= 3, got {count} - {privacy.dropouts}; invite more hospitals, foresee fewer dropouts, or use "
                'sum = "simulated"'
            )

    def _summed(self) -> None:
        """Refuses trust in a sum that the strategy does not form."""
        privacy, federation = self.privacy, self.federation
        alike = ("fedsgd", "one-shot", "alone", "ensemble", "pooled")
        if federation.strategy in alike or privacy.trust == "nobody":
            return
        means = federation.strategy in ("fedavg", "fedprox") and federation.hospital_weights is None
        if privacy.plan == "clipped-update" and means and privacy.trust == "secure-aggregation":
            if federation.fraction < 1:
                raise conflict(
                    "study-trust",
                    'noise shares are sized for all hospitals: fraction must be 1, or trust "nobody"',
                )
            return
        why = "lets single updates be seen"
        if privacy.plan == "dp-sgd":
            why = "takes local steps, each with its hospital's full noise"
        raise conflict(
            "study-trust",
            f'{federation.strategy} {why}: trust must be "nobody", got "{privacy.trust}"; change trust, or use '
            'strategy = "fedsgd"',
        )

    @property
    def fits_head(self) -> bool:
        """Whether each hospital fits a linear head to the end, once."""
        return self.federation.strategy == "one-shot" or self.privacy.plan == "output-perturbation"

    @property
    def rounds(self) -> int:
        """Rounds of the whole run: as given, or as many as the cycles or the single pass take."""
        federation = self.federation
        if self.fits_head:
            return 1
        if federation.strategy == "single-pass":
            return self.hospitals.count
        if federation.cycles is not None:
            return federation.cycles * self.hospitals.count
        return federation.rounds

    @property
    def local_steps(self) -> int:
        """Optimizer steps of a hospital in a visit."""
        if self.federation.local_epochs is None:
            return self.federation.local_steps
        return max(1, round(self.federation.local_epochs / self.privacy.sampling_prob))

    @property
    def stream_name(self) -> str:
        """The study's part of the name of every seeded stream: its public name, whatever the layout of its file.

        Two seeded studies of one name and one seed share their draws; a seeded run is not private anyway.
        """
        return self.study.name

    @property
    def digest(self) -> str:
        """Identity of the study: a hash of everything that changes its result or its guarantee.

        It does not depend on where files lie; of a weights file the name counts.
        """
        content = self.model_dump(
            mode="json",
            exclude={"performance": True, "data": {"path", "labels", "key_file"}, "privacy": {"ledger"}},
        )
        if self.privacy.sum == "simulated":
            del content["privacy"]["sum"]  # as before there was a choice: runs that had begun can go on
        if self.model.weights is not None:
            content["model"]["weights"] = self.model.weights.name
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_toml(self) -> str:
        """The resolved study as TOML text; reading it back gives an equal study."""
        lines: list[str] = []
        for section, values in self.model_dump(mode="json", exclude_none=True).items():
            nested = {key: value for key, value in values.items() if isinstance(value, dict)}
            lines += [f"[{section}]", *_toml_lines(values), ""]
            for key, inner in nested.items():
                lines += [f"[{section}.{key}]", *_toml_lines(inner), ""]
        return "\n".join(lines)


def _toml_lines(values: Mapping[str, object]) -> list[str]:
    return [f"{key} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, dict)]


def _toml_value(value: object) -> str:
    # JSON's strings, numbers, booleans and flat arrays are TOML as well, but for two things: TOML knows no
    # surrogate pairs, so characters stand as they are, and it wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
