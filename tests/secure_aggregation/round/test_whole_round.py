"""Mechanism and masks together: what the coordinator opens is the clear sum and everyone's noise, to the last bit."""

import numpy as np
from tests.secure_aggregation.round.rounds import IN_RINGS, entropy_of, make_round

from wardround.noisers import NoiseShares
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.integers.grid import Grid
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.upload import Upload


@IN_RINGS
def test_the_opened_sum_is_the_clear_sum_and_all_the_noise(ring):
    terms = IntegerMechanism(0.5, 1.0, dimension=300, shares=NoiseShares(4), ring=ring)
    samples = [np.random.default_rng(n).normal(size=(n, 300)) for n in range(4)]  # one of them empty
    masked = make_round(4, length=300, ring=ring, mechanism=terms.parameters)

    total = MaskedSum(masked.transcript)
    for n, sample in enumerate(samples):
        upload = masked.upload(n, terms.in_ring(terms.encode(sample, entropy_of(f"noise {n}"))))
        total.add(Upload.from_bytes(upload.to_bytes()))

    noise = sum(discrete_gaussian(300, terms.share_std, entropy_of(f"noise {n}")) for n in range(4))
    assert isinstance(terms.grid, Grid)
    clear = terms.grid.sum_of(np.concatenate(samples))
    opened = terms.lifted(total.total())
    assert [(int(x) - int(y)) % 2**ring.bits for x, y in zip(opened, clear + noise, strict=True)] == [0] * 300
    if terms.largest_sample >= 6:
        np.testing.assert_array_equal(opened, clear + noise)
    else:
        assert ring.bits == 17, "only there is the noise larger than the ring"
        assert (opened != clear + noise).any()
