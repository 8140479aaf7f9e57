"""The device that a network's gradients and answers are computed on, and what stays on the processor.

| on the device                                   | on the processor, for every device                          |
|-------------------------------------------------|-------------------------------------------------------------|
| forward and backward passes of trained layers   | encodings, augmentation, draws of patients, keys of dropout |
| norms, clip factors and sums of their gradients | linear heads on kept inputs; sums under masks               |
| logits of an evaluation                         | noise, rounding to a grid, ledger, figures                  |

Released: nothing. A device computes the clipped sum of `wardround.per_patient.clipped_sum`, whose sensitivity to one
patient is C for any order of additions (`wardround.per_patient.margins`), atomic additions of a GPU included. Noise is
drawn on the processor from the cryptographic stream, and added after the sum was copied there: it is the same on every
device, and no device's own generator takes part.

A device changes the last bits of a sum, and a GPU gives others in each run. What promises bits therefore keeps to the
processor: a seed, which repeats a run, and sums under masks, whose sensitivity is in whole numbers and needs a
patient's contribution that no other patient changes by a bit.

Mixed precision: on a GPU activations of training are bfloat16 (autocast). Per-patient gradients, norms and sums are
formed from them in float32, and evaluation is in float32.
"""

from contextlib import AbstractContextManager, nullcontext

import torch

from wardround.errors import StudyError

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


def device_for(asked: str, processor_for: str | None) -> torch.device:
    """Returns the device that a study asks for.

    Args:
        asked: "auto", "cpu" or "cuda", as `[performance] device` has it.
        processor_for: what of the study keeps to the processor, in words; None where nothing does.

    Raises:
        StudyError: a GPU is asked for that torch does not see, or for work that keeps to the processor; code
            `study-device`.
    """
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and processor_for is not None:
        raise StudyError(
            f'`[performance] device` must be "auto" or "cpu" with {processor_for}, which keeps to the processor, got '
            '"cuda". Change it.',
            code="study-device",
        )
    if asked == "cuda" and not has_gpu:
        raise StudyError(
            '`[performance] device` must be a device that torch sees on this machine, got "cuda". Set "auto" or "cpu", '
            "or install a build of torch for this GPU.",
            code="study-device",
        )
    return GPU if asked != "cpu" and has_gpu and processor_for is None else CPU


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """Returns the context of a training step: activations of bfloat16 on a GPU that has them, else of float32."""
    if device == CPU or not torch.cuda.is_bf16_supported(including_emulation=False):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
