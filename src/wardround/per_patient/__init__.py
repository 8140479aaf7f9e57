"""Per-patient (per-example) gradients and their clipped sum, for any PyTorch network.

An island: it imports torch, numpy, `wardround.errors`, `wardround.types` and `wardround.randomness`, and runs in any
PyTorch loop (docs/engine.md). The names below are its public surface.

One pass computes all gradients ("book-keeping", Bu et al. 2022). In reading order:

    clipped_sum        the result; microbatches -> norms -> clipping factors -> weighted sums
    microbatches       a batch in parts of whole patients that fit into memory
    engine             one forward and one backward pass of a microbatch
    recorder, rules    which torch functions read a trained parameter, and what layer each of them is
    layers/            per-patient gradients, ghost norms and weighted sums of each family of layers
    tape, sums         what a backward pass leaves, and adding it up with clipping factors
    anatomy, slow_path networks are tried before they are trusted; what has no rule goes by `torch.func`
    clipping_rules, margins    factors, and how far below the clipping norm they aim
    isolated, fixed_shape      gradients no bit of which depends on another patient, for sums of whole numbers
    guards/            draws keyed by patient, networks that change themselves refused, real batches checked
    surgery, validation        batch norms replaced; networks that mix patients refused

Vocabulary, one meaning a word:

    per-patient gradient   of the mean loss over a patient's pictures; the "per-example gradient" of the literature,
                           where an example is a patient
    ghost norm             norm of a per-patient gradient, taken without forming the gradient (Li et al. 2022)
    use                    one call of a torch function that reads trained parameters
    section                parameters that are clipped together: all, or those of one module
    microbatch             whole patients that are computed together, within `memory_bytes`
    slot                   a position in a batch of fixed shape (`fixed_shape`), and nothing else
    group                  patients whose gradients are added into one sum, such as a hospital's

"Row" is left to tables and matrices; a patient's vector is a gradient here.
"""

from wardround.per_patient.anatomy import Independence
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import ClippedSum, clipped_sum, clipped_sums_by_group, per_patient_gradients
from wardround.per_patient.clipping_rules import Automatic, Clipping, Flat, PerLayer
from wardround.per_patient.slow_path import SlowPath
from wardround.per_patient.surgery import Norm, SurgeryReport, without_batch_norm
from wardround.per_patient.validation import check_trainable

__all__ = [
    "Automatic",
    "ClippedSum",
    "Clipping",
    "Flat",
    "Independence",
    "Norm",
    "PatientBatch",
    "PerLayer",
    "SlowPath",
    "SurgeryReport",
    "check_trainable",
    "clipped_sum",
    "clipped_sums_by_group",
    "per_patient_gradients",
    "without_batch_norm",
]
