import math

import numpy as np
import pytest

from wardround.report.guarantee import Guarantee, percent_up


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 8.0])
def test_no_test_on_a_worst_case_mechanism_beats_the_ceiling_and_the_best_one_reaches_it(epsilon):
    # The worst case of (epsilon, delta): with chance delta the truth, else randomised response.
    delta = 1e-3
    told = (1 - delta) * math.exp(epsilon) / (1 + math.exp(epsilon))
    present = np.array([delta, 0.0, told, 1 - delta - told])
    absent = present[[1, 0, 3, 2]]
    best = np.maximum(present, absent).sum() / 2
    ceiling = Guarantee(epsilon, delta, "patient").guess_ceiling
    assert ceiling is not None
    shown = float(ceiling.removesuffix(" %")) / 100
    assert best <= shown <= best + 1e-3


def test_the_ceiling_is_rounded_up():
    assert percent_up(0.73101) == "73.2 %"
    assert percent_up(0.99961) == "99.97 %"


def test_a_large_epsilon_has_no_ceiling_worth_printing():
    assert Guarantee(10.1, 1e-5, "patient").guess_ceiling is None
    assert Guarantee(math.inf, 1e-5, "patient").guess_ceiling is None


def test_an_epsilon_speaks_of_its_delta_and_unit():
    assert Guarantee(3.4567, 1e-5, "patient").text == "ε = 3.46 at δ = 1e-05, for one patient"
    assert Guarantee(math.inf, 0.5, "patient").text == "ε = infinity at any δ, for one patient"
