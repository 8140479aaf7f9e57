"""A GPU that is not there: tensors that say `lazy:0`, computed on the processor, which mix with no others.

Torch's own arrangement for fake tensors (`torch._subclasses.fake_tensor`) with real numbers: a wrapper on the `meta`
device whose kernels run on the tensor inside. As on a GPU, a kernel that is given tensors of both devices is refused,
autocast follows the device, and products round their factors to TF32 where the switches allow it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

GPU = torch.device("lazy", 0)
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "addmv_", "dot"}
_CONVOLUTIONS = {"convolution", "convolution_backward"}
_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_"}  # a GPU takes indices of the processor
_COPIES = {"copy_", "_to_copy"}


class There(torch.Tensor):
    """A tensor of the emulated GPU; `near` holds its numbers."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near):
        with torch._C._DisableTorchDispatch():
            shape = torch.empty_strided(near.size(), near.stride(), dtype=near.dtype, device="meta")
            made = torch.Tensor._make_subclass(
                cls, shape, near.requires_grad, dispatch_device=True, device_for_backend_keys=GPU
            )
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self):  # type: ignore[override]
        return GPU

    def tolist(self):
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return GPU
        with Emulation():
            return func(*args, **(kwargs or {}))


class Emulation(TorchDispatchMode):
    """Runs the kernels of `There` on the numbers inside."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            return GPU
        name = func._schema.name.removeprefix("aten::")
        given = [
            value for value in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)
        ]
        there = [value for value in given if isinstance(value, There)]
        to = kwargs.get("device")
        if to is not None:
            kwargs["device"] = torch.device("cpu")
        if not there and (to is None or torch.device(to).type == "cpu"):
            return func(*args, **kwargs)
        strangers = [value for value in given if not isinstance(value, There) and value.ndim > 0]
        is_free = name in _COPIES or (name in _INDICES and isinstance(args[0], There))
        if strangers and there and not is_free:
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device")
        owners = {id(value.near): value for value in there}
        near = tree_map(lambda value: value.near if isinstance(value, There) else value, (args, kwargs))
        found = func(*_rounded(name, near[0]), **near[1])
        if name == "_local_scalar_dense" or (to is not None and torch.device(to).type == "cpu"):
            return found
        if name == "copy_" and not isinstance(args[0], There):
            return args[0]

        def back(value):
            if not isinstance(value, torch.Tensor):
                return value
            return owners[id(value)] if id(value) in owners else There(value)

        return tree_map(back, found)


def _rounded(name, args):
    """Returns the factors of a product as the switches let a GPU round them."""
    backends: Any = torch.backends
    is_product, is_convolution = name in _PRODUCTS, name in _CONVOLUTIONS
    switch = backends.cudnn.conv if is_convolution else backends.cuda.matmul
    if not (is_product or is_convolution) or switch.fp32_precision != "tf32":
        return args
    return [coarse(value) if isinstance(value, torch.Tensor) else value for value in args]


def coarse(values):
    """Returns float32 values with the 10 fraction bits of TF32, to nearest."""
    if values.dtype is not torch.float32:
        return values
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@contextmanager
def emulated_gpu(monkeypatch) -> Iterator[torch.device]:
    """Puts a GPU without bfloat16 into this process for some lines."""
    from wardround.per_patient import microbatches, process
    from wardround.training import device

    monkeypatch.setattr(device, "GPU", GPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(process, "_SWITCHES", process._switches())
    knows = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *kind: kind != (GPU.type,) and knows(*kind))
    monkeypatch.setattr(microbatches, "_plain", lambda values: values)
    with Emulation():
        yield GPU
