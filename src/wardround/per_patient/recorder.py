"""Watching a forward pass: every function that reads a trained parameter becomes a `Use` on a `Tape`.

Functions are watched, not modules: a module that runs twice, a parameter that two modules share, a bare parameter
and a call of `torch.nn.functional` are all just uses. What no rule knows is run by its module under
`torch.func.vmap`, exact and slow; what even that cannot do is left to `torch.func` for the whole network.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from wardround.per_patient.layers import Fold, Room, Use, in_full_precision, squared, widened
from wardround.per_patient.rules import RULES


class Unruled(Exception):  # control flow inside the engine; nobody outside sees it
    """A trained parameter was read by a function that no rule knows."""

    def __init__(self, parameter: str, function: str, modules: Sequence[nn.Module]) -> None:
        super().__init__(f"{parameter} is read by {function}")
        self.parameter, self.function, self.modules = parameter, function, tuple(modules)


_MOST_CANCELLED = 2.0**-10
"""A squared norm below this share of its terms is not trusted to rounding."""


_FEW = 1 << 12
"""Per-patient gradients up to this many numbers are put side by side, so that they are looked at in one go."""


class Tape:
    """What the backward pass leaves of each use.

    Args:
        num_patients: patients in the piece.
        sections: section of each parameter whose norms are taken apart; None takes the norm of all.
        fold: rows of pictures to rows of patients.
        single: no patient has two pictures.
        materialise: form every per-patient gradient, and take no norms.
        room: memory for large per-patient gradients, used where pictures and patients are the same.

    Attributes:
        norms: squared norm of each section of each patient's gradient so far, (section, patient), float64.
        kept: gradient of each patient by parameter, (patient, *shape), where it was formed.
        few: names of the small ones among those, and their gradients side by side, (patient, number).
        deferred: uses whose norm alone was taken: (use, output gradient, saved tensors).
        formed: gradients of single pictures that were left out of those: (parameters, pictures, gradients).
    """

    def __init__(
        self,
        num_patients: int,
        fold: Fold,
        device: torch.device,
        *,
        single: bool,
        materialise: bool,
        sections: dict[str, int] | None = None,
        room: Room | None = None,
    ) -> None:
        count = 1 if sections is None else 1 + max(sections.values(), default=0)
        self.norms = torch.zeros(count, num_patients, dtype=torch.float64, device=device)
        self.kept: dict[str, Tensor] = {}
        self.few: tuple[list[str], Tensor] | None = None
        self.deferred: list[tuple[Use, Tensor, tuple[Tensor, ...]]] = []
        self.formed: list[tuple[tuple[str, ...], Tensor, list[Tensor]]] = []
        self.reads: Counter[str] = Counter()
        # Makes every use part of the graph, the first layer's too.
        self.anchor = torch.zeros((), requires_grad=True, device=device)
        self._sections = sections
        self._fold, self._single, self._materialise, self._room = fold, single, materialise, room

    def apply(self, use: Use, *inputs: Tensor) -> Tensor:
        """The use's output, in the graph."""
        self.reads.update(use.names)
        output: Tensor = _Watched.apply(self, use, self.anchor, *inputs)  # type: ignore[no-untyped-call]
        return output

    def take(self, use: Use, g: Tensor, saved: tuple[Tensor, ...]) -> None:
        """Called once for each use, in the backward pass; what autocast made coarse is widened first."""
        g, saved = widened(g), tuple(widened(tensor) for tensor in saved)
        read_once = all(self.reads[name] == 1 for name in use.names)
        together = len({self._section(name) for name in use.names}) == 1
        if read_once and together and not self._materialise and use.prefers_norms(g, saved, single=self._single):
            self._defer(use, g, saved)
            return
        room = self._room if read_once else None
        for name, gradient in zip(use.names, use.per_patient(g, saved, self._fold, room), strict=True):
            known = self.kept.get(name)
            self.kept[name] = gradient if known is None else known + gradient.reshape(known.shape)
            if self.reads[name] == 1 and not self._materialise and not self._is_small(gradient):
                self.norms[self._section(name)] += squared(gradient)  # while it is in the processor's cache

    def _section(self, name: str) -> int:
        return 0 if self._sections is None else self._sections[name]

    def _is_small(self, gradient: Tensor) -> bool:
        return gradient.numel() <= _FEW * len(gradient)

    def _defer(self, use: Use, g: Tensor, saved: tuple[Tensor, ...]) -> None:
        """Takes the norms alone; the sum is formed later, when the clipping factors are known.

        Norm and sum are then two computations with roundings of their own, each relative to the terms that are
        added up. As long as little of those cancels, both are right to a few parts in 2^13. Where more cancels
        (crafted pictures), the gradient is formed after all, and what is clipped is what is added.
        """
        norms, terms = use.squared_norms(g, saved)
        cancelled = torch.nonzero(norms < _MOST_CANCELLED * terms)[:, 0]
        if len(cancelled):
            rows = use.per_patient(g[cancelled], [t[cancelled] for t in saved], _as_it_is)
            self.formed.append((use.names, cancelled, rows))
            norms[cancelled] = torch.stack([squared(row) for row in rows]).sum(0)
            g, saved = _without(g, cancelled), tuple(_without(t, cancelled) for t in saved)
        self.norms[self._section(use.names[0])] += self._fold(norms)
        self.deferred.append((use, g, saved))

    def finish(self) -> None:
        """Norms of the small gradients, and of parameters read more than once, whose uses had to be added up."""
        if self._materialise:
            return
        small = [name for name, gradient in self.kept.items() if self._is_small(gradient)]
        if small:
            side_by_side = torch.cat([self.kept[name].reshape(self.norms.shape[1], -1) for name in small], dim=1)
            self.few = (small, side_by_side)
            if self._sections is None:
                self.norms[0] += squared(side_by_side)
        for name, gradient in self.kept.items():
            is_new = self._sections is not None if self._is_small(gradient) else self.reads[name] > 1
            if is_new:
                self.norms[self._section(name)] += squared(gradient)


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


def _without(values: Tensor, pictures: Tensor) -> Tensor:
    return values.index_fill(0, pictures, 0)


class _Watched(torch.autograd.Function):
    """Runs a use without its parameters in the graph; its backward pass tells the tape."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, use: Use, anchor: Tensor, *inputs: Tensor) -> Tensor:
        output, saved = use.run(*inputs)
        ctx.tape, ctx.use = tape, use
        ctx.save_for_backward(*saved)
        return output

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor) -> Any:
        (g,) = output_gradients
        # Detached, or the tape would hold the graph whose nodes hold the tape: a ring that is never collected.
        saved = tuple(tensor.detach() for tensor in ctx.saved_tensors)
        with torch.no_grad(), in_full_precision(g.device):
            ctx.tape.take(ctx.use, g, saved)
            needed = ctx.needs_input_grad[3:]
            inputs = ctx.use.input_gradients(g, *saved) if any(needed) else (None,) * len(needed)
        return (None, None, None, *inputs)


_MOVES = {torch.flip, Tensor.flip, torch.roll, Tensor.roll}
"""Functions that may put one picture in another's place; a use in between would be booked to the wrong patient."""


class Watch(TorchFunctionMode):
    """Sends every function that reads a trained parameter to its rule.

    Args:
        parameters: those that are watched, by name.
        num_pictures: length of the first axis of everything that is batched.
        tape: where uses are written down.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], num_pictures: int, tape: Tape) -> None:
        super().__init__()
        self.num_pictures, self.tape = num_pictures, tape
        self.bytes_seen = 0
        self._names = {id(p): name for name, p in parameters.items()}
        self._paused = False
        self._running: list[nn.Module] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every function while the watch is on."""
        kwargs = kwargs or {}
        if func in _MOVES and not self._paused and self._moves_pictures(args, kwargs):
            raise Unruled("the order of the pictures", func.__name__, self._running)
        read = None if self._paused else self._first_trained(args, kwargs)
        if read is None:
            return self._weighed(func(*args, **kwargs))
        rule = RULES.get(func)
        if rule is not None:
            result = rule(self, *args, **kwargs)
            if result is not NotImplemented:
                return self._weighed(result)
        result = func(*args, **kwargs)
        if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(result)):
            return result  # a shape, a comparison, or a value cut from the graph: no gradient flows
        raise Unruled(self._names[id(read)], getattr(func, "__name__", str(func)), self._running)

    def use(self, use: Use, *inputs: Tensor) -> Tensor:
        """The output of a use, written down when one of its parameters is trained."""
        return self.tape.apply(use, *inputs)

    def is_trained(self, value: Any) -> bool:
        """Whether a value is one of the watched parameters."""
        return isinstance(value, nn.Parameter) and id(value) in self._names

    def is_batched(self, value: Tensor) -> bool:
        """Whether the first axis of a tensor has the length of the batch."""
        return value.ndim >= 1 and value.shape[0] == self.num_pictures

    def names(self, *parameters: Tensor | None) -> tuple[str, ...]:
        """Names of the watched ones among some parameters."""
        return tuple(self._names[id(p)] for p in parameters if p is not None and self.is_trained(p))

    def trained(
        self, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[tuple[str, ...], Any, Tensor | None, tuple[bool, bool]]:
        """Names, values and which of the two are trained: the first fields of most uses.

        A weight that is itself computed from trained parameters cannot be taken as a constant.
        """
        for value in (weight, bias):
            if value is not None and value.requires_grad and not self.is_trained(value):
                raise Unruled("a parameter", "a function that computes a weight", self._running)
        values = [None if value is None else value.detach() for value in (weight, bias)]
        return self.names(weight, bias), values[0], values[1], (self.is_trained(weight), self.is_trained(bias))

    @contextmanager
    def running(self, model: nn.Module) -> Iterator[None]:
        """Keeps the stack of running modules, so that an unknown use can be blamed on the innermost one."""
        handles = []
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(self._entered))
            handles.append(module.register_forward_hook(self._left))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def alone(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Runs some modules as one use each, whatever they do inside."""
        for module in modules:
            module.forward = _Whole(self, module, module.forward)
        try:
            yield
        finally:
            for module in modules:
                del module.forward

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Lets functions through unseen."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    @property
    def is_paused(self) -> bool:
        """Whether functions are let through unseen."""
        return self._paused

    def _entered(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._running.append(module)

    def _left(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._running.pop()

    def _moves_pictures(self, args: Any, kwargs: Any) -> bool:
        x, axes = args[0], tree_leaves((args[1:], kwargs))
        return self.is_batched(x) and any(axis in (0, -x.ndim) for axis in axes)

    def _first_trained(self, args: Any, kwargs: Any) -> Tensor | None:
        for leaf in (*args, *kwargs.values()):
            if isinstance(leaf, nn.Parameter):
                if id(leaf) in self._names:
                    return leaf
            elif isinstance(leaf, (list, tuple)):
                found = self._first_trained(leaf, {})
                if found is not None:
                    return found
        return None

    def _weighed(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            self.bytes_seen += result.numel() * result.element_size()
        return result


class _Whole:
    """Stands in for a module's forward: one use for all that happens inside."""

    def __init__(self, watch: Watch, module: nn.Module, forward: Any) -> None:
        self._watch, self._module, self._forward = watch, module, forward

    def __call__(self, *inputs: Any) -> Any:
        if self._watch.is_paused:
            return self._forward(*inputs)
        names = {id(p): name for name, p in self._module.named_parameters() if self._watch.is_trained(p)}
        owned = [p for p in self._module.parameters() if id(p) in names]
        use = ModuleUse(self._watch.names(*owned), self._watch, self._module, [names[id(p)] for p in owned])
        return self._watch.tape.apply(use, *inputs)


class ModuleUse(Use):
    """A whole module as one use, its gradients by `vmap` of one-picture vector-Jacobian products."""

    def __init__(self, names: tuple[str, ...], watch: Watch, module: nn.Module, inner_names: list[str]) -> None:
        self.names = names
        self._watch, self._module, self._inner_names = watch, module, inner_names
        self._found: tuple[tuple[Tensor, ...], dict[str, Tensor]] | None = None

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        with self._watch.paused():
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
                output: Tensor = functional_call(self._module, {**parameters, **values}, batch)
                return output[0]

            pulled: Any = vjp(forward, inputs, values)
            return pulled[1](g)

        with self._watch.paused():
            self._found = vmap(one, in_dims=(None, 0, 0))(trained, tuple(saved), g)
        return self._found

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        inputs, _ = self._gradients(g, saved)
        self._found = None
        return inputs

    def per_patient(
        self, g: Tensor, saved: Sequence[Tensor], fold: Fold, room: Room | None = None
    ) -> list[Tensor]:
        """See `Use`."""
        _, values = self._gradients(g, saved)
        return [fold(values[name]) for name in self._inner_names]
