"""Masked federations, for the tests of the room."""

import numpy as np
import pytest
from tests.hospital.masked_rounds import MaskedFederation, masked_plan


@pytest.fixture
def make_masked_run(make_federation, tmp_path):
    """A factory of masked federations, each with ledgers of its own."""

    def make(folder="notes", *, plan=None, seed=5, epsilon_limit=np.inf):
        (tmp_path / folder).mkdir(exist_ok=True)
        plan = plan or masked_plan()
        federation = make_federation(hospitals=plan.hospitals, plan=plan, seed=seed, epsilon_limit=epsilon_limit)
        return MaskedFederation(federation, tmp_path / folder)

    return make
