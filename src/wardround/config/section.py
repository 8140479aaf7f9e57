"""What every section of a study file is: frozen, and closed to what it does not know."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One table of a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
