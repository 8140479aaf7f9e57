import pytest
import torch
from torch import nn

from wardround.errors import ModelError
from wardround.per_patient.validation import check_trainable

PICTURES = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class MixesTheBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(72, 2)

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        return logits - logits.mean(dim=0, keepdim=True)


def head(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2))


def test_batch_norm_in_training_mode_is_refused_with_the_cure():
    model = head(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).train()
    with pytest.raises(ModelError, match=r"BatchNorm2d at '1' in training mode.*GroupNorm"):
        check_trainable(model, PICTURES)


def test_frozen_batch_norm_is_accepted():
    model = head(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).train()
    model[1].eval()
    check_trainable(model, PICTURES)


def test_running_statistics_of_an_instance_norm_are_refused():
    model = head(nn.InstanceNorm2d(2, track_running_stats=True))
    with pytest.raises(ModelError, match="track_running_stats=False"):
        check_trainable(model, PICTURES)


def test_a_network_that_mixes_patients_in_a_way_no_list_knows_is_refused_by_its_behaviour():
    with pytest.raises(ModelError, match="must not depend on the other pictures"):
        check_trainable(MixesTheBatch(), PICTURES)


def test_dropout_and_group_norm_are_accepted():
    check_trainable(head(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Dropout(0.5)).train(), PICTURES)


def test_a_wholly_frozen_network_is_refused():
    with pytest.raises(ModelError, match="wholly frozen"):
        check_trainable(nn.Flatten(), PICTURES)


def test_the_check_needs_two_pictures():
    with pytest.raises(ModelError, match="at least two pictures"):
        check_trainable(head(nn.GroupNorm(2, 2)), PICTURES[:1])
