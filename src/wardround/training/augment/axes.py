"""The axes of space that pictures may be flipped along, and what is seen beyond a picture's edge."""

from enum import StrEnum


class Axis(StrEnum):
    """An axis of space that pictures may be flipped along.

    A flip says that sides do not matter. In a chest X-ray they do: the heart would be on the right.
    """

    HORIZONTAL = "horizontal"
    """Left and right of a picture change places."""
    VERTICAL = "vertical"
    """Top and bottom of a picture change places."""
    X = "x"
    """Left and right of a volume."""
    Y = "y"
    """Back and front of a volume."""
    Z = "z"
    """Feet and head of a volume."""


AXES: dict[int, tuple[Axis, ...]] = {2: (Axis.VERTICAL, Axis.HORIZONTAL), 3: (Axis.X, Axis.Y, Axis.Z)}
"""The axes of space in the order of the array: (height, width) of a picture, (x, y, z) of a volume."""


class Padding(StrEnum):
    """What is seen where a turned or shifted picture does not reach; its mask is continued in the same way."""

    BORDER = "border"
    """The nearest pixel."""
    REFLECTION = "reflection"
    """The picture mirrored at its edge."""
    ZEROS = "zeros"
    """Black, and in the mask class 0."""
