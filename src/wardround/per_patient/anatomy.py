"""Study of a network before it is trusted, on made-up pictures.

`anatomy_of` studies a network once. It runs the network on two batches of different size, finds the uses of trained
parameters and the modules that need the slow path, and compares the engine's gradients with one-picture backward
passes. The engine never runs a network whose gradients disagree.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from itertools import takewhile
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from wardround.errors import ModelError, PrivacyError
from wardround.per_patient.batch import Loss, NotPerPicture, losses_of
from wardround.per_patient.engine import Anatomy, take
from wardround.per_patient.guards.draws import Draws, Unkeyed
from wardround.per_patient.guards.kinds import check_layers
from wardround.per_patient.guards.state import modules_of, unchanged, without_foreign_draws
from wardround.per_patient.guards.subject import Subject
from wardround.per_patient.layers.base import in_full_precision, same, squared
from wardround.per_patient.layout import Layout
from wardround.per_patient.process import outside_the_heap
from wardround.per_patient.recorder import Recorder, Unruled
from wardround.per_patient.rules import FASTER, RULES
from wardround.per_patient.slow_path import functional_gradients, warn_of_slow_path
from wardround.per_patient.tape import Tape

_PROBES = (2, 3)
"""Two batch sizes: an axis that has both lengths in turn is the batch."""


_ALIKE = 1e-3
"""Share of a picture's gradient that may differ from the one alone in single precision; above, double decides."""

_KNOWN: "WeakKeyDictionary[nn.Module, dict[object, Anatomy]]" = WeakKeyDictionary()


class Independence(StrEnum):
    """Reason why one patient's gradient does not depend on the others in the batch."""

    CHECKED = "checked"
    """Checked: on made-up pictures first, then on real batches (`guards.company`). A check sees what it tries."""
    BY_CONSTRUCTION = "by-construction"
    """By construction: the network never sees two pictures. It runs under `torch.func.vmap`, or on one at a time."""


Reason = Independence | Literal["checked", "by-construction"]


def independence_of(reason: Reason) -> Independence:
    """Returns the reason as a value.

    Raises:
        PrivacyError: another word; code `privacy-independence`.
    """
    try:
        return Independence(reason)
    except ValueError as error:
        raise PrivacyError(
            f'`independence` must be "checked" or "by-construction", got {reason!r}. Take the second for a network '
            "that is not known.",
            code="privacy-independence",
        ) from error


def anatomy_of(
    model: nn.Module,
    layout: Layout,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    independence: Independence = Independence.CHECKED,
) -> Anatomy:
    """Returns the findings about a network, studied once for each state of its switches.

    Inputs and labels are read for shapes and (of integers) admissible values only.

    Raises:
        ModelError: the network changes itself in the forward pass, keeps something of earlier pictures, or draws
            random numbers outside torch.
    """
    switches = (
        independence, tuple(layout.parameters),
        tuple(module.training for module in modules_of(model)),
        inputs.dtype, inputs.shape[1:], inputs.device, getattr(loss, "__code__", type(loss)),
    )  # fmt: skip
    known = _KNOWN.setdefault(model, {})
    if switches not in known:
        # Without autocast, whose rounding would hide what is compared.
        with (
            outside_the_heap(), in_full_precision(inputs.device),
            unchanged(model, values=True), without_foreign_draws(),
        ):  # fmt: skip
            found = _study(Subject(model, layout, loss, inputs, labels), independence)
        known[switches] = found  # not inside: a network that is refused is studied again
    return known[switches]


def now_known(model: nn.Module, before: Anatomy, after: Anatomy) -> Anatomy:
    """Replaces findings about a network, and returns the new ones."""
    _KNOWN[model] = {switches: after if found is before else found for switches, found in _KNOWN[model].items()}
    return after


def take_over(model: nn.Module, copies: Sequence[nn.Module]) -> bool:
    """Takes findings about a network over for copies of it; returns whether there were any.

    Those that name modules are not taken over: a copy has others.
    """
    found = {switches: anatomy for switches, anatomy in _KNOWN.get(model, {}).items() if not anatomy.vmapped}
    for each in copies:
        _KNOWN.setdefault(each, {}).update(found)
    return bool(found)


def distrusted(model: nn.Module, anatomy: Anatomy, why: str) -> Anatomy:
    """Returns new findings, by which the network is taken picture by picture from now on."""
    warn_of_slow_path(model, f"the whole network ({why})")
    return now_known(model, anatomy, replace(anatomy, whole=True, vmapped=(), loop=True))


def _study(subject: Subject, independence: Independence) -> Anatomy:
    model = subject.model
    check_layers(model)
    draws = _check_repeats(subject)
    anatomy = Anatomy(True, (), 0, draws=draws)
    if independence is Independence.CHECKED:
        anatomy = replace(_with_rules(subject), draws=draws)
    if not anatomy.whole:
        found = _agrees(subject, anatomy) or _agrees_in_double(subject, anatomy)
        if found is None:
            warn_of_slow_path(
                model, "the whole network (its gradients did not agree with one-picture backward passes)"
            )
            anatomy = Anatomy(True, (), anatomy.bytes_per_picture, draws=draws)
        else:
            anatomy = found
    return replace(anatomy, loop=anatomy.whole and not _can_be_mapped(subject))


def _check_repeats(subject: Subject) -> bool:
    """Refuses a network to which a picture is another one after other pictures; returns whether it draws.

    Gradient and output are compared: where the loss is saturated the gradient vanishes for all draws.

    Raises:
        ModelError: code `model-state`.
    """
    before = subject.alone(1, 0)
    draws = before.has_drawn
    for size in _PROBES:
        for place in range(size):
            one = subject.made_up(size, place)
            with torch.no_grad(), subject.drawing([place]) as mode:
                subject.losses(one)
            draws = draws or mode.count > 0
    after = subject.alone(1, 0)
    if not (_is_same(after.gradient, before.gradient) and _is_same([after.output], [before.output])):
        raise ModelError(
            "The network's output and gradient of a picture must be the same at each call, and this one's are not "
            "after other pictures: it keeps something of them, or draws random numbers outside torch. Remove that.",
            code="model-state",
        )
    return draws


def _is_same(values: Sequence[Tensor | None], known: Sequence[Tensor | None]) -> bool:
    """Returns whether two calls gave the same but for rounding; where they are not finite, nothing is said."""
    norm = _norm(known)
    return not norm.isfinite() or all(_is_close(a, b, norm, _ALIKE) for a, b in zip(values, known, strict=True))


def _can_be_mapped(subject: Subject) -> bool:
    batch = subject.made_up(2)
    try:
        with subject.drawing(range(2)):
            functional_gradients(subject.model, subject.layout, subject.loss, batch)
    except NotPerPicture:
        raise
    except Exception:  # no batching rule, or code that looks at values: it is then done picture by picture
        return False
    return True


def _with_rules(subject: Subject) -> Anatomy:
    """Runs both probes until every use has a rule or lies in a module that is run as one use."""
    model, batch = subject.model, subject.made_up(_PROBES[0])
    try:
        with (
            torch.no_grad(),
            subject.drawing(range(_PROBES[0])) as mode,
            _taking_pictures(model, _PROBES[0], mode) as taking,
        ):
            model(batch.inputs)
    except Unkeyed as unkeyed:
        warn_of_slow_path(model, f"the whole network ({unkeyed})")
        return Anatomy(True, (), 0)
    vmapped: list[nn.Module] = []
    while True:
        try:
            for size in _PROBES:
                seen = _probe(subject, size, vmapped)
            return Anatomy(False, tuple(vmapped), seen // _PROBES[-1])
        except Unkeyed as unkeyed:
            warn_of_slow_path(model, f"the whole network ({unkeyed})")
            return Anatomy(True, (), 0)
        except Unruled as unruled:
            module = _stand_in(model, unruled, taking - set(vmapped))
            if module is None:
                warn_of_slow_path(model, f"the whole network ({unruled})")
                return Anatomy(True, (), 0)
            names = {id(m): name for name, m in model.named_modules()}
            warn_of_slow_path(model, f"module {names[id(module)]!r}, {type(module).__name__} ({unruled})")
            inside = set(module.modules())
            vmapped = [m for m in vmapped if m not in inside] + [module]


def _stand_in(model: nn.Module, unruled: Unruled, taking: set[nn.Module]) -> nn.Module | None:
    """Returns the innermost running module that can be run as one use, below the root."""
    below = takewhile(lambda module: module is not model, reversed(unruled.modules))
    return next((m for m in below if m in taking), None)


def _probe(subject: Subject, size: int, vmapped: Sequence[nn.Module]) -> int:
    """Runs one forward pass on made-up pictures; returns the bytes of all activations."""
    batch = subject.made_up(size)
    tape = Tape(batch.patient, size, same, single=True, materialise=True)
    recorder = Recorder(subject.layout.parameters, size, tape, RULES, FASTER)
    noted = recorder.running(subject.model), recorder.vmapping(vmapped)
    with torch.enable_grad(), subject.drawing(range(size)), noted[0], noted[1], recorder:
        output = subject.model(batch.inputs)
    losses_of(subject.loss, output, batch.labels, size)
    return recorder.bytes_seen


@contextmanager
def _taking_pictures(model: nn.Module, size: int, mode: Draws) -> Iterator[set[nn.Module]]:
    """Notes the modules that take tensors and give one tensor, all with the batch first, and draw nothing."""
    taking: set[nn.Module] = set()
    drawn: dict[nn.Module, int] = {}

    def is_batched(value: object) -> bool:
        fits = isinstance(value, Tensor) and value.ndim >= 1 and value.shape[0] == size
        return isinstance(value, Tensor) and fits and value.is_floating_point()

    def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        fits = bool(args) and not kwargs and all(is_batched(value) for value in (*args, output))
        fits = fits and mode.count == drawn.pop(module, mode.count)
        (taking.add if fits else taking.discard)(module)

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
    handles += [m.register_forward_pre_hook(lambda m, _: drawn.update({m: mode.count})) for m in model.modules()]
    try:
        yield taking
    finally:
        for handle in handles:
            handle.remove()


def _agrees(subject: Subject, anatomy: Anatomy) -> Anatomy | None:
    """Returns the findings with what is kept of gradients if losses and gradients equal those of each alone; else None.

    Norms and kept gradients are compared picture by picture, deferred ones by their sum. No gradient is held longer
    than its comparison takes, so that studying a large network needs little more memory than training it.
    """
    size, layout = _PROBES[-1], subject.layout
    batch = subject.made_up(size)
    sums: list[Tensor | None] = [None] * len(layout.parameters)
    tolerance = 1e-8 if subject.inputs.dtype is torch.float64 else _ALIKE
    try:
        with subject.drawing(range(size)):
            tape = take(subject.model, layout, subject.loss, batch, anatomy, materialise=False)
        with subject.drawing(range(size)), torch.no_grad():
            together = subject.losses(batch)
    except NotPerPicture:
        raise
    except Exception:  # any error of a module that runs alone and not in a batch
        return None
    if tape is None:
        return None
    deferred = {name for use, _, _ in tape.deferred for name in use.names}
    for i in range(size):
        apart = subject.alone(size, i)
        known = apart.gradient
        if not torch.allclose(apart.loss, together[i], rtol=tolerance, atol=tolerance, equal_nan=True):
            return None
        norm = _norm(known)
        if not abs(float(tape.norms[0, i].sqrt() - norm)) <= tolerance * float(norm):
            return None
        for name, gradient in zip(layout.parameters, known, strict=True):
            ours = tape.kept[name][i] if name in tape.kept else None
            if name not in deferred and not _is_close(ours, gradient, norm, tolerance):
                return None
        del gradient
        for place, name in enumerate(layout.parameters):  # one after the other, so that each is free at once
            sums[place] = _plus(sums[place], known[place]) if name in deferred else None
            known[place] = None
    totals = dict(zip(layout.parameters, sums, strict=True))
    norm = _norm(list(totals.values()))
    for name, ours in _deferred_sums(tape, layout):
        if not _is_close(ours, totals.pop(name), norm, tolerance, spare=True):
            return None
    kept = sum(gradients.numel() * gradients.element_size() for gradients in tape.kept.values()) // size
    spared = {n for use, g, saved in tape.deferred if use.prefers_norms(g, saved, single=False) for n in use.names}
    return replace(
        anatomy, kept_per_picture=kept, numbers_spared=sum(layout.parameters[name].numel() for name in spared)
    )


def _agrees_in_double(subject: Subject, anatomy: Anatomy) -> Anatomy | None:
    """Repeats the comparison in float64: an ill-conditioned network may disagree with itself in float32.

    Weights are scaled down to 1. Those of a diverged run saturate the loss, whose gradient is then a difference of
    almost equal numbers, in float64 too. Which rule a layer needs does not depend on the weights.
    """
    if anatomy.vmapped or not subject.inputs.is_floating_point():
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
        into = [
            torch.zeros_like(layout.parameters[name], dtype=layout.dtype, requires_grad=False)
            for name in use.names
        ]
        use.add_weighted_sum(g, saved, into)
        for names, _, gradients in tape.formed:
            if names == use.names:
                for total, gradient in zip(into, gradients, strict=True):
                    total += gradient.sum(0).view_as(total)
        yield from zip(use.names, into, strict=True)


def _plus(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    return gradient if total is None else total if gradient is None else total + gradient


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
