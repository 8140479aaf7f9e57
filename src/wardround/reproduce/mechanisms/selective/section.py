"""`[federation]` of selective sharing."""

from typing import Literal

from pydantic import Field

from wardround.config.federation import STRATEGY, TIMETABLE_SEED, PublishedStrategy


class SelectiveSection(PublishedStrategy):
    """Hospitals train replicas and exchange some parameters."""

    strategy: Literal["selective"] = Field(description=STRATEGY)
    download_fraction: float = Field(1.0, gt=0, le=1, description="Share of parameters fetched.")
    upload_fraction: float = Field(0.1, gt=0, le=1, description="Share of parameters sent, at most.")
    selection: Literal["largest", "random"] = Field(
        "largest", description="The largest changes, or a draw of those above the threshold."
    )
    threshold: float = Field(0.0, ge=0, description="Changes below it are not sent.")
    truncation: float = Field(0.001, gt=0, description="Changes are cut to this size.")
    counter_decay: float = Field(1.0, gt=0, le=1, description="How fast old updates are forgotten.")
    turns: Literal["fixed", "random", "stochastic"] = Field("fixed", description="Whose turn it is.")
    timetable_seed: int = TIMETABLE_SEED


SECTIONS = {"selective": SelectiveSection}
