"""Generated chest pictures, for tests and for a first run where no real picture is at hand.

A picture shows a thorax, two lungs, ribs, spine, heart and diaphragm, drawn in unit coordinates
(x to the right, y downwards, both -1..1) and posed anew for every picture of the same person. Class 1
carries one to four lesions in the lungs: patches in which a fine irregular grain replaces the ribs.

There is no global shortcut. The grain has mean zero, every picture is brought to a mean and a spread drawn
without regard to the class, and the lesions lie anywhere in the lungs; a pixel-wise linear model has
little to hold on to, a model of local edges has.

A picture is a function of the seed, the patient's number and the picture's number (and of the options
that describe the population: `sites`, `prevalence`, `image_size`), never of how many others are made.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.images.entries import Entry
from wardround.images.listing import Listing
from wardround.types import Pictures

VERSION = 1
"""Raised whenever the same options would give other pictures."""

CLASS_NAMES = ("clear", "lesion")

Field = npt.NDArray[np.float32]
"""One value a pixel, (height, width)."""


@dataclass(frozen=True)
class PhantomOptions:
    """The population to generate.

    Args:
        patients: number of people.
        max_images: a patient has 1 to `max_images` pictures, each number equally likely.
        sites: number of hospitals, each with a scanner of its own.
        image_size: height and width of a picture, in pixels.
        seed: everything is drawn from it.
        prevalence: the probability that a patient has lesions.
    """

    patients: int = 600
    max_images: int = 4
    sites: int = 5
    image_size: int = 64
    seed: int = 0
    prevalence: float = 0.5

    def __post_init__(self) -> None:
        """Raises `DataError` for a population that cannot be drawn."""
        for name, least in {"patients": 2, "max_images": 1, "sites": 1, "image_size": 16, "seed": 0}.items():
            if (value := getattr(self, name)) < least:
                raise DataError(f"{name} of a phantom must be >= {least}, got {value}. Choose a larger number.")
        if not 0 < self.prevalence < 1:
            raise DataError(
                f"prevalence of a phantom must lie between 0 and 1, got {self.prevalence}. "
                "Choose 0.5 for two classes of equal size."
            )


@dataclass(frozen=True)
class _Lesion:
    """Place, size and density of a lesion, and the waves that make its grain."""

    centre: tuple[float, float]
    radius: tuple[float, float]
    strength: float
    waves: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Person:
    """The traits that all pictures of one patient share."""

    label: int
    site: int
    num_images: int
    build: npt.NDArray[np.float32]
    vessels: npt.NDArray[np.float32]
    lesions: tuple[_Lesion, ...]


def list_phantom(options: PhantomOptions) -> Listing:
    """Returns the entries of a phantom population, one a picture; nothing is drawn yet."""
    entries = []
    for number in range(options.patients):
        label, site, num_images = _file_of(options, _generator(options, number))
        for image in range(num_images):
            entries.append(
                Entry(
                    file=f"patient-{number:05d}/picture-{image + 1}",
                    label=label,
                    patient=f"patient-{number:05d}",
                    site=f"site-{site + 1}",
                )
            )
    return Listing(tuple(entries), CLASS_NAMES)


def phantom_digests(options: PhantomOptions, files: Iterable[str]) -> list[str]:
    """Returns sha256 of everything each picture is a function of; `files` are those of `list_phantom`."""
    recipe = f"phantom {VERSION} {options.seed} {options.sites} {options.prevalence} {options.image_size}"
    return [sha256(f"{recipe} {file}".encode()).hexdigest() for file in files]


def draw_phantom(options: PhantomOptions) -> Iterator[Pictures]:
    """Returns every picture, uint8 (1, height, width), in the order of `list_phantom`."""
    for number in range(options.patients):
        person = _person(options, number)
        for image in range(person.num_images):
            generator = np.random.default_rng([options.seed, number, image + 1])
            x, y = _posed_grid(options.image_size, generator)
            yield _exposed(options, person.site, _scene(person, x, y), generator)[None]


def _generator(options: PhantomOptions, number: int) -> np.random.Generator:
    return np.random.default_rng([options.seed, number])


def _file_of(options: PhantomOptions, generator: np.random.Generator) -> tuple[int, int, int]:
    """Returns label, site and number of pictures: a patient's first draw."""
    is_ill, where, how_many = generator.random(3)
    return int(is_ill < options.prevalence), int(where * options.sites), 1 + int(how_many * options.max_images)


def _person(options: PhantomOptions, number: int) -> _Person:
    generator = _generator(options, number)
    label, site, num_images = _file_of(options, generator)
    return _Person(
        label=label,
        site=site,
        num_images=num_images,
        build=generator.uniform(-1, 1, 10).astype(np.float32),
        vessels=_waves(generator, count=10, shortest=0.25, longest=1.2),
        lesions=tuple(_lesion(generator) for _ in range(generator.integers(1, 5))) if label else (),
    )


def _waves(generator: np.random.Generator, *, count: int, shortest: float, longest: float) -> Field:
    """Returns random plane waves in every direction: rows of x-frequency, y-frequency and phase, in radians."""
    angle = generator.uniform(0, 2 * np.pi, count)
    frequency = 2 * np.pi / generator.uniform(shortest, longest, count)
    phase = generator.uniform(0, 2 * np.pi, count)
    return np.stack([frequency * np.cos(angle), frequency * np.sin(angle), phase]).T.astype(np.float32)


def _lesion(generator: np.random.Generator) -> _Lesion:
    side = generator.choice([-1.0, 1.0])
    return _Lesion(
        centre=(side * generator.uniform(0.30, 0.58), generator.uniform(-0.45, 0.45)),
        radius=(generator.uniform(0.13, 0.25), generator.uniform(0.13, 0.28)),
        strength=generator.uniform(0.8, 1.3),
        waves=_waves(generator, count=7, shortest=0.11, longest=0.20),
    )


def _posed_grid(size: int, generator: np.random.Generator) -> tuple[Field, Field]:
    """Returns unit coordinates of every pixel, turned, shifted and scaled as people stand before a detector."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    turn, shift_x, shift_y, scale = generator.uniform(-1, 1, 4)
    cos, sin = np.cos(0.10 * turn), np.sin(0.10 * turn)
    zoom = 1.03 + 0.09 * scale
    across = axis[None, :] * zoom + 0.09 * shift_x
    down = axis[:, None] * zoom + 0.09 * shift_y
    return (
        (cos * across - sin * down).astype(np.float32),
        (sin * across + cos * down).astype(np.float32),
    )


def _soft(inside: Field, edge: float) -> Field:
    """Returns 0 outside and 1 inside a shape (`inside` > 0), with an edge of about that width."""
    return np.asarray(np.clip(0.5 + inside / (2 * edge), 0, 1), dtype=np.float32)


def _ripple(waves: Field, x: Field, y: Field) -> Field:
    """Returns the sum of plane waves, scaled to a spread of about one."""
    total = np.zeros(x.shape, dtype=np.float32)
    for across, down, phase in waves:
        total += np.cos(across * x + down * y + phase)
    return total * np.float32(np.sqrt(2 / len(waves)))


def _scene(person: _Person, x: Field, y: Field) -> Field:
    """Returns the scene without a scanner's noise, brighter where denser."""
    b = person.build
    aside = np.abs(x)
    thorax = _soft(1 - (aside / (0.92 + 0.05 * b[0])) ** 4 - (y / 1.15) ** 4, 0.12)
    lung_x = (aside - 0.44 - 0.02 * b[1]) / (0.30 + 0.03 * b[2] + 0.06 * y)
    lungs = _soft(1 - lung_x**2 - ((y + 0.02 * b[3]) / (0.68 + 0.05 * b[4])) ** 2, 0.18)
    heart_x, heart_y = (x - 0.12 - 0.04 * b[5]) / (0.28 + 0.05 * b[6]), (y - 0.25) / 0.33
    heart = _soft(1 - heart_x**2 - heart_y**2, 0.25)
    spine = np.exp(-((x / 0.11) ** 2))
    level = y + (0.22 + 0.05 * b[7]) * aside**1.5
    ribs = (0.5 + 0.5 * np.cos((2 * np.pi * 4.2 + b[8]) * level + 3 * b[9])) ** 2
    vessels = 0.045 * _ripple(person.vessels, x, y)
    hidden, grain = _disease(person.lesions, lungs, x, y)
    ribs = ribs * (1 - hidden) + ribs.mean() * hidden
    air = lungs * (1 - 0.8 * heart)
    soft = 0.62 + 0.10 * spine + 0.10 * heart - air * (0.34 - vessels)
    return np.asarray(thorax * (soft + 0.10 * ribs * (0.4 + air)) + grain, dtype=np.float32)


def _disease(lesions: tuple[_Lesion, ...], lungs: Field, x: Field, y: Field) -> tuple[Field, Field]:
    """Returns the opacity of lesions over the ribs, 0..1, and the grain they add."""
    hidden, grain = np.zeros_like(lungs), np.zeros_like(lungs)
    for lesion in lesions:
        away_x = (x - lesion.centre[0]) / np.float32(lesion.radius[0])
        away_y = (y - lesion.centre[1]) / np.float32(lesion.radius[1])
        patch = np.float32(lesion.strength) * np.exp(-((away_x**2 + away_y**2) ** 2)) * lungs
        hidden = np.maximum(hidden, np.minimum(patch, 1))
        grain += patch * (0.045 + 0.13 * _ripple(lesion.waves, x, y))
    return hidden, grain


def _exposed(options: PhantomOptions, site: int, scene: Field, generator: np.random.Generator) -> Pictures:
    """Returns the scene through one site's scanner: blur, exposure, gamma and noise, as uint8 (height, width)."""
    scanner = np.random.default_rng([options.seed, 2**31 + site]).random(4)
    exposure, contrast, grade = generator.uniform(-1, 1, 3)
    scene = _blurred(scene, pixels=0.15 + 0.45 * scanner[0])
    # The same exposure for both classes: no lesion can be read off the mean or the spread.
    scene = (scene - scene.mean()) / scene.std()
    scene = 0.48 + 0.05 * (scanner[1] - 0.5) + 0.07 * exposure + (0.19 + 0.03 * contrast) * scene
    gamma = 0.85 + 0.3 * scanner[2] + 0.08 * grade
    scene = np.clip(scene, 0, 1) ** np.float32(gamma)
    noise = generator.standard_normal(scene.shape, dtype=np.float32) * np.float32(0.012 + 0.018 * scanner[3])
    values = np.clip(np.rint(255 * (scene + noise)), 0, 255)
    return np.asarray(values, dtype=np.uint8)


def _blurred(scene: Field, *, pixels: float) -> Field:
    """Returns a Gaussian blur with that standard deviation, by two passes of a short kernel."""
    weight = np.exp(-0.5 / pixels**2)
    side, middle = np.float32(weight / (1 + 2 * weight)), np.float32(1 / (1 + 2 * weight))
    padded = np.pad(scene, 1, mode="edge")
    rows = middle * padded[1:-1] + side * (padded[:-2] + padded[2:])
    return np.asarray(middle * rows[:, 1:-1] + side * (rows[:, :-2] + rows[:, 2:]), dtype=np.float32)
