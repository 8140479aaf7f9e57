"""The private parameter set: what an optimizer may move is what is noised, and nothing else holds a copy of it.

deepee computed per-picture gradients in clones of the network that shared their storage with it. An outer module
whose `parameters()` listed the clones handed them to the optimizer, which then added the clipped gradients of
every picture, without noise, to the same weights. Two conditions exclude this whatever the engine: the optimizer
holds exactly the noised parameters, and no other tensor in reach lies in their memory or in that of their
gradients.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from wardround.errors import ModelError
from wardround.models.network import Network


def check_parameter_set(
    parameters: Iterable[torch.Tensor], network: Network | nn.Module, *, outer: nn.Module | None = None
) -> None:
    """Refuses an optimizer whose parameters are not the private set, and tensors that lie in the set's memory.

    Args:
        parameters: what the optimizer moves: `[p for group in optimizer.param_groups for p in group["params"]]`.
        network: its trained parameters that require a gradient are the private set; of a plain module, likewise.
        outer: a module that holds the network among others (a training wrapper), searched for tensors as well:
            parameters, buffers, gradients, and tensors and modules kept as attributes or in lists of these.

    Raises:
        ModelError: a parameter too many, too few or twice; a tensor that shares memory with a parameter of the set
        or
            with its gradient. One parameter under two names is one tensor, and is allowed.
    """
    trained = network.trained if isinstance(network, Network) else network
    private = {id(p): name for name, p in trained.named_parameters() if p.requires_grad}
    _check_membership([id(p) for p in parameters], private)
    whole = network.whole() if isinstance(network, Network) else network
    seen: set[int] = set()
    reach = [*_tensors(whole, "", seen), *(() if outer is None else _tensors(outer, "outer", seen))]
    extents: list[_Extent | None] = []
    for name, tensor in reach:
        name, is_private = private.get(id(tensor), name), id(tensor) in private
        extents.append(_extent(name, tensor, is_private))
        if tensor.is_leaf and tensor.grad is not None:
            extents.append(_extent(f"{name}.grad", tensor.grad, is_private))
    _check_overlap([extent for extent in extents if extent is not None])


def _check_membership(given: list[int], private: dict[int, str]) -> None:
    strangers = sum(key not in private for key in given)
    missing = [name for key, name in private.items() if key not in set(given)]
    if strangers or missing or len(given) != len(set(given)):
        raise ModelError(
            f"An optimizer must hold exactly the {len(private)} parameters that are noised, each once, got "
            f"{len(given)}, of which {strangers} are not noised, while {len(missing)} that are noised are missing"
            f"{f' (the first is {missing[0]!r})' if missing else ''}; "
            "make it anew from the trained part, after every change of what is trained."
        )


@dataclass(frozen=True)
class _Extent:
    """The memory of a tensor, in bytes, its end excluded."""

    name: str
    device: str
    start: int
    end: int
    is_private: bool


def _extent(name: str, tensor: torch.Tensor, is_private: bool) -> _Extent | None:
    if tensor.device.type == "meta" or tensor.layout is not torch.strided or tensor.numel() == 0:
        return None
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return _Extent(name, str(tensor.device), start, start + (last + 1) * tensor.element_size(), is_private)


_REGISTERED = frozenset({"_parameters", "_buffers", "_modules"})


def _tensors(module: nn.Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in reach of a module, each once, with its name."""
    for where, part in module.named_modules(prefix=prefix):
        if id(part) in seen:
            continue
        seen.add(id(part))
        registered = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        others = {name: value for name, value in vars(part).items() if name not in _REGISTERED}
        attributes = ((name, item) for name, value in others.items() for item in _items(value))
        for name, item in (*registered, *attributes):
            if isinstance(item, torch.Tensor) and id(item) not in seen:
                seen.add(id(item))
                yield f"{where}.{name}".lstrip("."), item
            elif isinstance(item, nn.Module):
                yield from _tensors(item, f"{where}.{name}".lstrip("."), seen)


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple | set) else (value,)


def _check_overlap(extents: list[_Extent]) -> None:
    """In order of their starts, a tensor overlaps an earlier one if it starts before the furthest end so far."""
    furthest: dict[tuple[str, bool], _Extent] = {}
    for extent in sorted(extents, key=lambda e: (e.device, e.start)):
        for is_private in (True, False):
            earlier = furthest.get((extent.device, is_private))
            if earlier is None or extent.start >= earlier.end or not (is_private or extent.is_private):
                continue
            raise ModelError(
                f"No other tensor may share memory with a parameter that is noised or with its gradient, got "
                f"{extent.name!r} in the memory of {earlier.name!r}; keep copies (clone) outside of the training "
                "module, since an optimizer that moves them would release gradients without noise."
            )
        key = (extent.device, extent.is_private)
        if key not in furthest or extent.end > furthest[key].end:
            furthest[key] = extent
