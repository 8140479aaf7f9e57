"""What every section of a study file is: frozen, and closed to what it does not know."""

from typing import LiteralString

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """One table of a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def conflict(code: LiteralString, message: str) -> PydanticCustomError:
    """Returns the error of keys that do not fit together, with the code of the `StudyError` that it becomes."""
    return PydanticCustomError(code, "{message}", {"message": message})
