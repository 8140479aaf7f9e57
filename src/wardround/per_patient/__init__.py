"""Per-patient (per-example) gradients and their clipped sum, for any PyTorch network.

An island: it imports torch, numpy and `wardround.errors`, `wardround.types`, `wardround.randomness`, and can be used
in any PyTorch loop, as docs/engine.md shows. The names below are its public surface.
"""

from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import ClippedSum, clipped_sum, per_patient_gradients
from wardround.per_patient.clipping_rules import Automatic, Flat, PerLayer
from wardround.per_patient.slow_path import SlowPath
from wardround.per_patient.surgery import SurgeryReport, without_batch_norm
from wardround.per_patient.validation import check_trainable

__all__ = [
    "Automatic",
    "ClippedSum",
    "Flat",
    "PatientBatch",
    "PerLayer",
    "SlowPath",
    "SurgeryReport",
    "check_trainable",
    "clipped_sum",
    "per_patient_gradients",
    "without_batch_norm",
]
