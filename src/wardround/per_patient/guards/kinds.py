"""Kinds of networks that per-patient gradients cannot be taken of, each refused with one sentence."""

from weakref import WeakSet

import torch
from torch import nn

from wardround.errors import ModelError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

_FINE: "WeakSet[nn.Module]" = WeakSet()


def check_kind(model: nn.Module) -> None:
    """Refuses a network of a kind that the engine cannot take, once for each network.

    Raises:
        ModelError: codes `model-inference`, `model-compiled`, `model-scripted`, `model-lazy`, `model-meta`,
            `model-complex`.
    """
    if torch.is_inference_mode_enabled():
        raise ModelError(
            "Gradients must be taken outside torch.inference_mode(), which records none; leave it first.",
            code="model-inference",
        )
    if model in _FINE:
        return
    for name, module in model.named_modules():
        _check_module(f"{name!r}" if name else "the network itself", module)
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ModelError(
                f"Every parameter must have its size, got the lazy {name!r}; run the network on one picture first.",
                code="model-lazy",
            )
        if parameter.is_meta:
            raise ModelError(
                f"Every parameter must have its values, got {name!r} on the meta device; build the network on the "
                "processor.",
                code="model-meta",
            )
        if parameter.is_complex():
            raise ModelError(
                f"Every parameter must be real, got {name!r} of {parameter.dtype}. Hold its real and imaginary parts "
                "in a real parameter and use torch.view_as_complex in the forward pass.",
                code="model-complex",
            )
        if parameter.is_inference():
            raise ModelError(
                f"Every parameter must be made outside torch.inference_mode(), got {name!r}; build the network anew.",
                code="model-inference",
            )
    _FINE.add(model)


def check_layers(model: nn.Module) -> None:
    """Refuses norms that compute statistics of a batch, or keep them.

    Raises:
        ModelError: the layer and its buffer, by name; code `model-buffer`.
    """
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and module.training:
            kept = (
                ""
                if module.running_mean is None
                else f", and its {_inside(name)}running_mean would be released without noise"
            )
            raise ModelError(
                f"Every layer must treat each patient alone, got {type(module).__name__} at {name!r} in training "
                "mode. It normalises a picture by the other pictures in the batch, so clipping one patient's "
                f"gradient bounds nothing{kept}. "
                "Use GroupNorm, or freeze the layer with .eval().",
                code="model-buffer",
            )
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise ModelError(
                f"Every layer must forget the pictures it saw, got {type(module).__name__} at {name!r} with "
                f"{_inside(name)}running_mean, which would be released without noise. Set "
                "track_running_stats=False.",
                code="model-buffer",
            )


def _inside(name: str) -> str:
    return f"{name}." if name else ""


def _check_module(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"The network must be an ordinary module, got {name} scripted or traced by torch.jit; pass the module "
            "that it was made from.",
            code="model-scripted",
        )
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        raise ModelError(
            f"The network must be an ordinary module, got {name} compiled by torch.compile; pass the module that it "
            "was made from.",
            code="model-compiled",
        )


def refuse_reentrant(error: RuntimeError) -> None:
    """Raises the sentence for a checkpoint with `use_reentrant=True`, if that is what torch's error says.

    Raises:
        ModelError: code `model-checkpoint`.
    """
    if "use_reentrant" in str(error):
        raise ModelError(
            "torch.utils.checkpoint must be called with use_reentrant=False, got True: its own backward pass would "
            "add up the gradients of all patients.",
            code="model-checkpoint",
        ) from error
