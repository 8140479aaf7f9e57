"""Public pictures whose activations give a backbone its constants: generated ones, and those in installed packages.

No picture of a patient of any study is here. Generated are phantoms of the chest, fundus photographs, sections with
organs, ultrasound with speckle, textures with power-law spectra, and stains of cells. Packages give their sample
pictures: scikit-image, scikit-learn and matplotlib (photographs, textures, a retina, a stain) and pydicom (one small CT
and one MR slice); each is cut into crops.
"""

from collections.abc import Callable, Iterator
from importlib import resources
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from wardround.images.layouts.phantom import PhantomOptions, draw_phantom

SIDE = 224
Picture = npt.NDArray[np.uint8]
"""(height, width, 3)."""

Values = npt.NDArray[np.float64]


def pictures(each: int, seed: int = 0) -> Iterator[tuple[str, Picture]]:
    """Yields `each` pictures of every kind, with the kind's name."""
    kinds: dict[str, Callable[[int, np.random.Generator], Iterator[Picture]]] = {
        "chest": chests, "fundus": repeated(fundus), "section": repeated(section), "ultrasound": repeated(ultrasound),
        "texture": repeated(texture), "cells": repeated(cells), "samples": samples,
    }  # fmt: skip
    for number, (name, draw) in enumerate(kinds.items()):
        for picture in islice(draw(each, np.random.default_rng([seed, number])), each):
            yield name, picture


def repeated(
    draw: Callable[[np.random.Generator], Values],
) -> Callable[[int, np.random.Generator], Iterator[Picture]]:
    def many(count: int, generator: np.random.Generator) -> Iterator[Picture]:
        for _ in range(count):
            yield as_picture(draw(generator))

    return many


def as_picture(values: Values) -> Picture:
    """Returns values 0..1, (height, width) or (height, width, 3), as a colour picture."""
    shown = values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)
    return np.asarray(np.clip(np.rint(255 * shown), 0, 255), dtype=np.uint8)


def chests(count: int, generator: np.random.Generator) -> Iterator[Picture]:
    seed = int(generator.integers(1 << 31))
    options = PhantomOptions(patients=count, max_images=1, sites=10, image_size=SIDE, seed=seed)
    for picture in draw_phantom(options):
        yield np.repeat(picture[0][:, :, None], 3, axis=2)


def grid() -> tuple[Values, Values]:
    axis = (np.arange(SIDE) + 0.5) * (2 / SIDE) - 1
    x, y = np.meshgrid(axis, axis)
    return x, y


def power_law(generator: np.random.Generator, exponent: float) -> Values:
    """Returns noise of mean 0 and deviation 1 whose amplitude falls with frequency to the power of `exponent`."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(generator.standard_normal((SIDE, SIDE))) / frequency**exponent
    noise = np.fft.ifft2(spectrum).real
    return np.asarray((noise - noise.mean()) / noise.std())


def ellipse(generator: np.random.Generator, centre: float, sizes: tuple[float, float], edge: float) -> Values:
    """Returns 1 inside an ellipse at a drawn place and turn, 0 outside, with a soft edge."""
    x, y = grid()
    (cx, cy), (a, b), turn = (
        generator.uniform(-centre, centre, 2),
        generator.uniform(*sizes, 2),
        generator.uniform(0, 3),
    )
    u = np.cos(turn) * (x - cx) - np.sin(turn) * (y - cy)
    v = np.sin(turn) * (x - cx) + np.cos(turn) * (y - cy)
    return np.asarray(np.clip(0.5 + (1 - np.hypot(u / a, v / b)) / (2 * edge), 0, 1))


def vessel(generator: np.random.Generator, start: tuple[float, float], width: float) -> Values:
    """Returns a winding dark line, 0..1, from a place outwards."""
    x, y = grid()
    angle, found = generator.uniform(0, 2 * np.pi), np.zeros((SIDE, SIDE))
    place = np.array(start)
    for step in range(80):
        angle += generator.normal(0, 0.12)
        place = place + 0.02 * np.array([np.cos(angle), np.sin(angle)])
        thick = width * (1 - step / 120)
        found = np.maximum(found, np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / thick**2))
    return found


def fundus(generator: np.random.Generator) -> Values:
    """Returns a generated retina: disc of the field, optic disc, vessels, macula, lesions dark and bright."""
    x, y = grid()
    field = np.clip((generator.uniform(0.85, 1.0) - np.hypot(x, y)) / 0.02, 0, 1)
    side = generator.choice([-1, 1])
    disc = (side * generator.uniform(0.35, 0.6), generator.uniform(-0.15, 0.15))
    red = 0.55 + 0.1 * generator.normal() + 0.05 * power_law(generator, 1.5) - 0.15 * np.hypot(x, y)
    green = red * generator.uniform(0.4, 0.65)
    blue = green * generator.uniform(0.2, 0.6)
    bright = np.exp(-((((x - disc[0]) ** 2 + (y - disc[1]) ** 2) / 0.15**2) ** 2))
    dark = 0.25 * np.exp(-((x + 0.1 * side) ** 2 + y**2) / 0.2**2)
    lines = np.max([vessel(generator, disc, generator.uniform(0.008, 0.03)) for _ in range(10)], axis=0)
    for _ in range(generator.integers(0, 12)):
        spot = ellipse(generator, 0.7, (0.008, 0.06), 0.3)
        bright, dark = (bright, dark + 0.4 * spot) if generator.random() < 0.6 else (bright + 0.7 * spot, dark)
    picture = np.stack([red, green, blue], axis=2) * (1 - 0.5 * lines - dark)[:, :, None]
    return np.asarray((picture + bright[:, :, None] * np.array([0.35, 0.35, 0.15])) * field[:, :, None])


def section(generator: np.random.Generator) -> Values:
    """Returns a generated slice of a body or head: an outline with a bright rim, organs, and noise."""
    outline = ellipse(generator, 0.1, (0.6, 0.95), 0.03)
    picture = outline * generator.uniform(0.2, 0.5)
    for _ in range(generator.integers(3, 14)):
        organ = ellipse(generator, 0.6, (0.05, 0.45), generator.uniform(0.02, 0.2)) * outline
        picture = picture * (1 - organ) + organ * generator.uniform(0, 1)
    grain = 0.05 * power_law(generator, generator.uniform(0.3, 1.5)) * outline
    return np.asarray(picture + grain + generator.uniform(0, 0.03) * generator.standard_normal((SIDE, SIDE)))


def ultrasound(generator: np.random.Generator) -> Values:
    """Returns layers of tissue with a dark lesion, under speckle of a Rayleigh distribution."""
    _, y = grid()
    bent = y + 0.08 * power_law(generator, 2.5)
    tissue = 0.45 + 0.15 * np.sin(generator.uniform(4, 14) * bent + generator.uniform(0, 6))
    lesion = ellipse(generator, 0.5, (0.1, 0.5), generator.uniform(0.05, 0.4))
    tissue = tissue * (1 - generator.uniform(0.4, 0.95) * lesion) * (1.1 - 0.35 * y)
    blur = np.fft.fft2(generator.standard_normal((2, SIDE, SIDE)))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    real, imaginary = np.fft.ifft2(blur * np.exp(-((frequency / generator.uniform(0.1, 0.3)) ** 2))).real
    speckle = np.hypot(real, imaginary)
    return np.asarray(np.clip(tissue, 0, None) * (speckle / speckle.mean()) ** generator.uniform(0.4, 0.9))


def texture(generator: np.random.Generator) -> Values:
    """Returns coloured or grey noise with a power-law spectrum, and at times edges of ellipses in it."""
    exponent, contrast = generator.uniform(0.5, 2.2), generator.uniform(0.08, 0.25)
    common = power_law(generator, exponent)
    own = generator.uniform(0, 0.5) * np.stack([power_law(generator, exponent) for _ in range(3)], axis=2)
    picture = generator.uniform(0.25, 0.75, 3) + contrast * (common[:, :, None] + own)
    for _ in range(generator.integers(0, 5)):
        mask = ellipse(generator, 0.8, (0.1, 0.8), 0.02)[:, :, None]
        picture = picture * (1 - mask) + mask * (
            picture * generator.uniform(0.5, 1.5) + generator.normal(0, 0.1, 3)
        )
    return np.asarray(picture)


def cells(generator: np.random.Generator) -> Values:
    """Returns a generated stain: a pale ground, paler and darker tissue, and dark nuclei."""
    ground = np.array([0.9, 0.75, 0.85]) + 0.05 * generator.normal(size=3)
    picture = ground - 0.08 * np.clip(power_law(generator, 1.2), -2, 2)[:, :, None] * np.array([0.7, 1.2, 0.6])
    for _ in range(generator.integers(10, 50)):
        nucleus = ellipse(generator, 1.0, (0.03, 0.12), 0.25)[:, :, None]
        picture = picture * (1 - nucleus) + nucleus * (
            np.array([0.45, 0.25, 0.55]) + 0.08 * generator.normal(size=3)
        )
    return np.asarray(picture + 0.02 * generator.standard_normal((SIDE, SIDE, 1)))


def samples(count: int, generator: np.random.Generator) -> Iterator[Picture]:
    """Yields crops of the sample pictures of installed packages, mirrored at random, each picture equally often."""
    whole = list(sample_pictures())
    for number in range(count):
        picture = whole[number % len(whole)]
        least = min(picture.shape[:2])
        side = int(least * generator.uniform(0.5, 1.0))
        top, left = (int(generator.integers(0, length - side + 1)) for length in picture.shape[:2])
        crop = picture[top : top + side, left : left + side, :: generator.choice([-1, 1])]
        yield np.asarray(Image.fromarray(crop).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


SAMPLES = {
    "skimage.data": (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
        "gravel.png", "hubble_deep_field.jpg", "ihc.png", "microaneurysms.png", "moon.png", "motorcycle_left.png",
        "page.png", "phantom.png", "retina.jpg", "rocket.jpg", "text.png",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}  # fmt: skip


def sample_pictures() -> Iterator[Picture]:
    for package, names in SAMPLES.items():
        for name in names:
            with (resources.files(package) / name).open("rb") as file:
                yield np.asarray(Image.open(file).convert("RGB"))
    import pydicom

    for name in ("CT_small.dcm", "MR_small.dcm"):
        values = pydicom.dcmread(str(resources.files("pydicom") / "data/test_files" / name)).pixel_array
        low, high = np.percentile(values, [0.5, 99.5])
        yield as_picture(np.clip((values - low) / (high - low), 0, 1))


def films(count: int, seed: int = 0) -> Iterator[Picture]:
    """Yields variants of one chest radiograph of an adult: RG1 of pydicom-data, a sample picture of DICOM's makers.

    A variant is a crop, turned and mirrored at random, with another gamma, contrast and sharpness.
    """
    import pydicom

    generator = np.random.default_rng([seed, 7])
    read = pydicom.dcmread(str(resources.files("data_store") / "data/RG1_UNCR.dcm"))
    low, high = np.percentile(read.pixel_array, [0.5, 99.5])
    film = 1 - np.clip((read.pixel_array - low) / (high - low), 0, 1)  # MONOCHROME1: the largest value is black
    whole = Image.fromarray(np.asarray(np.rint(255 * film), dtype=np.uint8)).resize((2 * SIDE, 2 * SIDE))
    for _ in range(count):
        side = int(2 * SIDE * generator.uniform(0.65, 1.0))
        left, top = (int(place) for place in generator.integers(0, 2 * SIDE - side + 1, 2))
        turned = whole.rotate(generator.uniform(-8, 8), Image.Resampling.BILINEAR, fillcolor=0)
        crop = turned.crop((left, top, left + side, top + side))
        coarse = int(SIDE * generator.uniform(0.5, 1.0))
        drawn = np.asarray(crop.resize((coarse, coarse)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) / 255
        shown = generator.uniform(0, 0.15) + generator.uniform(0.6, 0.85) * drawn ** generator.uniform(0.6, 1.8)
        yield as_picture(shown[:, :: generator.choice([-1, 1])])
