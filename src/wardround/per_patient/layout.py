"""Layout of the trained parameters of a network in a vector, and calls of it with other values of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors  # a row in one call: threads wait for the interpreter at each
from torch.func import functional_call

from wardround.errors import ModelError
from wardround.per_patient.guards.kinds import check_kind


@dataclass(frozen=True)
class Layout:
    """Trained parameters of a network, in the order of `named_parameters`, and each one's first place in the vector."""

    parameters: dict[str, nn.Parameter]
    starts: dict[str, int]
    size: int

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """Returns the layout of a network. A large network takes milliseconds: ask once a call.

        Raises:
            ModelError: a kind of network that the engine cannot take; nothing to train.
        """
        check_kind(model)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not parameters:
            raise ModelError("At least one parameter must be trained, got a network that is wholly frozen.")
        *starts, size = accumulate((p.numel() for p in parameters.values()), initial=0)
        return cls(parameters, dict(zip(parameters, starts, strict=True)), size)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of gradients and sums: the network's, single for weights of half precision."""
        own = next(iter(self.parameters.values())).dtype
        return torch.float32 if own in (torch.bfloat16, torch.float16) else own

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(iter(self.parameters.values())).device

    def place(self, name: str) -> slice:
        """Returns a parameter's slice of the vector."""
        return slice(self.starts[name], self.starts[name] + self.parameters[name].numel())

    def places(self, vector: Tensor) -> dict[str, Tensor]:
        """Returns every parameter's part of a vector, as flat views."""
        sizes = [parameter.numel() for parameter in self.parameters.values()]
        return dict(zip(self.parameters, torch.split(vector, sizes), strict=True))

    def flat(self, gradients: Iterable[Tensor | None]) -> Tensor:
        """Returns gradients in the order of the parameters as one vector; None is zero."""
        pairs, dtype = zip(self.parameters.values(), gradients, strict=True), self.dtype
        whole = [torch.zeros_like(p) if g is None else g for p, g in pairs]
        row: Tensor = _flatten_dense_tensors([g if g.dtype == dtype else g.to(dtype) for g in whole])  # type: ignore[no-untyped-call]  # torch's own has no types
        return row

    def sizes_of(self, sections: dict[str, int] | None) -> list[int]:
        """Returns how many numbers each section of the vector has; None is one section."""
        if sections is None:
            return [self.size]
        sizes = [0] * (1 + max(sections.values(), default=-1))
        for name, section in sections.items():
            sizes[section] += self.parameters[name].numel()
        return sizes


def called_with(model: nn.Module, values: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Any:
    """Returns the output of a module with other values of its parameters, by their names in `named_parameters`.

    `functional_call` by itself would put back a wrong value where one module stands under two names.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters() if name in values}
    everywhere = {
        f"{prefix}.{own}" if prefix else own: values[names[id(parameter)]]
        for prefix, module in model.named_modules()
        for own, parameter in module._parameters.items()
        if id(parameter) in names
    }
    return functional_call(model, everywhere, inputs, tie_weights=False)
