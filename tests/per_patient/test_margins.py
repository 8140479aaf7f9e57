"""Every clip leaves a margin that its rounding cannot use up, and none of them is written down twice."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.per_patient.margins import DOUBLE_PRECISION, SINGLE_PRECISION, before_margin
from wardround.privacy.updates import clipped_to

SOURCE = Path(__file__).parents[2] / "src" / "wardround"


A_MARGIN = re.compile(r"\b1(?:\.0)? - (?:1e-0?\d|2(?:\.0)?\*\*-[12]\d)\b")
"""One less a small number, such as 1 - 1e-9 or 1.0 - 2.0**-12."""


@pytest.mark.parametrize("room", ["per_patient", "privacy", "training"])
def test_margins_are_written_in_one_file_only(room):
    found = {path.name for path in (SOURCE / room).rglob("*.py") if A_MARGIN.search(path.read_text())}
    assert found == ({"margins.py"} if room == "per_patient" else set())


@given(st.floats(1e-6, 1e6))
def test_a_rule_that_leaves_its_margin_comes_back_to_the_norm(norm):
    assert before_margin(norm) * SINGLE_PRECISION == pytest.approx(norm, rel=3e-16)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_an_update_is_never_longer_than_its_norm(seed, norm):
    update = np.random.default_rng(seed).normal(size=999).astype(np.float32) * 1e4
    length = float(np.linalg.norm(clipped_to(update, norm).astype(np.longdouble)))
    assert norm * DOUBLE_PRECISION * (1 - 1e-12) <= length <= norm
