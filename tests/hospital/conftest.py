"""Masked federations and folders of hospitals, for the tests of the room."""

import numpy as np
import pytest
from tests.hospital.deployed import make_folders
from tests.hospital.evaluated import allow
from tests.hospital.masked_rounds import MaskedFederation, masked_plan


@pytest.fixture
def make_masked(make_federation, tmp_path):
    """A factory of masked federations: new ones, or the hospitals of one started again with their notes."""

    def make(folder="notes", *, plan=None, seed=5, federation=None, epsilon_limit=np.inf, **fields):
        (tmp_path / folder).mkdir(exist_ok=True)
        if federation is None:
            plan = plan or masked_plan(**fields)
            federation = make_federation(
                hospitals=plan.hospitals, plan=plan, seed=seed, epsilon_limit=epsilon_limit
            )
        return MaskedFederation(federation, tmp_path / folder)

    return make


@pytest.fixture
def folders(tmp_path):
    """Folders of three hospitals whose policy lets noised figures leave, and their public keys."""
    paths, keys = make_folders(tmp_path)
    for path in paths.values():
        allow(path, "noised")
    return paths, keys
