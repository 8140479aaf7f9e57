"""Hostile files and records by kind: each is one change of a valid neighbour, which the same operation must read."""

import numpy as np
from tests.thorough.hostile.dicom import exports
from tests.thorough.hostile.documents import own_files, studies, sweeps
from tests.thorough.hostile.pictures import archives, pictures, tables, volumes
from tests.thorough.hostile.records import cards, checkpoints, notes, records, weights
from tests.thorough.hostile.sets import arrays, bids, nnunet


def every_case(root, finished, study):
    """All hostile inputs, written below `root`."""
    generator = np.random.default_rng(0)
    yield from studies(root / "studies", study)
    yield from sweeps(root / "sweeps", study)
    yield from own_files(root / "own")
    for make in (pictures, tables, archives, volumes, exports, arrays, nnunet, bids):
        place = root / make.__name__
        place.mkdir()
        yield from make(place, generator)
    yield from weights(root / "weights")
    yield from checkpoints(root, finished)
    yield from records(root / "records", finished, generator)
    yield from notes(root / "notes")
    yield from cards(root / "cards", finished)
