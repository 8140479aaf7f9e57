"""DP-Pix: pictures are pixelised, and the means of their blocks noised.

Fan 2018, "Image Pixelization with Differential Privacy", https://doi.org/10.1007/978-3-319-95729-6_10: with blocks
of b x b 8-bit pixels and Laplace noise of scale 255 m / (b^2 epsilon) on each block's mean, pictures that differ in
at most m pixels are epsilon-indistinguishable. That is a promise about one neighbourhood of m pixels of one picture
(a number plate, a face in a crowd). It says nothing of a patient, whose picture may be another one altogether: what
that costs is `epsilon`, and it is what ledgers are charged.
"""

import math
from dataclasses import dataclass

import numpy as np

from wardround.accounting.events import PureEvent
from wardround.accounting.statement import format_epsilon
from wardround.errors import PrivacyError
from wardround.privacy.pictures import Values
from wardround.randomness import Stream
from wardround.reproduce.mechanisms.pictures.noise import add_laplace

_WHITE = 255.0


@dataclass(frozen=True)
class DPPix:
    """Pixelisation with Laplace noise.

    Guarantee:
        A block's mean moves by at most 1 (full brightness) and all means of a picture by at most their number, in
        L1 norm, when the picture is replaced: epsilon = (number of means) / scale. Between pictures that differ in
        at most m pixels, all channels of them, the means move by at most m channels / block^2:
        `neighbourhood_epsilon`. Pixelisation is part of the query; rounding and cutting to 8 bits post-process.

    Attributes:
        scale: of the noise on a block's mean, in units of full brightness.
        block: side of a block, in pixels; divides both sides.
        shape: (channel, height, width) of a picture.
        neighbourhood: m, in pixels; None where only whole pictures are spoken of.
    """

    scale: float
    block: int
    shape: tuple[int, int, int]
    neighbourhood: int | None = None

    reads_features = False
    name = "Laplace"

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        _, height, width = self.shape
        if not 0 < self.scale < math.inf:
            raise PrivacyError(f"The scale of the noise must be > 0 and finite, got {self.scale}; give epsilon.")
        if self.block < 1 or height % self.block or width % self.block:
            raise PrivacyError(
                f"block must divide the sides of a picture, {height} and {width}, got {self.block}; a block cut "
                "short would move further than the noise covers."
            )
        if self.neighbourhood is not None and not 1 <= self.neighbourhood <= height * width:
            raise PrivacyError(
                f"neighbourhood must be between 1 and the {height * width} pixels of a picture, got "
                f"{self.neighbourhood}; change it, or leave it out."
            )

    @property
    def means(self) -> int:
        """Numbers released of one picture."""
        channels, height, width = self.shape
        return channels * (height // self.block) * (width // self.block)

    @property
    def epsilon(self) -> float:
        """Epsilon of one picture replaced by any other."""
        return self.means / self.scale

    @property
    def neighbourhood_epsilon(self) -> float:
        """Epsilon of one neighbourhood of one picture, as published; of the whole picture where none is given.

        >>> DPPix(scale=16 / 256, block=16, shape=(1, 256, 256), neighbourhood=16).neighbourhood_epsilon
        1.0
        """
        if self.neighbourhood is None:
            return self.epsilon
        return self.neighbourhood * self.shape[0] / self.block**2 / self.scale

    @property
    def event(self) -> PureEvent:
        """See `PictureMechanism`."""
        return PureEvent(self.epsilon)

    @property
    def noise_multiplier(self) -> float:
        """See `PictureMechanism`."""
        return self.scale / self.means

    @property
    def bound(self) -> float:
        """See `PictureMechanism`: L1."""
        return float(self.means)

    @property
    def what(self) -> str:
        """See `PictureMechanism`."""
        return (
            f"every training picture in blocks of {self.block} x {self.block} pixels with Laplace noise on each "
            "block's mean, cut to 8 bits, and a noised label"
        )

    @property
    def caveats(self) -> tuple[str, ...]:
        """See `PictureMechanism`: the published promise, in its own words."""
        if self.neighbourhood is None:
            return ()
        return (
            "The published promise of this mechanism (Fan 2018) is a weaker one: two versions of one picture that "
            f"differ in at most {self.neighbourhood} pixels, one such neighbourhood of one picture, are told apart "
            f"up to a factor of exp({format_epsilon(self.neighbourhood_epsilon)}); it leaves out the label and says "
            "nothing of a picture or a patient as a whole.",
        )

    def release(self, values: Values, stream: Stream) -> Values:
        """See `PictureMechanism`: pixels 0..255, (picture, channel, height, width)."""
        number, (channels, height, width), block = len(values), self.shape, self.block
        blocks = values.reshape(number, channels, height // block, block, width // block, block)
        means = blocks.mean(axis=(3, 5))
        add_laplace(means, _WHITE * self.scale, stream)
        return np.repeat(np.repeat(means, block, axis=2), block, axis=3)
