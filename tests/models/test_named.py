"""Parameters by name, from a network that is left as it was."""

import numpy as np
import torch

from wardround.models.catalogue import build
from wardround.models.vectors import named_weights, to_vector


def test_the_network_is_left_as_it_was():
    network = build(
        "linear", size=(8, 8), channels=1, num_classes=2, train="all", weights=None, width=None,
        init_generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    before = to_vector(network.trained)
    named = named_weights(network, before + np.float32(1))
    np.testing.assert_array_equal(to_vector(network.trained), before)
    found = np.concatenate([value.ravel() for value in named.values()])
    np.testing.assert_array_equal(np.sort(found), np.sort(before + np.float32(1)))
