"""Operating points of a trained head, as the model card holds them."""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1)]


class Record(BaseModel):
    """One object of the model card: no other key, and no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Threshold(Record):
    """The least score that is called the class, so that a share of the training patients of the class are.

    Attributes:
        sensitivity: that share, of a normal distribution of scores.
        score: logit of the class less the largest logit of the others.
        noise_std: standard deviation of the noise in it, to first order.
    """

    sensitivity: Annotated[float, Field(gt=0, lt=1)]
    score: float
    noise_std: Annotated[float, Field(ge=0)]


class ByThreshold(Record):
    """A class that is called from its score, and the probability of the class.

    The probability is 1 / (1 + exp(-(slope * score + intercept))), at the class's share of the training patients.

    Attributes:
        class_name: of two classes the second.
        thresholds: one for each sensitivity.
        patients_std: standard deviation of the noise in each count behind them, in patients.
    """

    kind: Literal["threshold"] = "threshold"
    class_name: Name
    thresholds: tuple[Threshold, ...]
    slope: float
    intercept: float
    patients_std: float


class ByArgmax(Record):
    """A class that is called where its logit is the largest: the noise hides its threshold.

    Attributes:
        class_name: of two classes the second.
        reason: a sentence for the reader.
    """

    kind: Literal["argmax"] = "argmax"
    class_name: Name
    reason: str


OperatingPoint: TypeAlias = Annotated[ByThreshold | ByArgmax, Field(discriminator="kind")]
