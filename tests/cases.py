"""Cases of a test: by default one of each family runs, with `make test-thorough` their whole product."""

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

import pytest
from hypothesis import settings


def family(cases: Iterable[Any], *, keep: Collection[Any] | None = None) -> list[Any]:
    """Returns the cases of one family, of which all but a few are marked `thorough`.

    Args:
        cases: values for `parametrize`, or `pytest.param`s with marks of their own. A tuple is unpacked: one value
            for each argument.
        keep: the cases that the default run keeps; by default the first.

    Raises:
        ValueError: a case to keep is not among the cases.
    """
    params = [case if hasattr(case, "marks") else _param(case) for case in cases]
    if keep is None:
        kept = {id(param) for param in params[:1]}
    else:
        known = [param for param in params if _value(param) in keep]
        if len(known) < len(keep):
            raise ValueError(f"a kept case is none of {[_value(param) for param in params]}: {keep}")
        kept = {id(param) for param in known}
    return [param if id(param) in kept else _thorough(param) for param in params]


def examples(most: int) -> settings:
    """Returns the setting by which hypothesis draws so many examples in a thorough run, and a fifth by default."""
    is_thorough = settings.default is not None and settings.default.max_examples >= 100
    return settings(max_examples=most if is_thorough else most // 5)


def firsts(cases: Iterable[Any], kind: Callable[[Any], Hashable]) -> list[Any]:
    """Returns the first case of every kind, for `keep`."""
    found: dict[Hashable, Any] = {}
    for case in cases:
        found.setdefault(kind(case), case)
    return list(found.values())


def _param(case: Any) -> Any:
    return pytest.param(*case) if isinstance(case, tuple) else pytest.param(case)


def _value(param: Any) -> Any:
    return param.values[0] if len(param.values) == 1 else param.values


def _thorough(param: Any) -> Any:
    return pytest.param(*param.values, id=param.id, marks=[*param.marks, pytest.mark.thorough])
