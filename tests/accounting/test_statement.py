import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.accounting.statement import (
    FLOATING_POINT_CAVEAT,
    SEEDED_STAMP,
    Statement,
    format_epsilon,
)
from wardround.accounting.terms import Division, PrivacyUnit
from wardround.errors import PrivacyError
from wardround.noisers import NoiseShares

STATEMENT = Statement(
    epsilon=3.9987,
    delta=1e-5,
    sampler="a Poisson sample of the patients, each with probability 0.05",
    mechanism="Gaussian",
    noise_multiplier=1.1,
    bound=0.5,
    releases=3_000,
    released_what="the noised sum of clipped gradients of every round",
    released_to="every participating hospital and every recipient of the model",
    noiser=NoiseShares(5, colluders=1, dropouts=2),
    images_per_patient=4,
    caveats=(FLOATING_POINT_CAVEAT, "The size of the training set is a public constant."),
)
NO_GUARANTEE = replace(STATEMENT, epsilon=math.inf, guarantee=False, reason="nothing bounds the sensitivity")


def test_the_sentence_says_all_that_a_number_needs():
    sentence = STATEMENT.sentence()
    for fact in (
        "epsilon = 4.00", "delta = 1e-05", "one patient", "add-or-remove-one", "Poisson sample", "0.05",
        "Gaussian", "noise_multiplier 1.1", "clipping_norm 0.5", "privacy loss distributions", "3,000 releases",
        "sum of clipped gradients", "every recipient of the model", "only the noised sum is revealed", "5 hospitals",
        "1 colluding hospital", "2 dropouts", "4 images", "floating-point", "public",
    ):  # fmt: skip
        assert fact in sentence


def test_no_rendering_is_a_bare_number():
    for word in ("epsilon", "delta", "patient", "add-or-remove-one", "pld"):
        assert word in STATEMENT.short()
    assert "\n" not in STATEMENT.short()


@pytest.mark.parametrize("statement", [NO_GUARANTEE, replace(STATEMENT, epsilon=math.inf)])
def test_an_infinite_epsilon_is_no_privacy_guarantee(statement):
    assert "no privacy guarantee: epsilon = infinity" in statement.short()
    assert "no privacy guarantee: epsilon = infinity" in statement.sentence()
    assert "protected" not in statement.sentence()


def test_a_statement_without_guarantee_gives_its_reason_and_never_a_finite_number():
    assert "nothing bounds the sensitivity" in NO_GUARANTEE.sentence()
    with pytest.raises(PrivacyError, match="read as a promise"):
        replace(STATEMENT, guarantee=False)


@pytest.mark.parametrize("statement", [STATEMENT, NO_GUARANTEE])
def test_a_seeded_run_is_stamped_wherever_it_appears(statement):
    seeded = replace(statement, seeded=True)
    assert SEEDED_STAMP in seeded.sentence()
    assert SEEDED_STAMP in seeded.short()
    assert SEEDED_STAMP not in statement.sentence() + statement.short()


def test_a_statement_by_an_approximation_is_refused():
    with pytest.raises(PrivacyError, match="exactly the fields"):
        Statement.from_json(STATEMENT.to_json() | {"accountant": "gdp"})


@pytest.mark.parametrize("unit", PrivacyUnit)
def test_every_epsilon_names_its_unit(unit):
    statement = replace(STATEMENT, unit=unit)
    assert f"one {unit}" in statement.sentence()
    assert f"one {unit}" in statement.short()


@pytest.mark.parametrize("unit", PrivacyUnit)
def test_only_a_patient_has_all_their_images(unit):
    sentence = replace(STATEMENT, unit=unit, images_per_patient=4).sentence()
    assert ("with all their images" in sentence) == (unit is PrivacyUnit.PATIENT)
    assert ("Each patient contributes" in sentence) == (unit is PrivacyUnit.PATIENT)


@given(st.floats(0, 1e6))
def test_a_printed_epsilon_never_promises_more(epsilon):
    printed = float(format_epsilon(epsilon))
    assert epsilon <= printed <= epsilon * 1.0101


@pytest.mark.parametrize("statement", [STATEMENT, NO_GUARANTEE])
def test_a_division_that_couples_patients_stands_in_every_rendering_of_a_guarantee(statement):
    fixed = replace(statement, division=Division.FIXED)
    for words in (fixed.sentence(), fixed.short()):
        assert ("for this fixed division of the patients" in words) == (statement is STATEMENT)
    assert "division" not in statement.sentence() + statement.short()


@pytest.mark.parametrize(
    "statement",
    [
        STATEMENT, NO_GUARANTEE, replace(STATEMENT, seeded=True, simulated=True),
        replace(STATEMENT, division=Division.FIXED), replace(STATEMENT, bound_name="truncation"),
    ],
)  # fmt: skip
def test_a_statement_survives_json(statement):
    assert Statement.from_json(json.loads(json.dumps(statement.to_json(), allow_nan=False))) == statement


def test_a_record_that_is_no_statement_is_refused():
    with pytest.raises(PrivacyError, match="exactly the fields"):
        Statement.from_json({"epsilon": 1.0})
    with pytest.raises(PrivacyError, match="exactly the fields"):
        Statement.from_json(STATEMENT.to_json() | {"mood": "good"})
    with pytest.raises(PrivacyError, match="epsilon must be"):
        replace(STATEMENT, epsilon=-1.0)
