"""Packages that only some of the networks need."""

import importlib
from typing import Any

from wardround.errors import MissingExtra


def optional(module: str) -> Any:
    """A module of MONAI or of what MONAI's networks need, imported when a network that uses it is built.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise MissingExtra(
            f"This network needs {missing.partition('.')[0]}, which is not installed; "
            "install it with: pip install 'wardround[networks]', or choose a network that needs nothing more."
        ) from None
