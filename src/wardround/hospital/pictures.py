"""A hospital's pictures, read from its site as the study asks for, and the network that reads them."""

from pathlib import Path
from typing import Literal, assert_never

import torch
from torch import Tensor

from wardround.agreed.network import augmentation_of, build_network, loss_of
from wardround.config import Study
from wardround.config.data import PersonPattern, PersonTable, SiteSection
from wardround.images.layouts.guess import guess_layout
from wardround.images.layouts.phantom import PhantomOptions
from wardround.images.listing import (
    ByPattern,
    ByTable,
    Classes,
    Listing,
    OnePerPicture,
    PersonNames,
    ReaderOptions,
)
from wardround.images.load import fitting_recipe, list_entries, list_generated, load_images, open_layout
from wardround.images.patients import ImageSet
from wardround.images.rows.fit import Fit
from wardround.images.rows.recipe import PictureRecipe, Recipe, View, VolumeRecipe
from wardround.models.linear import scoring_layer
from wardround.models.network import Network
from wardround.per_patient.batch import Loss
from wardround.training.device import device_for
from wardround.training.encodings import Lattice, encodings
from wardround.training.workbench import Workbench
from wardround.types import Progress

DEFAULT_CACHE = Path("~/.cache/wardround")
_KEY_FILE = "hospital.key"


def read_images(study: Study, progress: Progress | None = None) -> ImageSet:
    """Returns the pictures of the study's site, decoded once and kept in the cache."""
    site = study.site
    return load_images(
        site.layout,
        _place_of(site),
        recipes=[recipe_of(study)],
        task=study.data.task,
        cache_dir=cache_of(study),
        skip_unreadable=site.skip_unreadable,
        options=reader_options(study),
        progress=progress,
    )


def cache_of(study: Study) -> Path:
    """Returns the folder of decoded pictures and their encodings, which are private."""
    return (study.performance.cache or DEFAULT_CACHE).expanduser()


def list_pictures(study: Study) -> Listing | None:
    """Returns the entries of the study's site by names, tables and headers alone; None where no folder is named."""
    place, options = _place_of(study.site), reader_options(study)
    if place is None:
        return None
    if isinstance(place, PhantomOptions):
        listing = list_generated(place, study.data.task, options)
    else:
        with open_layout(study.site.layout, place) as store:
            listing = list_entries(study.site.layout, store, study.data.task, options)
    recipe_of(study, listing)
    return listing


def _place_of(site: SiteSection) -> Path | PhantomOptions | None:
    return PhantomOptions(**site.phantom.model_dump()) if site.layout == "phantom" else site.path


def list_folder(path: Path) -> Listing:
    """Returns the entries of a data folder or an archive, its layout guessed, by names, tables and headers alone."""
    options = ReaderOptions(DEFAULT_CACHE.expanduser() / _KEY_FILE, looking=True)
    with open_layout(None, path) as store:
        return list_entries(guess_layout(store), store, None, options)


def workbench_of(
    study: Study,
    images: ImageSet,
    network: Network,
    *,
    loss: Loss | None = None,
    inputs: Tensor | None = None,
    progress: Progress = lambda done, total: None,
) -> Workbench:
    """Returns the network, with what it reads.

    The loss is the study's by default. `inputs` are of every picture, where they are not the network's own encoding.
    Encodings that are computed once are kept in the cache; `progress` is told how many are computed.
    """
    if inputs is None and network.encode_once:
        inputs = encodings(network, images.pixels, cache_of(study), progress)
    stride = study.training.stride
    lattice = None
    if stride > 1:
        lattice = encodings(network, images.pixels, cache_of(study), progress, stride=stride)
    return Workbench(
        network,
        images.pixels,
        loss or loss_of(study, images.target),
        int(study.performance.memory_gb * 1e9),
        masks=images.masks,
        augmentation=augmentation_of(study, None if images.sliced else images.spacing),
        inputs=inputs,
        lattice=None if lattice is None else Lattice(stride, lattice),
        device=device_of(study, network),
    )


def device_of(study: Study, network: Network | None = None) -> torch.device:
    """Returns the device of this machine that the study's network is trained on (`wardround.training.device`).

    Raises:
        StudyError: the study asks for one that is not there, or that its work does not take; code `study-device`.
    """
    return device_for(study.performance.device, kept_on_processor(study, network))


def kept_on_processor(study: Study, network: Network | None) -> str | None:
    """Returns what of a study keeps to the processor, and to one thread unless told otherwise; None if nothing does.

    A seed and masked sums promise bits; a linear head is products of microseconds. None for a network that is not built
    yet.
    """
    if study.study.seed is not None:
        return "a seed"
    if getattr(study.privacy, "sum", None) == "masked":
        return "masked sums"
    return "a linear head" if network is not None and scoring_layer(network)[0] is not None else None


def encode_pictures(study: Study, images: ImageSet, progress: Progress) -> None:
    """Leaves the encodings of the study's pictures in the cache, for runs that begin at once."""
    num_classes, shape = len(images.class_names), images.pixels.shape[1:]
    network = build_network(study, target=images.target, num_classes=num_classes, shape=shape)
    workbench_of(study, images, network, progress=progress)


def recipe_of(study: Study, listing: Listing | None = None) -> Recipe:
    """Returns the rows that the study's pictures or volumes are made into; volumes that are not listed have a channel.

    Raises:
        DataError: rows that cannot be made, or others than those of what is listed.
    """
    data = study.data
    recipe: Recipe
    if data.volume_size is None:
        recipe = PictureRecipe(data.image_size, data.channels, Fit(data.fit), data.circle_crop, data.bits)
    else:
        recipe = VolumeRecipe(data.volume_size, 1, data.spacing, data.window, View(data.view))
    return recipe if listing is None else fitting_recipe(listing, [recipe])


def reader_options(study: Study) -> ReaderOptions:
    """Returns what the layout's reader may need beside the folder."""
    site = study.site
    key_file = site.key_file or cache_of(study) / _KEY_FILE
    names = study.data.classes
    classes = None if names is None else Classes(names, site.class_names or {})
    return ReaderOptions(
        key_file,
        site.labels,
        site.reviewed,
        study.data.segments,
        _names_of(site.patients),
        site.leave_out,
        classes,
        study.data.modalities,
    )


def _names_of(patients: Literal["one-per-picture"] | PersonPattern | PersonTable | None) -> PersonNames | None:
    """Returns the site's way of naming persons as `images` has it."""
    match patients:
        case None:
            return None
        case "one-per-picture":
            return OnePerPicture()
        case PersonPattern(pattern=pattern):
            return ByPattern(pattern)
        case PersonTable(table=table):
            return ByTable(table)
        case _:
            assert_never(patients)
