"""The source of keys, and secrets that are used once."""

import os
from collections.abc import Callable
from typing import Generic, NoReturn, TypeAlias, TypeVar

from wardround.errors import FederationError

Entropy: TypeAlias = Callable[[int], bytes]
"""Gives so many secret random bytes."""

_Secret = TypeVar("_Secret")


def system_entropy(num_bytes: int) -> bytes:
    """Returns random bytes from the operating system; never fewer, and never from anywhere else.

    Raises:
        FederationError: the system has none to give.
    """
    try:
        drawn = os.urandom(num_bytes)
    except (OSError, NotImplementedError) as error:
        raise FederationError(
            f"The operating system must give random bytes for a key, and did not ({error}); nothing was sent. "
            "Repair the machine before it takes part again."
        ) from None
    if len(drawn) != num_bytes:
        raise FederationError(
            f"The operating system must give {num_bytes} random bytes for a key, and gave {len(drawn)}; nothing was "
            "sent. Repair the machine before it takes part again."
        )
    return drawn


class Once(Generic[_Secret]):
    """A secret that can be taken once, in the process that made it, and can be neither copied nor pickled.

    Python cannot promise that the bytes are gone from memory afterwards; nothing here refers to them any more.
    """

    def __init__(self, secret: _Secret, name: str) -> None:
        self._left, self._name, self._process = [secret], name, os.getpid()

    def take(self) -> _Secret:
        """Returns the secret, the first time.

        Raises:
            FederationError: it was taken before, or belongs to the process that this one was forked from.
        """
        try:
            if os.getpid() != self._process:
                raise IndexError
            return self._left.pop()  # one step, so that of two threads one is refused
        except IndexError:
            raise FederationError(
                f"{self._name} must be used once only, for two uses together would open what it hides; "
                "begin a new attempt with a new round key."
            ) from None

    def __repr__(self) -> str:
        return f"Once({self._name})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._name} must be used once only, so it cannot be copied")
