"""Recorder of a forward pass: every torch function that reads a trained parameter becomes a `Use` on a `Tape`.

It records functions (a `TorchFunctionMode`), not modules: a module that runs twice, a parameter that two modules share,
a bare parameter and a call of `torch.nn.functional` are all uses. A function without a rule is run with its whole
module under `torch.func.vmap`, exact and slow; a module that cannot be run so leaves the whole network to `torch.func`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from wardround.per_patient.layers.base import Fold, Use
from wardround.per_patient.layout import called_with
from wardround.per_patient.tape import Tape

Rule = Callable[..., Any]
"""([recorder,] *arguments of a torch function) -> its output, or NotImplemented."""


class Unruled(Exception):  # control flow inside the package; it never leaves it
    """Signal that a function without a rule read a trained parameter."""

    def __init__(self, parameter: str, function: str, modules: Sequence[nn.Module]) -> None:
        super().__init__(f"{parameter} is read by {function}")
        self.parameter, self.function, self.modules = parameter, function, tuple(modules)


_MOVES = {torch.flip, Tensor.flip, torch.roll, Tensor.roll}
"""Functions that may move pictures along the first axis; a use in between would be counted for the wrong patient."""


class Recorder(TorchFunctionMode):
    """Torch mode that sends every function that reads a trained parameter to its rule, which writes to the tape."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        num_pictures: int,
        tape: Tape,
        rules: Mapping[Any, Rule],
        faster: Mapping[Any, Rule],
    ) -> None:
        super().__init__()
        self.num_pictures, self.tape = num_pictures, tape
        self._rules, self._faster = rules, faster
        self.bytes_seen = 0
        self._names = {id(p): name for name, p in parameters.items()}
        self._paused = False
        self._running: list[nn.Module] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one torch function; torch calls this for every function while the mode is on."""
        kwargs = kwargs or {}
        if func in _MOVES and not self._paused and self._moves_pictures(args, kwargs):
            raise Unruled("the order of the pictures", func.__name__, self._running)
        read = None if self._paused else self._first_trained(args, kwargs)
        if read is None:
            faster = None if self._paused else self._faster.get(func)
            result = NotImplemented if faster is None else faster(*args, **kwargs)
            return self._weighed(func(*args, **kwargs) if result is NotImplemented else result)
        rule = self._rules.get(func)
        if rule is not None:
            result = rule(self, *args, **kwargs)
            if result is not NotImplemented:
                return self._weighed(result)
        result = func(*args, **kwargs)
        if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(result)):
            return result  # a shape, a comparison, or a value cut from the graph: no gradient flows
        raise Unruled(self._names[id(read)], getattr(func, "__name__", str(func)), self._running)

    def use(self, use: Use, *inputs: Tensor) -> Tensor:
        """Returns the output of a use, recorded when one of its parameters is trained."""
        return self.tape.apply(use, *inputs)

    def is_trained(self, value: Any) -> bool:
        """Returns whether a value is one of the trained parameters."""
        return id(value) in self._names  # they are alive: no other object has the same number

    def is_batched(self, value: Tensor) -> bool:
        """Returns whether the first axis of a tensor has the length of the batch."""
        return value.ndim >= 1 and value.shape[0] == self.num_pictures

    def names(self, *parameters: Tensor | None) -> tuple[str, ...]:
        """Returns the names of the trained ones among some parameters."""
        return tuple(self._names[id(p)] for p in parameters if id(p) in self._names)

    def trained(
        self, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[tuple[str, ...], Any, Tensor | None, tuple[bool, bool]]:
        """Returns names, values and which of the two are trained: the first fields of most uses.

        A weight that is itself computed from trained parameters cannot be taken as a constant.
        """
        of_weight, of_bias = self._names.get(id(weight)), self._names.get(id(bias))
        for value, name in ((weight, of_weight), (bias, of_bias)):
            if name is None and value is not None and value.requires_grad:
                raise Unruled("a parameter", "a function that computes a weight", self._running)
        names = tuple(name for name in (of_weight, of_bias) if name is not None)
        values = [None if value is None else value.detach() for value in (weight, bias)]
        return names, values[0], values[1], (of_weight is not None, of_bias is not None)

    @contextmanager
    def running(self, model: nn.Module) -> Iterator[None]:
        """Keeps the stack of running modules, so that a use without a rule can be ascribed to the innermost one."""
        entering = [m.register_forward_pre_hook(lambda m, _: self._running.append(m)) for m in model.modules()]
        leaving = [m.register_forward_hook(lambda *_: self._left()) for m in model.modules()]
        try:
            yield
        finally:
            for handle in (*entering, *leaving):
                handle.remove()

    @contextmanager
    def vmapping(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Runs some modules as one use each, under `torch.func.vmap`."""
        for module in modules:
            module.forward = partial(self._whole, module, module.forward)
        try:
            yield
        finally:
            for module in modules:
                del module.forward

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspends recording."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _whole(self, module: nn.Module, forward: Any, *inputs: Any) -> Any:
        """Replaces a module's forward: one use for all functions inside."""
        if self._paused:
            return forward(*inputs)
        trained = {name: p for name, p in module.named_parameters() if self.is_trained(p)}
        return self.tape.apply(ModuleUse(self.names(*trained.values()), self, module, list(trained)), *inputs)

    def _left(self) -> None:
        self._running.pop()

    def _moves_pictures(self, args: Any, kwargs: Any) -> bool:
        x, axes = args[0], tree_leaves((args[1:], kwargs))
        return self.is_batched(x) and any(axis in (0, -x.ndim) for axis in axes)

    def _first_trained(self, args: Any, kwargs: Any) -> Tensor | None:
        for leaf in (*args, *kwargs.values()):
            if id(leaf) in self._names:
                trained: Tensor = leaf
                return trained
            if isinstance(leaf, (list, tuple)):
                found = self._first_trained(leaf, {})
                if found is not None:
                    return found
        return None

    def _weighed(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            self.bytes_seen += result.numel() * result.element_size()
        return result


class ModuleUse(Use):
    """Use of a whole module, its gradients by `vmap` over one-picture vector-Jacobian products."""

    def __init__(
        self, names: tuple[str, ...], recorder: Recorder, module: nn.Module, inner_names: list[str]
    ) -> None:
        self.names = names
        self._recorder, self._module, self._inner_names = recorder, module, inner_names
        self._found: tuple[tuple[Tensor, ...], dict[str, Tensor]] | None = None

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        with self._recorder.paused():
            output: Tensor = self._module(*inputs)
        return output, inputs

    def _gradients(self, g: Tensor, saved: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        if self._found is not None:
            return self._found
        parameters = {name: p.detach() for name, p in self._module.named_parameters()}
        trained = {name: parameters.pop(name) for name in self._inner_names}

        def one(values: dict[str, Tensor], inputs: tuple[Tensor, ...], g: Tensor) -> Any:
            def forward(inputs: tuple[Tensor, ...], values: dict[str, Tensor]) -> Tensor:
                batch = tuple(value[None] for value in inputs)
                output: Tensor = called_with(self._module, {**parameters, **values}, batch)
                return output[0]

            pulled: Any = vjp(forward, inputs, values)
            return pulled[1](g)

        with self._recorder.paused():
            self._found = vmap(one, in_dims=(None, 0, 0))(trained, tuple(saved), g)
        return self._found

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        inputs, _ = self._gradients(g, saved)
        self._found = None
        return inputs

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        _, values = self._gradients(g, saved)
        return [fold(values[name]) for name in self._inner_names]
