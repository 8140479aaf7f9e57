"""A server on loopback answers its own name alone."""

import pytest

from wardround.boundary.loopback import is_own_name


@pytest.mark.parametrize(
    ("header", "is_own"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        ("localhost:9000", True),  # the near end of a tunnel
        ("127.0.0.1", False),
        ("", False),
        ("elsewhere.example:8000", False),
        ("127.0.0.1.elsewhere.example:8000", False),
    ],
)
def test_only_names_of_this_machine_are_answered(header, is_own):
    assert is_own_name(header) is is_own
