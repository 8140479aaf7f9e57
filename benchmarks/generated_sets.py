"""Generated picture sets of other kinds than the chest X-rays, on disk as a hospital has them.

Nothing in the product was chosen on them. They are drawn by another program than the public pictures behind the
backbone's constants (`benchmarks.public_pictures`). Exposure, zoom and noise vary with the picture alone, not with its
class, so that a class is known by shapes; six brightness numbers still see a little of it, as in real sets.

- `fundus`: colour photographs in the layout of APTOS 2019, five ordered grades with the shares of that set.
- `ultrasound`: tinted colour frames, three classes, one folder a class, 780 pictures of as many persons.
- `mri`: grey slices, four classes, metadata.csv, two slices a patient.
- `hippocampus`: real MRI slices of Task04 of the Medical Segmentation Decathlon (CC BY-SA 4.0), three classes by the
  part of the hippocampus in them, six slices a volume; only where that data set is at hand.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

SIDE = 256
Values = npt.NDArray[np.float64]

GRADE_SHARES = (0.49, 0.10, 0.27, 0.055, 0.085)
"""Of APTOS 2019: few patients have severe grades."""


def smooth(generator: np.random.Generator, coarse: int) -> Values:
    """Returns noise of mean 0 and deviation 1 that varies over SIDE / coarse pixels."""
    drawn = Image.fromarray(generator.standard_normal((coarse, coarse)).astype(np.float32))
    noise = np.asarray(drawn.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    return np.asarray((noise - noise.mean()) / noise.std())


def blob(
    generator: np.random.Generator, centre: tuple[float, float], radius: float, *, rough: float, turns: int
) -> list[tuple[float, float]]:
    """Returns the outline of a round shape whose radius varies by the share `rough` in `turns` waves."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    phases = generator.uniform(0, 2 * np.pi, 3)
    radii = radius * (1 + rough * sum(np.sin((turns + k) * angles + phases[k]) for k in range(3)) / 1.7)
    squeezed = generator.uniform(0.7, 1.0)
    return [
        (centre[0] + r * np.cos(a), centre[1] + squeezed * r * np.sin(a))
        for a, r in zip(angles, radii, strict=True)
    ]


def mask_of(outlines: list[list[tuple[float, float]]], blur: float) -> Values:
    canvas = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(canvas)
    for outline in outlines:
        draw.polygon(outline, fill=255)
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float64) / 255


def exposed(generator: np.random.Generator, values: Values) -> Image.Image:
    """Returns values 0..1 as a picture with an exposure of its own."""
    shown = np.clip(values, 0, 1) ** generator.uniform(0.75, 1.35) * generator.uniform(0.75, 1.05)
    return Image.fromarray(np.asarray(np.clip(np.rint(255 * shown), 0, 255), dtype=np.uint8))


def fundus(generator: np.random.Generator, grade: int) -> Image.Image:
    """Returns a retina: dots from grade 1, bleedings and exudates from 2, many from 3, new vessels in 4."""
    axis = (np.arange(SIDE) + 0.5) * (2 / SIDE) - 1
    x, y = np.meshgrid(axis, axis)
    field = np.clip((generator.uniform(0.86, 0.98) - np.hypot(x, y)) / 0.02, 0, 1)
    side = float(generator.choice([-1, 1]))
    disc = (SIDE / 2 * (1 + side * generator.uniform(0.4, 0.55)), SIDE / 2 * (1 + generator.uniform(-0.1, 0.1)))
    ground = 0.55 + 0.05 * generator.normal() + 0.03 * smooth(generator, 9) - 0.12 * np.hypot(x, y)
    tint = np.array([1.0, generator.uniform(0.42, 0.62), generator.uniform(0.15, 0.4)])
    vessels, dark, bright = (
        Image.new("L", (SIDE, SIDE)),
        Image.new("L", (SIDE, SIDE)),
        Image.new("L", (SIDE, SIDE)),
    )
    for _ in range(9):
        winding(generator, ImageDraw.Draw(vessels), disc, float(generator.uniform(1.5, 4.5)), 45, 0.16)
    if grade == 4:
        for _ in range(int(generator.integers(4, 9))):
            start = around(generator, disc if generator.random() < 0.6 else (SIDE / 2, SIDE / 2), 50)
            winding(generator, ImageDraw.Draw(vessels), start, 1.2, 16, 0.8)
    spots(generator, ImageDraw.Draw(dark), int(generator.poisson((0.2, 3, 8, 22, 18)[grade])), (0.8, 1.9))
    spots(generator, ImageDraw.Draw(dark), int(generator.poisson((0, 0, 2, 9, 8)[grade])), (2.0, 5.5))
    spots(generator, ImageDraw.Draw(bright), int(generator.poisson((0.2, 0.3, 5, 9, 9)[grade])), (1.0, 3.0))
    spots(generator, ImageDraw.Draw(bright), int(generator.poisson((0.1, 0.1, 0.4, 2, 2)[grade])), (4.0, 8.0))
    lines, blood, fat = (
        np.asarray(part.filter(ImageFilter.GaussianBlur(width)), dtype=np.float64) / 255
        for part, width in ((vessels, 0.8), (dark, 0.8), (bright, 1.2))
    )
    nerve = mask_of([blob(generator, disc, 17, rough=0.03, turns=2)], 3)
    macula = np.exp(-((x + 0.12 * side) ** 2 + y**2) / 0.18**2)
    picture = ground[:, :, None] * tint * (1 - 0.45 * lines - 0.3 * macula - 0.5 * blood)[:, :, None]
    picture += nerve[:, :, None] * np.array([0.35, 0.35, 0.2]) + fat[:, :, None] * np.array([0.3, 0.35, 0.12])
    picture += 0.012 * generator.standard_normal((SIDE, SIDE, 3))
    return exposed(generator, picture * field[:, :, None])


def around(generator: np.random.Generator, centre: tuple[float, float], far: float) -> tuple[float, float]:
    return centre[0] + float(generator.normal(0, far)), centre[1] + float(generator.normal(0, far))


def spots(
    generator: np.random.Generator, draw: ImageDraw.ImageDraw, count: int, radii: tuple[float, float]
) -> None:
    for _ in range(count):
        place, radius = around(generator, (SIDE / 2, SIDE / 2), 42), float(generator.uniform(*radii))
        draw.polygon(blob(generator, place, radius, rough=0.2, turns=2), fill=255)


def winding(
    generator: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    width: float,
    steps: int,
    bend: float,
) -> None:
    angle, place = float(generator.uniform(0, 2 * np.pi)), start
    for step in range(steps):
        angle += float(generator.normal(0, bend))
        to = (place[0] + 4 * np.cos(angle), place[1] + 4 * np.sin(angle))
        draw.line([place, to], fill=255, width=max(1, round(width * (1 - step / (1.3 * steps)))))
        place = to


def ultrasound(generator: np.random.Generator, label: int) -> Image.Image:
    """Returns a tinted frame: tissue alone, with a smooth dark lesion, or with a rough one that throws a shadow."""
    rows = np.linspace(0, 1, SIDE)[:, None] * np.ones((1, SIDE))
    layers = np.sin(generator.uniform(8, 20) * (rows + 0.03 * smooth(generator, 5)) + generator.uniform(0, 6))
    tissue = (0.5 + 0.12 * layers + 0.08 * smooth(generator, 12)) * (1.15 - 0.5 * rows)
    centre = (float(generator.uniform(80, 176)), float(generator.uniform(80, 170)))
    radius = float(generator.uniform(18, 48))
    if label == 0 and generator.random() < 0.7:  # fat and ducts are dark, too
        lying = [(centre[0] + 90 * np.cos(a), centre[1] + 7 * np.sin(a)) for a in np.linspace(0, 6.2, 40)]
        tissue *= 1 - generator.uniform(0.2, 0.5) * mask_of([lying], 4)
    if label == 1:
        tissue *= 1 - generator.uniform(0.5, 0.8) * mask_of(
            [blob(generator, centre, radius, rough=0.05, turns=2)], 2
        )
    if label == 2:
        lesion = mask_of([blob(generator, centre, radius, rough=0.28, turns=5)], 3)
        below = np.clip(np.cumsum(lesion, axis=0) / radius, 0, 1)
        tissue *= (1 - generator.uniform(0.45, 0.75) * lesion) * (1 - generator.uniform(0.0, 0.35) * below)
    grain = generator.rayleigh(1.0, (SIDE // 3, SIDE // 2)) ** 0.5
    speckle = np.asarray(Image.fromarray(grain.astype(np.float32)).resize((SIDE, SIDE)), dtype=np.float64)
    tint = np.array([1.0, generator.uniform(0.9, 1.0), generator.uniform(0.75, 1.0)])
    return exposed(generator, (tissue * speckle / speckle.mean())[:, :, None] * tint)


def mri(generator: np.random.Generator, label: int) -> Image.Image:
    """Returns a slice of a head: without tumour, or with a ragged, a round or a small central one."""
    middle = (float(generator.normal(128, 4)), float(generator.normal(128, 4)))
    size = float(generator.uniform(88, 112))
    skull = mask_of([blob(generator, middle, size, rough=0.03, turns=2)], 2)
    brain = mask_of([blob(generator, middle, size - 9, rough=0.03, turns=2)], 2)
    folds = np.abs(smooth(generator, 22)) - 0.6
    picture = 0.75 * (skull - brain) + brain * (0.42 + 0.06 * folds + 0.04 * smooth(generator, 6))
    holes = [blob(generator, (middle[0] + s * 14, middle[1]), 13, rough=0.2, turns=2) for s in (-1, 1)]
    picture *= 1 - 0.6 * mask_of(holes, 2)
    angle, far = float(generator.uniform(0, 2 * np.pi)), float(generator.uniform(20, 55))
    inside = (middle[0] + far * np.cos(angle), middle[1] + far * np.sin(angle))
    rim = (middle[0] + 0.72 * size * np.cos(angle), middle[1] + 0.6 * size * np.sin(angle))
    low = (middle[0] + float(generator.normal(0, 4)), middle[1] + float(generator.uniform(38, 50)))
    level = float(generator.uniform(0.12, 0.32)) * float(generator.choice([1, 1, -0.8]))
    if label == 1:
        grown = mask_of([blob(generator, inside, float(generator.uniform(12, 30)), rough=0.3, turns=4)], 4)
        core = mask_of([blob(generator, inside, 7, rough=0.3, turns=3)], 2)
        picture += (level * grown - 0.7 * level * core) * (0.8 + 0.25 * smooth(generator, 20))
    if label == 2:
        picture += level * mask_of(
            [blob(generator, rim, float(generator.uniform(11, 24)), rough=0.05, turns=2)], 2
        )
    if label == 3:
        picture += level * mask_of(
            [blob(generator, low, float(generator.uniform(6, 12)), rough=0.1, turns=2)], 1.5
        )
    picture *= 1 + generator.uniform(0, 0.15) * smooth(generator, 3)
    return exposed(
        generator, picture + generator.uniform(0.01, 0.04) * np.abs(generator.standard_normal((SIDE, SIDE)))
    )


def write_fundus(folder: Path, count: int = 2500) -> None:
    (folder / "train_images").mkdir(parents=True)
    with (folder / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id_code", "diagnosis"])
        for number in range(count):
            generator = np.random.default_rng([1, number])
            grade = int(generator.choice(5, p=GRADE_SHARES))
            fundus(generator, grade).save(folder / "train_images" / f"{number:05d}.png")
            table.writerow([f"{number:05d}", grade])


def write_ultrasound(folder: Path, count: int = 780) -> None:
    names = ("normal", "benign", "malignant")
    for name in names:
        (folder / name).mkdir(parents=True)
    for number in range(count):
        generator = np.random.default_rng([2, number])
        label = int(generator.choice(3, p=(0.17, 0.56, 0.27)))  # as in the breast ultrasound set BUSI
        ultrasound(generator, label).save(folder / names[label] / f"{number:05d}.png")


def write_mri(folder: Path, patients: int = 1500) -> None:
    names = ("no tumour", "ragged", "round", "central")

    def rows() -> Iterator[tuple[str, str, str]]:
        for number in range(patients):
            label = int(np.random.default_rng([3, number]).integers(4))
            for slice in range(2):
                file = f"pictures/{number:05d}-{slice}.png"
                mri(np.random.default_rng([3, number, slice]), label).save(folder / file)
                yield file, names[label], f"p{number}"

    write_table(folder, rows())


def write_hippocampus(folder: Path, source: Path, slices: int = 6) -> None:
    import nibabel

    def rows() -> Iterator[tuple[str, str, str]]:
        for path in sorted((source / "imagesTr").glob("hippocampus_*.nii.gz")):
            volume, parts = (
                np.asarray(nibabel.nifti1.Nifti1Image.from_filename(file).dataobj, dtype=np.float64)
                for file in (path, source / "labelsTr" / path.name)
            )
            low, high = np.percentile(volume, [1, 99])
            for place in np.linspace(3, volume.shape[1] - 4, slices).astype(int):
                most = [int((parts[:, place] == part).sum()) for part in (1, 2)]
                label = "neither" if sum(most) < 8 else ("front" if most[0] >= most[1] else "back")
                shown = np.clip((volume[:, place] - low) / (high - low), 0, 1)
                name = path.name.partition(".")[0]
                file = f"pictures/{name}-{place}.png"
                Image.fromarray(np.asarray(255 * shown, dtype=np.uint8)).save(folder / file)
                yield file, label, name

    write_table(folder, rows())


def write_table(folder: Path, rows: Iterator[tuple[str, str, str]]) -> None:
    (folder / "pictures").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "patient_id"), *rows])
