"""Bad hospitals and adversarial examples: the committed tables are those of the committed figures."""

import json

import pytest
import torch
from benchmarks import adversarial, poisoned
from torch import nn

from wardround.federation.robust import Median, Trimmed


@pytest.mark.parametrize("benchmark", [poisoned, adversarial])
def test_the_page_has_the_table_of_the_committed_figures(benchmark):
    name = benchmark.__name__.partition(".")[2]
    table = benchmark.table(json.loads(poisoned.result_of(name).read_text()))
    assert f"<!-- written by benchmarks.{name} -->\n{table}\n<!-- end of benchmarks.{name} -->" in (
        poisoned.PAGE.read_text()
    )


def test_adversarial_pictures_stay_within_the_level_and_raise_the_loss():
    torch.manual_seed(0)
    model, pictures = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.randint(0, 256, (5, 1, 8, 8)).float()
    labels = model(pictures).argmax(dim=1)
    before = nn.functional.cross_entropy(model(pictures), labels)
    for steps in (1, adversarial.STEPS):
        moved = adversarial.perturbed(model, pictures, labels, 4, steps, seed=1)
        assert (moved - pictures).abs().max() <= 4
        assert moved.min() >= 0
        assert moved.max() <= 255
        assert nn.functional.cross_entropy(model(moved), labels) > before


def test_every_rule_of_the_table_is_one_of_a_study(tmp_path):
    for rule in poisoned.RULES.values():
        study = poisoned.study_of(tmp_path, poisoned.PRIVACY["epsilon 8, each hospital"], rule, 2, 0)
        assert study.hospitals.count == poisoned.HOSPITALS
    assert Trimmed(2).fewest == 2 * 2 + 1 == poisoned.HOSPITALS >= Median().fewest
