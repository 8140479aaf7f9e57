"""Masked federations, for the tests of the room."""

import numpy as np
import pytest
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
