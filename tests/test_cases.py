"""What the default run keeps of a family of cases."""

import pytest
from tests.cases import family, firsts


def kept(params):
    return [param.values for param in params if not any(mark.name == "thorough" for mark in param.marks)]


def test_the_first_case_is_kept_and_all_are_there():
    params = family(["a", "b", "c"])
    assert [param.values for param in params] == [("a",), ("b",), ("c",)]
    assert kept(params) == [("a",)]


def test_chosen_cases_are_kept_and_marks_and_names_of_their_own_stay():
    slow = pytest.param(3, marks=pytest.mark.slow, id="three")
    params = family([(1, 2), (2, 4), slow], keep=[(2, 4)])
    assert kept(params) == [(2, 4)]
    assert ([mark.name for mark in params[2].marks], params[2].id) == (["slow", "thorough"], "three")
    assert firsts([1, 2, 3, 4], lambda number: number % 2) == [1, 2]


def test_a_kept_case_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="none of"):
        family(["a", "b"], keep=["c"])
