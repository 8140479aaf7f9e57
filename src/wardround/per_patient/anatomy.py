"""Study of a network before it is trusted, on made-up pictures.

`anatomy_of` studies a network once. It runs the network on two batches of different size, finds the uses of trained
parameters and the modules that need the slow path, and compares the engine's gradients with one-picture backward
passes. The engine never runs a network whose gradients disagree.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from wardround.per_patient.batch import Loss, NotPerPicture, PatientBatch, losses_of
from wardround.per_patient.engine import Anatomy, take
from wardround.per_patient.layers.base import same, squared
from wardround.per_patient.layout import Layout
from wardround.per_patient.recorder import Recorder, Unruled
from wardround.per_patient.rules import RULES
from wardround.per_patient.slow_path import functional_gradients, warn_of_slow_path
from wardround.per_patient.tape import Tape

_PROBES = (2, 3)
"""Two batch sizes: an axis that has both lengths in turn is the batch."""


_ALIKE = 1e-2
"""A picture's loss may differ by this share from batch to batch: rounding, in an ill-conditioned network."""


_KNOWN: "WeakKeyDictionary[nn.Module, dict[object, Anatomy]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class _Subject:
    """A network with its trained parameters, its loss, and examples whose shapes made-up pictures and labels take."""

    model: nn.Module
    layout: Layout
    loss: Loss
    inputs: Tensor
    labels: Tensor

    def made_up(self, size: int) -> PatientBatch:
        """Returns pictures of noise, one each patient; integers are the example's in another order."""
        generator = torch.Generator().manual_seed(size)  # on the processor, wherever the pictures are
        targets = self.labels[:1].expand(size, *self.labels.shape[1:])
        shape, device = self.inputs.shape[1:], self.inputs.device
        if self.inputs.is_floating_point():
            pictures = torch.randn((size, *shape), dtype=self.inputs.dtype, generator=generator).to(device)
        else:
            values = self.inputs[0].reshape(-1)
            orders = [torch.randperm(len(values), generator=generator).to(device) for _ in range(size)]
            pictures = torch.stack([values[order].view(shape) for order in orders])
        return PatientBatch(pictures, targets, torch.arange(size, device=device), size)

    def losses(self, batch: PatientBatch) -> Tensor:
        """Returns the loss of each picture, (picture,)."""
        return losses_of(self.loss, self.model(batch.inputs), batch.labels, len(batch.inputs))


def anatomy_of(model: nn.Module, layout: Layout, loss: Loss, inputs: Tensor, labels: Tensor) -> Anatomy:
    """Returns the findings about a network, studied once for each state of its switches.

    Inputs and labels are read for shapes and (of integers) admissible values only.
    """
    switches = (
        tuple(layout.parameters),
        tuple(module.training for module in model.modules()),
        inputs.dtype, inputs.shape[1:], inputs.device, getattr(loss, "__code__", type(loss)),
    )  # fmt: skip
    known = _KNOWN.setdefault(model, {})
    if switches not in known:
        with torch.autocast(inputs.device.type, enabled=False):  # whose rounding would hide what is compared
            known[switches] = _study(_Subject(model, layout, loss, inputs, labels))
    return known[switches]


def distrusted(model: nn.Module, anatomy: Anatomy) -> Anatomy:
    """Returns new findings, by which the network is taken picture by picture from now on."""
    changed = replace(anatomy, whole=True, vmapped=(), loop=True)
    _KNOWN[model] = {switches: changed for switches in _KNOWN[model]}
    warn_of_slow_path(model, "the whole network (it reads its parameters in another way in batches of some sizes)")
    return changed


def _study(subject: _Subject) -> Anatomy:
    model = subject.model
    resting = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
    for module in resting:
        module.eval()  # masks differ from call to call; what is compared here must not
    state = torch.random.get_rng_state()
    try:
        anatomy = _with_rules(subject, resting)
        if not anatomy.whole:
            kept = _agrees(subject, anatomy)
            if kept is None:
                kept = _agrees_in_double(subject, anatomy)
            if kept is None:
                warn_of_slow_path(
                    model, "the whole network (its gradients did not agree with one-picture backward passes)"
                )
                anatomy = Anatomy(True, (), anatomy.bytes_per_picture)
            else:
                anatomy = replace(anatomy, kept_per_picture=kept)
        return replace(anatomy, loop=anatomy.whole and not _can_be_mapped(subject))
    finally:
        torch.random.set_rng_state(state)
        for module in resting:
            module.train()


def _can_be_mapped(subject: _Subject) -> bool:
    try:
        functional_gradients(subject.model, subject.layout, subject.loss, subject.made_up(2))
    except NotPerPicture:
        raise
    except Exception:  # no batching rule, or code that looks at values: it is then done picture by picture
        return False
    return True


def _with_rules(subject: _Subject, resting: Sequence[nn.Module]) -> Anatomy:
    """Runs both probes until every use has a rule or lies in a module that is run as one use."""
    model = subject.model
    with torch.no_grad(), _taking_pictures(model, _PROBES[0]) as taking:
        model(subject.made_up(_PROBES[0]).inputs)
    vmapped: list[nn.Module] = []
    while True:
        try:
            for size in _PROBES:
                seen = _probe(subject, size, vmapped)
            return Anatomy(False, tuple(vmapped), seen // _PROBES[-1])
        except Unruled as unruled:
            module = _stand_in(model, unruled, taking - set(vmapped), resting)
            if module is None:
                warn_of_slow_path(model, f"the whole network ({unruled})")
                return Anatomy(True, (), 0)
            names = {id(m): name for name, m in model.named_modules()}
            warn_of_slow_path(model, f"module {names[id(module)]!r}, {type(module).__name__} ({unruled})")
            inside = set(module.modules())
            vmapped = [m for m in vmapped if m not in inside] + [module]


def _stand_in(
    model: nn.Module, unruled: Unruled, taking: set[nn.Module], resting: Sequence[nn.Module]
) -> nn.Module | None:
    """Returns the innermost running module that can be run as one use: below the root, without random masks."""
    below = takewhile(lambda module: module is not model, reversed(unruled.modules))
    return next((m for m in below if m in taking and set(m.modules()).isdisjoint(resting)), None)


def _probe(subject: _Subject, size: int, vmapped: Sequence[nn.Module]) -> int:
    """Runs one forward pass on made-up pictures; returns the bytes of all activations."""
    batch = subject.made_up(size)
    tape = Tape(size, same, batch.inputs.device, single=True, materialise=True)
    recorder = Recorder(subject.layout.parameters, size, tape, RULES)
    with torch.enable_grad(), recorder.running(subject.model), recorder.vmapping(vmapped), recorder:
        output = subject.model(batch.inputs)
    losses_of(subject.loss, output, batch.labels, size)
    return recorder.bytes_seen


@contextmanager
def _taking_pictures(model: nn.Module, size: int) -> Iterator[set[nn.Module]]:
    """Notes the modules that take tensors and give one tensor, all with the batch first, at their last call."""
    taking: set[nn.Module] = set()

    def is_batched(value: object) -> bool:
        fits = isinstance(value, Tensor) and value.ndim >= 1 and value.shape[0] == size
        return isinstance(value, Tensor) and fits and value.is_floating_point()

    def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        fits = bool(args) and not kwargs and all(is_batched(value) for value in (*args, output))
        (taking.add if fits else taking.discard)(module)

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
    try:
        yield taking
    finally:
        for handle in handles:
            handle.remove()


def _agrees(subject: _Subject, anatomy: Anatomy) -> int | None:
    """Returns the bytes kept of a picture's gradients if they equal backward passes of one loss each; else None.

    Norms and kept gradients are compared picture by picture, deferred ones by their sum. No gradient is held longer
    than its comparison takes, so that studying a large network needs little more memory than training it. The forward
    pass is that of the whole batch, whose rounding the engine shares. A second comparison, of loss values, tests that
    a picture's loss does not depend on the other pictures.
    """
    size, layout = _PROBES[-1], subject.layout
    batch = subject.made_up(size)
    singles = [
        PatientBatch(x[None], y[None], batch.patient[:1], 1)
        for x, y in zip(batch.inputs, batch.labels, strict=True)
    ]
    try:
        tape = take(subject.model, layout, subject.loss, batch, anatomy, materialise=False)
        apart = torch.cat([subject.losses(single) for single in singles])
    except NotPerPicture:
        raise
    except Exception:  # any error of a module that cannot take one picture
        return None
    if tape is None:
        return None
    with torch.enable_grad():
        together = subject.losses(batch)
        each, total = together.unbind(), together.sum()
    if not torch.allclose(apart, together.detach(), rtol=_ALIKE, atol=_ALIKE):
        return None
    tolerance = 1e-8 if batch.inputs.dtype is torch.float64 else 1e-3
    deferred = {name for use, _, _ in tape.deferred for name in use.names}
    trained = list(layout.parameters.values())
    for i in range(size):
        known = torch.autograd.grad(each[i], trained, allow_unused=True, retain_graph=True)
        norm = _norm(known)
        if not abs(float(tape.norms[0, i].sqrt() - norm)) <= tolerance * float(norm):
            return None
        for name, gradient in zip(layout.parameters, known, strict=True):
            ours = tape.kept[name][i] if name in tape.kept else None
            if name not in deferred and not _is_close(ours, gradient, norm, tolerance):
                return None
        del known, gradient
    sums = dict(zip(layout.parameters, torch.autograd.grad(total, trained, allow_unused=True), strict=True))
    norm = _norm(list(sums.values()))
    for name, ours in _deferred_sums(tape, layout):
        if not _is_close(ours, sums.pop(name), norm, tolerance, spare=True):
            return None
    return sum(gradients.numel() * gradients.element_size() for gradients in tape.kept.values()) // size


def _agrees_in_double(subject: _Subject, anatomy: Anatomy) -> int | None:
    """Repeats the comparison in float64: an ill-conditioned network may disagree with itself in float32.

    Weights are scaled down to 1. Those of a diverged run saturate the loss, whose gradient is then a difference of
    almost equal numbers, in float64 too. Which rule a layer needs does not depend on the weights.
    """
    if anatomy.vmapped or subject.inputs.dtype not in (torch.float32, torch.float64):
        return None
    double = copy.deepcopy(subject.model).double()
    layout = Layout.of(double)
    with torch.no_grad():
        for parameter in layout.parameters.values():
            if parameter.numel():
                parameter.div_(parameter.abs().amax().clamp(min=1.0))
    return _agrees(replace(subject, model=double, layout=layout, inputs=subject.inputs.double()), anatomy)


def _deferred_sums(tape: Tape, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """Yields the gradient sum of each deferred use, by parameter; pictures that were formed are added back."""
    for use, g, saved in tape.deferred:
        into = [torch.zeros_like(layout.parameters[name], requires_grad=False) for name in use.names]
        use.add_weighted_sum(g, saved, into)
        for names, _, gradients in tape.formed:
            if names == use.names:
                for total, gradient in zip(into, gradients, strict=True):
                    total += gradient.sum(0).view_as(total)
        yield from zip(use.names, into, strict=True)


def _norm(gradients: Sequence[Tensor | None]) -> Tensor:
    squares = [squared(gradient[None])[0] for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


def _is_close(
    ours: Tensor | None, known: Tensor | None, norm: Tensor, tolerance: float, *, spare: bool = False
) -> bool:
    """Returns whether two gradients of one parameter agree, relative to its norm and a little of the whole norm.

    `spare`: ours may be overwritten.
    """
    if ours is None or known is None:
        other = ours if known is None else known
        return other is None or not bool(other.any())
    ours = ours.reshape(known.shape)
    difference = _norm([ours.sub_(known) if spare else ours - known])
    return bool(difference <= tolerance * (_norm([known]) + 1e-3 * norm))
