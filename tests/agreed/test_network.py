"""A network that is built from a study by any party."""

from typing import Any

import pytest
import torch

from wardround.agreed import network as agreed
from wardround.images.entries import Target
from wardround.simulation.estimate import estimate
from wardround.training.threads import using_threads
from wardround.training.workbench import Workbench


@pytest.mark.parametrize(("threads", "taken"), [(1, 1), (2, 2), (None, 3)])
def test_a_network_is_checked_on_as_many_threads_as_the_study_names(tiny_study, monkeypatch, threads, taken):
    """More of them wait for each other beside a busy process; every party builds it, each of them for itself."""
    seen: list[int] = []
    checked: Any = vars(agreed)["check_trainable"]

    def watched(*given: Any) -> None:
        seen.append(torch.get_num_threads())
        checked(*given)

    monkeypatch.setattr(agreed, "check_trainable", watched)
    with using_threads(3):
        study = tiny_study(performance={"threads": threads})
        agreed.build_network(study, target=Target.CLASSES, num_classes=2, shape=(1, 32, 32))
        assert torch.get_num_threads() == 3
    assert seen == [taken]


def test_a_study_is_timed_on_as_many_threads_as_it_names(tiny_study, monkeypatch):
    seen: set[int] = set()
    sums = Workbench.gradient_sums

    def watched(*given):
        seen.add(torch.get_num_threads())
        return sums(*given)

    monkeypatch.setattr(Workbench, "gradient_sums", watched)
    with using_threads(3):
        estimate(tiny_study(performance={"threads": 2}))
    assert seen == {2}
