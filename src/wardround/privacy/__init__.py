"""Mechanisms and the plan that owns the guarantee.

The names below are loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wardround.privacy.adaptive import AdaptiveNorm
    from wardround.privacy.plan import PrivacyPlan

_HOMES = {"AdaptiveNorm": "adaptive", "PrivacyPlan": "plan"}

__all__ = ["AdaptiveNorm", "PrivacyPlan"]


def __getattr__(name: str) -> object:
    """A public name, imported from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wardround.privacy' has no attribute {name!r}")
    return getattr(import_module(f"wardround.privacy.{_HOMES[name]}"), name)
