"""What a network reads and gives: public numbers, from which its layers are sized."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """The shape of a network's pictures and of its answer.

    Attributes:
        size: of the space: (height, width) of a picture in pixels, or (x, y, z) of a volume in voxels.
        channels: 1 for grey, 3 for colour, 4 for four sequences of one examination.
        num_classes: number of logits, for each picture or for each of its pixels.
        width: channels of the first level, for the networks whose width can be chosen; 0 for the others.
    """

    size: tuple[int, ...]
    channels: int
    num_classes: int
    width: int = 0

    @property
    def dimensions(self) -> int:
        """2 for pictures, 3 for volumes."""
        return len(self.size)
