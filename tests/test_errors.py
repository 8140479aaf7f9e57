"""The codes of errors: stable, one for each class, and finer ones that start with it."""

import ast
import pickle
import re
from pathlib import Path

import pytest

from wardround import errors
from wardround.errors import BudgetExhausted, PrivacyError, StudyError, WardroundError

CLASSES: dict[str, type[WardroundError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, WardroundError)
}
SOURCE = Path(errors.__file__).parent


def finer_codes():
    """Class and code of every error in the package that is made with a code of its own."""
    for path in SOURCE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CLASSES:
                for keyword in call.keywords:
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                        yield CLASSES[call.func.id], keyword.value.value


def test_every_class_has_a_code_of_its_own_which_the_tree_shows():
    codes = [kind.code for kind in CLASSES.values()]
    assert len(set(codes)) == len(codes)
    assert dict(re.findall(r"([A-Z]\w+) +([a-z-]+)  ", str(errors.__doc__))) == {
        name: kind.code for name, kind in CLASSES.items()
    }


def test_a_finer_code_starts_with_the_one_of_its_class():
    found = list(finer_codes())
    assert len(found) > 20
    assert [(kind, code) for kind, code in found if not code.startswith(f"{kind.code}-")] == []


def test_an_error_has_the_code_of_its_class_or_a_finer_one():
    assert WardroundError("a sentence").code == "error"
    assert BudgetExhausted("a sentence").code == "budget-exhausted"
    assert PrivacyError("a sentence").code == PrivacyError.code == "privacy"
    finer = StudyError("a sentence", code="study-masked-strategy")
    assert (str(finer), finer.code, StudyError.code) == ("a sentence", "study-masked-strategy", "study")


@pytest.mark.parametrize("code", [None, "study-masked-strategy"])
def test_an_error_keeps_its_code_between_processes(code):
    error = StudyError("a sentence", code=code)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code) == (StudyError, "a sentence", error.code)
