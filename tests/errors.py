"""Errors asked for by class and code: sentences may change."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wardround.errors import WardroundError


@contextmanager
def raises_code(kind: type[WardroundError], code: str) -> Iterator[pytest.ExceptionInfo[WardroundError]]:
    """Passes if the block raises exactly this class with exactly this code."""
    with pytest.raises(kind) as caught:
        yield caught
    assert (type(caught.value), caught.value.code) == (kind, code), str(caught.value)
