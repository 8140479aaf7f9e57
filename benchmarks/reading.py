"""What it costs to read pictures: index, hash, decode and cache, over the decoder alone on the same files.

    python -m benchmarks.reading [--data ../shared/data] [--repeats 5]

The peer is the decoder itself in as many threads: every file read, decoded and scaled to the same size, and nothing
kept. Ours hashes every file, groups patients and writes the memory-mapped cache besides. In turn, `repeats` times; the
ratio is ours over the peer's, below 1 where decoding twice as large as needed is spared. A second load decodes nothing.
Real X-rays and volumes where their folder is given, else phantoms and a DICOM export made here. Writes
benchmarks/results/reading.json.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from tests.images.dicom.write import write_picture

from wardround.images.listing import ReaderOptions
from wardround.images.load import load_images
from wardround.images.patients import ImageSet
from wardround.images.rows.recipe import PictureRecipe, Recipe, VolumeRecipe

RESULT = Path(__file__).parent / "results" / "reading.json"
THREADS = min(8, os.cpu_count() or 1)
PICTURES = 1000
RECIPE = PictureRecipe(64, 1)


def decode_picture(path: Path) -> int:
    with Image.open(path) as image:
        return len(image.convert("L").resize((64, 64), Image.Resampling.BOX).tobytes())


def decode_dicom(path: Path) -> int:
    import pydicom

    return int(pydicom.dcmread(path).pixel_array.size)


def decode_volume(path: Path) -> int:
    import nibabel

    image: Any = nibabel.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    return int(np.asarray(image.get_fdata(dtype=np.float32)).size)


def in_threads(decode: Callable[[Path], int], files: Iterable[Path]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(decode, files))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measured(
    load: Callable[[Path], ImageSet], decode: Callable[[Path], int], files: list[Path], repeats: int
) -> dict[str, Any]:
    """Seconds of a first load, a second one, and the decoder alone, in turn."""
    first, second, alone = [], [], []
    for _ in range(repeats):
        with TemporaryDirectory() as cache:
            alone.append(seconds(lambda: in_threads(decode, files)))
            first.append(seconds(lambda folder=Path(cache): load(folder)))  # type: ignore[misc]
            second.append(seconds(lambda folder=Path(cache): load(folder)))  # type: ignore[misc]
    ratios = [ours / peer for ours, peer in zip(first, alone, strict=True)]
    return {
        "files": len(files),
        "first_load_s": statistics.median(first),
        "second_load_s": statistics.median(second),
        "decoder_alone_s": statistics.median(alone),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def thousand_xrays(source: Path, folder: Path) -> list[Path]:
    """The first thousand X-rays of the published train part, as links."""
    found = []
    for name in ("NORMAL", "PNEUMONIA"):
        (folder / "train" / name).mkdir(parents=True)
        for path in sorted((source / "train" / name).glob("*.jpeg"))[: PICTURES // 2]:
            link = folder / "train" / name / path.name
            os.link(path, link) if path.stat().st_dev == folder.stat().st_dev else link.write_bytes(
                path.read_bytes()
            )
            found.append(link)
    return found


def dicom_export(folder: Path, count: int) -> list[Path]:
    """Radiographs of 512 pixels, one a patient, with a table of labels."""
    generator = np.random.default_rng(0)
    rows = ["label,patient_id"]
    for number in range(count):
        picture = generator.integers(0, 256, (1, 512, 512)).astype(np.uint8)
        write_picture(picture, folder / f"{number:04d}", patient_id=f"p{number}")  # type: ignore[no-untyped-call]
        rows.append(f"{'ill' if number % 2 else 'well'},p{number}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return sorted(path for path in folder.iterdir() if path.suffix != ".csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    table: dict[str, Any] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        if (options.data / "chest_xray").is_dir():
            files = thousand_xrays(options.data / "chest_xray", folder / "xrays")
            load = partial(_load, "chest_xray", folder / "xrays")
            table["1,000 X-rays, JPEG 224 px to 64 px"] = measured(load, decode_picture, files, options.repeats)
        (folder / "dicom").mkdir()
        files = dicom_export(folder / "dicom", 200)
        load = partial(_load, "dicom", folder / "dicom")
        table["200 DICOM radiographs, 512 px"] = measured(load, decode_dicom, files, options.repeats)
        source = options.data / "Task04_Hippocampus"
        if source.is_dir():
            files = [*sorted(source.glob("imagesTr/h*.nii.gz")), *sorted(source.glob("labelsTr/h*.nii.gz"))]
            load = partial(_load, "decathlon", source, recipe=VolumeRecipe((40, 56, 40)))
            table["260 MRI volumes with masks, NIfTI"] = measured(load, decode_volume, files, options.repeats)
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "threads": THREADS}
    RESULT.write_text(json.dumps({"machine": machine, "repeats": options.repeats, "sets": table}, indent=2) + "\n")
    for title, row in table.items():
        low, high = row["ratio_range"]
        print(f"{title}: first load {row['first_load_s']:.2f} s, second {row['second_load_s']:.2f} s, decoder alone "
              f"{row['decoder_alone_s']:.2f} s, ratio {row['ratio']:.2f} ({low:.2f} to {high:.2f})")  # fmt: skip


def _load(layout: str, root: Path, cache: Path, recipe: Recipe = RECIPE) -> ImageSet:
    options = ReaderOptions(cache / "pseudonyms.key", reviewed=True)  # a site's own: another key orders files anew
    return load_images(layout, root, cache_dir=cache, recipes=[recipe], options=options)


if __name__ == "__main__":
    main()
