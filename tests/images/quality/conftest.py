"""Sets of phantom pictures in memory, sound but for what a test plants in them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from wardround.images.entries import Entry, Target
from wardround.images.group import digest_of, group_by_patient
from wardround.images.layouts.phantom import PhantomOptions, draw_phantom, list_phantom, phantom_digests
from wardround.images.listing import Listing
from wardround.images.naming import with_persons
from wardround.images.patients import ImageSet

OPTIONS = PhantomOptions(patients=40, max_images=2, sites=2, image_size=64, seed=5)


@dataclass
class Made:
    """A set in the making: change its lists, then take it."""

    entries: list[Entry]
    pixels: np.ndarray
    digests: list[str]
    class_names: tuple[str, ...] = ("clear", "lesion")
    root: Path | None = None
    masks: np.ndarray | None = None
    unreadable: frozenset[int] = frozenset()
    notes: tuple[str, ...] = field(default=())

    def add(self, picture, **changes):
        """One more picture, of a patient of its own unless told otherwise; returns its row."""
        row = len(self.entries)
        entry = replace(self.entries[0], file=f"added/{row}.png", patient=f"added-{row}")
        digest = changes.pop("digest", f"{row:064x}")
        self.entries.append(replace(entry, **changes))
        self.pixels = np.concatenate([self.pixels, np.asarray(picture, np.uint8)[None]])
        self.digests.append(digest)
        return row

    def change(self, row, **changes):
        self.entries[row] = replace(self.entries[row], **changes)

    def taken(self):
        listing = with_persons(Listing(tuple(self.entries), self.class_names, self.notes), None, None)
        patients, findings = group_by_patient(listing, self.digests, self.unreadable)
        return ImageSet(
            "phantom",
            self.root,
            self.class_names,
            patients,
            self.pixels,
            findings,
            digest_of(patients),
            target=Target.CLASSES if self.masks is None else Target.MASKS,
            masks=self.masks,
            persons=listing.persons,
        )


@pytest.fixture(scope="session")
def phantom_pixels():
    return np.stack(list(draw_phantom(OPTIONS)))


@pytest.fixture
def made(phantom_pixels):
    entries = list(list_phantom(OPTIONS).entries)
    return Made(entries, phantom_pixels.copy(), phantom_digests(OPTIONS, [entry.file for entry in entries]))


@pytest.fixture
def made_volumes():
    """Twelve volumes of smooth noise about a bright ball each, three different sides, the ball as their mask."""
    generator = np.random.default_rng(3)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in (20, 24, 16)), indexing="ij")
    noise = generator.random((12, 5, 6, 4)).repeat(4, axis=1).repeat(4, axis=2).repeat(4, axis=3)
    centres = generator.uniform(-0.2, 0.2, (12, 3))
    balls = np.array([sum((axis - at) ** 2 for axis, at in zip(axes, c, strict=True)) < 0.3 for c in centres])
    pixels = (120 * noise + 80 * balls).astype(np.uint8)[:, None]
    masks = balls.astype(np.uint8)
    masks[:, :, 12:] *= 2
    entries = [Entry(f"volume-{number}.nii.gz", 0, f"person-{number}") for number in range(12)]
    digests = [f"{number:064x}" for number in range(12)]
    return Made(entries, pixels, digests, ("background", "anterior", "posterior"), masks=masks)
