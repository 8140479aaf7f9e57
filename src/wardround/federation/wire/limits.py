"""Bounds of the messages that a party reads; each is checked before a message becomes a value."""

from dataclasses import dataclass, replace
from typing import Final, assert_never

from wardround.secure_aggregation.round.round_key import MOST_BYTES
from wardround.work import (
    MOST_MODEL_BYTES,
    Answered,
    CountClasses,
    CountPatients,
    Evaluate,
    FittedHead,
    GradientSum,
    LocalUpdate,
    RowSum,
    ScoreSum,
    SelectiveUpdate,
    histogram_coordinates,
)

MOST_SIGNED_BYTES: Final = MOST_BYTES
"""Most bytes of an announcement or a confirmation of a masked attempt: an announcement is the longer."""

_BYTES_PER_PARAMETER = 20  # positions, weights, correction and velocity of a selective update
_BYTES_PER_RESIDUE = 8
_BYTES_BESIDE = 1 << 26  # header, and the announcements of all hospitals
_MOST_CLASSES = 4096  # of a study that is not known
_MOST_HOSPITALS = 1024  # in an attempt at a masked sum


@dataclass(frozen=True)
class Limits:
    """Bounds of a message.

    Attributes:
        parameters: of the network, exactly; None before the network is known.
        update: coordinates of an answer's update, exactly; None accepts up to `most_parameters` + 1.
        classes: entries of a tuple with one entry a class, exactly; None accepts up to 4096.
        most_parameters: of a network that is not known.
        most_bytes: of a message; transports stop reading there.
        model_bytes: of a finished model.
    """

    parameters: int | None = None
    update: int | None = None
    classes: int | None = None
    most_parameters: int = 1 << 28
    most_bytes: int = 1 << 30
    model_bytes: int = MOST_MODEL_BYTES

    @classmethod
    def of_network(cls, parameters: int, classes: int | None = None, *, model_bytes: int = 0) -> "Limits":
        """Returns the bounds of a party that knows its network's number of parameters, and perhaps of classes.

        `model_bytes`: that a finished model may have; 0 for a party that is sent none.
        """
        most_bytes = _BYTES_PER_PARAMETER * parameters + model_bytes + _BYTES_BESIDE
        return cls(
            parameters=parameters, classes=classes, most_parameters=parameters, most_bytes=most_bytes,
            model_bytes=min(model_bytes, MOST_MODEL_BYTES),
        )  # fmt: skip

    def answering(self, work: Answered) -> "Limits":
        """Returns the bounds of the reply to `work`: an update has exactly the coordinates that the work asks for."""
        match work:
            case CountPatients():
                return replace(self, update=1)
            case CountClasses():
                return replace(self, update=self.classes)
            case GradientSum(clipping_norm=norm):
                # An adaptive clipping norm adds one coordinate: the patients whose gradients are within it.
                update = None if self.parameters is None else self.parameters + (norm is not None)
                return replace(self, update=update)
            case LocalUpdate() | SelectiveUpdate() | FittedHead() | RowSum() | ScoreSum():
                return replace(self, update=self.parameters)
            case Evaluate():
                return replace(self, update=None if self.classes is None else histogram_coordinates(self.classes))
            case _:
                assert_never(work)

    @property
    def most_coordinates(self) -> int:
        """Coordinates of the longest vector: every parameter, and the count beside a gradient sum."""
        return (self.most_parameters if self.parameters is None else self.parameters) + 1

    @property
    def most_residue_bytes(self) -> int:
        """Bytes of the longest sum under masks: 8 a coordinate, its witnesses, name and signature."""
        histograms = 0 if self.classes is None else histogram_coordinates(self.classes)
        return _BYTES_PER_RESIDUE * max(self.most_coordinates, histograms) + MOST_SIGNED_BYTES

    def each_parameter(self) -> range:
        """Returns the lengths of a vector with one coordinate for each parameter."""
        return _exactly(self.parameters, self.most_parameters)

    def some_parameters(self) -> range:
        """Returns the lengths of a vector with a coordinate for some of the parameters."""
        return range(1, self.most_coordinates)

    def coordinates(self) -> range:
        """Returns the lengths of an update."""
        return _exactly(self.update, self.most_coordinates)

    def each_class(self) -> range:
        """Returns the lengths of a tuple with one entry for each class."""
        return _exactly(self.classes, _MOST_CLASSES)

    def each_hospital(self) -> range:
        """Returns the lengths of a tuple with one entry for each hospital of an attempt."""
        return range(1, _MOST_HOSPITALS + 1)

    def residues(self) -> range:
        """Returns the lengths of a sum under masks, in bytes."""
        return range(self.most_residue_bytes + 1)


def _exactly(exact: int | None, most: int) -> range:
    return range(1, most + 1) if exact is None else range(exact, exact + 1)
