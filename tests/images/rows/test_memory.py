"""Memory of reading a whole set: at most 2 GB beyond one decoded volume, whatever the files unpack to."""

import gzip
import io
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from wardround.images.decode.nifti import NIFTI
from wardround.images.decode.pillow import PILLOW
from wardround.images.decode.quiet import QUIET
from wardround.images.entries import Entry
from wardround.images.rows.recipe import PictureRecipe, VolumeRecipe

nibabel = pytest.importorskip("nibabel")

ENTRY = Entry("x", 0, None)


def packed_volume(shape, dtype):
    """A compressed volume of noise in one slice and copies of it, its axes turned as few are."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(np.diag([-1.0, 1.0, 2.0, 1.0]), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    noise = np.random.default_rng(0).integers(0, 200, shape[:2]).astype(dtype).tobytes(order="F")
    return gzip.compress(header.binaryblock + bytes(4) + noise * shape[2], 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_volume_takes_no_more_memory_than_its_header_tells_beforehand(dtype):
    data = packed_volume((100, 100, 60), dtype)
    recipe = VolumeRecipe((16, 16, 16))
    extent = NIFTI.extent(ENTRY, [data[:5000]], len(data))
    assert extent.values == 600_000
    tracemalloc.start()
    try:
        recipe.prepare(NIFTI.decode(ENTRY, [data], [], None))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < recipe.memory(extent) + len(data)


def test_a_picture_that_does_not_tell_its_size_counts_as_the_largest():
    recipe = PictureRecipe(64, 1)
    content = io.BytesIO()
    Image.effect_noise((512, 256), 9).save(content, "PNG")
    told = PILLOW.extent(ENTRY, [content.getvalue()[:100]], 9)
    with QUIET:
        untold = PILLOW.extent(ENTRY, [b"II*\0\xff\xff\xff\xff"], 9)
    assert (told.values, untold.values) == (256 * 512, 50_000_000)
    assert recipe.memory(told) < recipe.memory(untold) < 1_500_000_000


PEAK = """
import sys
from pathlib import Path
import monai.transforms.spatial.array
import wardround.images.rows.pixels as pixels
from wardround.images.load import load_images
from wardround.images.rows.recipe import VolumeRecipe

def status(name):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

pixels._WORKERS = 8
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
root = Path(sys.argv[1])
recipes = [VolumeRecipe((32, 32, 32))]
load_images("manifest", root, cache_dir=root.parent / "cache", recipes=recipes, skip_unreadable=True)
print(status("VmHWM") - before)
"""


def peak_of(root):
    run = [sys.executable, "-c", PEAK, str(root)]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@pytest.mark.thorough
@pytest.mark.parametrize("num_voxels", [24_000_000, 120_000_000])
def test_a_set_of_large_volumes_takes_two_gigabytes_beyond_one(tmp_path, num_voxels):
    shape = (400, 300, num_voxels // 120_000)
    root = tmp_path / "data"
    root.mkdir()
    content = packed_volume(shape, np.uint8)
    lines = ["image,patient,label"]
    for number in range(6):
        (root / f"{number}.nii.gz").write_bytes(content)
        lines.append(f"{number}.nii.gz,p{number},{'ab'[number % 2]}")
    bomb = gzip.compress(gzip.decompress(content)[:352] + bytes(1_000_000_000), 1)
    (root / "bomb.nii.gz").write_bytes(bomb)
    lines.append("bomb.nii.gz,p9,a")
    (root / "manifest.csv").write_text("\n".join(lines))
    assert peak_of(root) < 2_000_000_000 + 4 * num_voxels
