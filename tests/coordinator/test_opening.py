"""A coordinator that learns from its hospitals what the pictures are like, and takes the rate of their classes."""

from typing import Any

import pytest

from wardround import __version__
from wardround.agreed.network import build_network
from wardround.agreed.plans import plan_of
from wardround.agreed.schedule import schedule_of
from wardround.config import parse_study
from wardround.coordinator.opening import open_coordinator
from wardround.federation.channel import InProcessChannel
from wardround.federation.messages import Hello
from wardround.images.entries import Target
from wardround.models.vectors import sha256_of, to_vector
from wardround.types import HospitalName

NAMES = (HospitalName("north"), HospitalName("south"), HospitalName("east"))


@pytest.mark.parametrize("number", [2, 4])
def test_the_rate_of_a_head_is_that_of_the_classes_that_all_hospitals_have(number):
    classes, shape = tuple(f"class-{one}" for one in range(number)), (1, 32, 32)
    study = parse_study(
        {
            "study": {"name": "head"}, "data": {"layout": "folder", "image_size": 32, "classes": list(classes)},
            "hospitals": {"count": 3, "names": list(NAMES)}, "model": {"name": "features", "encoder": "hog"},
            "privacy": {"plan": "dp-sgd", "epsilon": 8.0, "delta": 1e-3, "accountant": "rdp", "num_patients": 90},
        }
    )  # fmt: skip
    network = build_network(study, target=Target.CLASSES, num_classes=number, shape=shape)
    hello = Hello(study.digest, __version__, classes, shape, sha256_of(to_vector(network.trained)), 1)
    channel = InProcessChannel(NAMES, lambda requests: dict.fromkeys(requests, hello))
    strategy: Any = open_coordinator(study, channel, dict.fromkeys(NAMES, bytes(32))).coordinator.strategy
    expected = schedule_of(study, plan_of(study), number)
    assert expected is not None
    assert strategy.inner.inner.learning_rate == expected.rule  # scores, centre, descent
