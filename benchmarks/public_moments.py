"""Makes the public constants of the backbones: means and deviations of every activation, over public pictures.

    python -m benchmarks.public_moments [--data path/to/chest_xray]

writes `src/wardround/models/backbones/moments.safetensors` and prints its SHA-256 for `models/backbones/names.py`. Sets
are `generated-grey` and `generated-colour`, of the pictures of `benchmarks.public_pictures` (grey ones with as many
variants of one radiograph), and `chest-xray`, of the
paediatric chest X-rays of Kermany, Zhang and Goldbaum 2018 (https://doi.org/10.17632/rscbjbr9sj.2, CC BY 4.0), of which
the file has two numbers an activation and no picture. Without `--data` that set is taken over from the file.
"""

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from safetensors.numpy import save
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.public_pictures import films, pictures
from wardround.images.load import load_images
from wardround.images.rows.recipe import PictureRecipe
from wardround.models.backbones.efficientnet_lite import SIZES
from wardround.models.backbones.rows import MOMENTS, values_of
from wardround.models.backbones.source import efficientnet_lite0

EACH = 100
"""Pictures of every kind."""

FLOOR = 0.1
"""Least deviation, in medians of the deviations of its block: an activation that public pictures leave still."""

Found = dict[str, np.ndarray]


def activations(some: Iterable[Tensor]) -> Tensor:
    """Returns all 4,032 activations of pictures (1, channel, 224, 224), (picture, activation)."""
    with torch.no_grad():
        return torch.cat([torch.cat(efficientnet_lite0()(values_of(one)), dim=1) for one in some])


def moments(name: str, values: Tensor) -> Found:
    mean, deviation = values.double().mean(dim=0), values.double().std(dim=0, correction=0)
    floors = [block.clamp(min=FLOOR * float(block.median())) for block in torch.split(deviation, list(SIZES))]
    return {f"{name}/mean": mean.float().numpy(), f"{name}/deviation": torch.cat(floors).float().numpy()}


def generated() -> Found:
    drawn = [picture for _, picture in track(pictures(EACH), "generating", total=7 * EACH)]
    colour = [torch.from_numpy(np.moveaxis(one, 2, 0)[None].copy()) for one in drawn]
    with_films = [*drawn, *films(len(drawn))]
    grey = [torch.from_numpy(np.array(Image.fromarray(one).convert("L"))[None, None]) for one in with_films]
    found = moments("generated-grey", activations(track(grey, "grey")))
    return found | moments("generated-colour", activations(track(colour, "colour")))


def radiographs(root: Path, cache: Path) -> Found:
    pixels = load_images("chest_xray", root, cache_dir=cache, recipes=[PictureRecipe(224, 1)]).pixels
    shown = (torch.from_numpy(np.array(pixels[row : row + 1])) for row in range(len(pixels)))
    return moments("chest-xray", activations(track(shown, "chest X-rays", total=len(pixels))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the chest X-rays")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/wardround").expanduser())
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data is None:
        found = {
            name: value.numpy() for name, value in load_file(MOMENTS).items() if name.startswith("chest-xray")
        }
    else:
        found = radiographs(options.data, options.cache)
    content = save(found | generated())
    MOMENTS.write_bytes(content)
    print(f'MOMENTS_SHA256 = "{hashlib.sha256(content).hexdigest()}"')


if __name__ == "__main__":
    main()
