"""One private step, per patient: sampling, per-patient gradients, noise, and the plan that owns the guarantee.

The engine can be used without the rest of Wardround, in any PyTorch loop: see docs/engine.md. The names below are
loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wardround.privacy.adaptive import AdaptiveNorm
    from wardround.privacy.clipping import ClippedSum, PatientBatch, clipped_sum, per_patient_gradients
    from wardround.privacy.clips import Automatic, Flat, PerLayer
    from wardround.privacy.engine import SlowPath
    from wardround.privacy.plan import PrivacyPlan
    from wardround.privacy.randomness import Randomness, Stream
    from wardround.privacy.sampling import poisson_sample
    from wardround.privacy.surgery import SurgeryReport, without_batch_norm
    from wardround.privacy.validation import check_trainable

_HOMES = {
    "AdaptiveNorm": "adaptive",
    "Automatic": "clips",
    "ClippedSum": "clipping",
    "Flat": "clips",
    "PatientBatch": "clipping",
    "PerLayer": "clips",
    "PrivacyPlan": "plan",
    "Randomness": "randomness",
    "SlowPath": "engine",
    "Stream": "randomness",
    "SurgeryReport": "surgery",
    "check_trainable": "validation",
    "clipped_sum": "clipping",
    "per_patient_gradients": "clipping",
    "poisson_sample": "sampling",
    "without_batch_norm": "surgery",
}

__all__ = [
    "AdaptiveNorm",
    "Automatic",
    "ClippedSum",
    "Flat",
    "PatientBatch",
    "PerLayer",
    "PrivacyPlan",
    "Randomness",
    "SlowPath",
    "Stream",
    "SurgeryReport",
    "check_trainable",
    "clipped_sum",
    "per_patient_gradients",
    "poisson_sample",
    "without_batch_norm",
]


def __getattr__(name: str) -> object:
    """A public name, imported from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wardround.privacy' has no attribute {name!r}")
    return getattr(import_module(f"wardround.privacy.{_HOMES[name]}"), name)
