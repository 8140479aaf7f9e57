"""Refusal of networks that change themselves in the forward pass, which leaves them as they were.

A buffer that a forward pass changes (running statistics, code books, counters) holds something of the pictures without
noise, and is a part of every model file. A trained parameter that a forward pass changes (an embedding with `max_norm`)
is worse: it is what the noised sums are added to.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from wardround.errors import ModelError


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Returns the modules of a network, each once, in less time than `Module.modules` takes for many small layers."""
    found, seen = [model], {model}
    for module in found:  # grows while it is walked
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found


@contextmanager
def unchanged(model: nn.Module, *, values: bool = False) -> Iterator[None]:
    """Refuses a network that changes a buffer or parameter of its own inside, and puts that back.

    Buffers are compared bit by bit. Parameters are compared by torch's count of changes in place, or, at a copy's cost,
    by `values` as well; only then can they be put back.

    Raises:
        ModelError: the buffer or parameter that was changed, by name; code `model-buffer`.
    """
    modules = modules_of(model)
    buffers = [(m, n, b, _copy(b)) for m in modules for n, b in m._buffers.items() if b is not None]
    names = {(m, n): b is None for m in modules for n, b in m._buffers.items()}
    own = {id(p): p for m in modules for p in m._parameters.values() if p is not None}
    parameters = [(p, p._version, p.detach().clone() if values else None) for p in own.values()]

    def put_back() -> ModelError | None:
        changed = [found for module in modules_of(model) if module._buffers for found in _new(module, names)]
        for module, name, buffer, known in buffers:
            if module._buffers.get(name) is not buffer or not _same_bits(buffer, known):
                with torch.no_grad():
                    buffer.copy_(known)
                module._buffers[name] = buffer
                changed.append((module, name))
        moved = {id(p) for p, version, known in parameters if not _is_parameter_same(p, version, known)}
        if changed:
            return _error(_name_of_buffer(model, *changed[0]), "buffer")
        return (
            _error(next(n for n, p in model.named_parameters() if id(p) in moved), "parameter") if moved else None
        )

    with _explaining(put_back):
        yield


@contextmanager
def _explaining(put_back: Callable[[], ModelError | None]) -> Iterator[None]:
    """Puts back what changed inside and raises the error found there, which also explains a `ModelError` inside."""
    try:
        yield
    except BaseException as failure:
        error = put_back()
        if error is not None and isinstance(failure, ModelError):
            raise error from failure  # it is why the network did not seem to repeat itself
        raise
    error = put_back()
    if error is not None:
        raise error


def _error(name: str, kind: str) -> ModelError:
    return ModelError(
        f"The forward pass must leave the network as it is, and this one changes its {kind} {name!r}: it would carry "
        "pictures into the model file without noise, or the number of earlier passes into later gradients. Put that "
        "module into evaluation mode (.eval()), replace it (`without_batch_norm` replaces batch norms), or remove it.",
        code="model-buffer",
    )


def _new(module: nn.Module, names: dict[tuple[nn.Module, str], bool]) -> list[tuple[nn.Module, str]]:
    """Returns the buffers that were not there before, or empty, and removes them."""
    found = [(module, n) for n, b in module._buffers.items() if b is not None and names.get((module, n), True)]
    for place in found:
        if place in names:
            module._buffers[place[1]] = None
        else:
            del module._buffers[place[1]]
    return found


def _name_of_buffer(model: nn.Module, module: nn.Module, name: str) -> str:
    prefix = next((prefix for prefix, other in model.named_modules() if other is module), "")
    return f"{prefix}.{name}" if prefix else name


def _copy(values: Tensor) -> Tensor:
    return values.detach().clone()


def _is_parameter_same(parameter: nn.Parameter, version: int, known: Tensor | None) -> bool:
    if known is None:
        return parameter._version == version
    if _same_bits(parameter.detach(), known):
        return parameter._version == version
    with torch.no_grad():
        parameter.copy_(known)
    return False


def _same_bits(values: Tensor, known: Tensor) -> bool:
    if values.shape != known.shape or values.dtype != known.dtype:
        return False
    if torch.equal(values, known):
        return True
    if values.dtype.is_floating_point:  # a NaN equals itself here
        return torch.allclose(values, known, rtol=0.0, atol=0.0, equal_nan=True)
    return False


@contextmanager
def without_foreign_draws() -> Iterator[None]:
    """Refuses draws from Python's or numpy's global generator inside, and puts these back.

    Raises:
        ModelError: code `model-draws`.
    """
    python, numbers = random.getstate(), np.random.get_state()

    def put_back() -> ModelError | None:
        drawn = "Python's `random`" if random.getstate() != python else ""
        if not _equal_states(np.random.get_state(), numbers):
            drawn = "`numpy.random`"
        random.setstate(python)
        np.random.set_state(numbers)
        if not drawn:
            return None
        return ModelError(
            f"A network must draw its random numbers by torch functions, which are keyed by patient; this one draws "
            f"from {drawn}. Use torch.rand, torch.bernoulli or nn.Dropout.",
            code="model-draws",
        )

    with _explaining(put_back):
        yield


def _equal_states(a: object, b: object) -> bool:
    assert isinstance(a, tuple), "numpy's default generator"
    assert isinstance(b, tuple), "numpy's default generator"
    return a[0] == b[0] and np.array_equal(a[1], b[1]) and a[2:] == b[2:]
