"""The code on the page of the integer mechanism runs and gives what the page says."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).resolve().parents[2] / "docs" / "secure-aggregation.md"


def test_the_example_runs_from_gradients_to_epsilon():
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # the page is ours
    total, epsilon = names["total"], names["epsilon"]
    assert isinstance(total, np.ndarray)
    assert total.shape == (1000,)
    assert isinstance(epsilon, float)
    assert 1 < epsilon < 4
