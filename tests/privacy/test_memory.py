"""What a step holds on to when it is over: nothing."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wardround.privacy.clipping import PatientBatch, clipped_sum, per_patient_gradients


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _bytes_of_tensors() -> int:
    gc.collect()
    return sum(each.numel() * each.element_size() for each in gc.get_objects() if issubclass(type(each), Tensor))


@pytest.mark.parametrize("function", [clipped_sum, per_patient_gradients])
def test_no_tensor_outlives_a_step(function: object) -> None:
    """A tape that holds inputs of layers and is held by their nodes would be a ring that nothing collects."""
    model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2))
    batch = PatientBatch(torch.randn(16, 400), torch.randint(2, (16,)), torch.arange(16), 16)
    arguments = {"clipping_norm": 1.0} if function is clipped_sum else {}
    function(model, _loss, batch, **arguments)  # type: ignore[operator]
    before = _bytes_of_tensors()
    for _ in range(3):
        function(model, _loss, batch, **arguments)  # type: ignore[operator]
    assert _bytes_of_tensors() == before
