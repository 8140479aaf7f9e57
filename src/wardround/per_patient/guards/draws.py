"""Random draws of a network, keyed by patient: dropout, stochastic depth, noise, every other draw of a torch function.

Released: nothing. Neighbouring relation: add or remove one patient. For every value of the draws the sum of clipped
gradients moves by one patient's gradient, if the draws of the others stay as they are; a mixture of such mechanisms
over one distribution keeps the guarantee (joint convexity). Draws from one generator do not stay: they shift when an
earlier patient joins. So each picture draws by itself, from a key that follows from the step's key, the patient's key
and the picture's number among the patient's own. By default the step's key is new from the operating system at each
call.

`Draws` is a `TorchDispatchMode`. Below autograd and `torch.func.vmap` it sees every kernel that torch itself marks as
random (`torch.Tag.nondeterministic_seeded`), called by any function or module. The kernel is run once for each
picture, with torch's generator seeded for that picture. A draw without the picture on its first axis cannot be keyed
(`Unkeyed`); that network is run under `vmap` or one picture at a time, where the axis is known.

A seed of torch's generator on a processor has 32 bits that matter. Masks need no more: the guarantee holds for every
value of them, and they hide nothing.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wardround.errors import PrivacyError
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.process import is_worker

PictureKeys = Sequence[bytes]
"""32 bytes for each picture of one pass, (picture,)."""


class Unkeyed(Exception):  # control flow inside the package; it never leaves it
    """Signal that numbers were drawn without the picture on the first axis."""


class DrawsInWorker(Exception):  # control flow inside the package; it never leaves it
    """Signal that numbers would be drawn in a thread beside others, which have the same generator."""


def keys_of(batch: PatientBatch, seed: int | None) -> Callable[[], list[bytes]]:
    """Returns a function that gives the key of each picture of a batch, (picture,); the same ones at each call.

    Without a seed the step's key comes from the operating system, and patients are told apart by their places.

    Raises:
        PrivacyError: a seed without the patients' keys, or another number of keys than patients.
    """
    if batch.keys is not None and len(batch.keys) != batch.num_patients:
        raise PrivacyError(
            f"`keys` must name each of {batch.num_patients} patients, got {len(batch.keys)}.", code="privacy-keys"
        )
    if seed is not None and batch.keys is None:
        raise PrivacyError(
            "`dropout_seed` needs the `keys` of the patients in the batch, got none: masks by place would shift when "
            "an earlier patient joins. Give keys, or leave the seed out.",
            code="privacy-keys",
        )
    known: list[bytes] = []
    step = os.urandom(32) if seed is None else hashlib.sha256(b"wardround/v1/draws" + str(seed).encode()).digest()

    def keys() -> list[bytes]:
        if not known:
            of = range(batch.num_patients) if batch.keys is None else batch.keys
            patients = [hashlib.blake2b(repr(key).encode(), key=step, digest_size=32).digest() for key in of]
            known.extend(_numbered(batch.patient.tolist(), patients))
        return known

    return keys


def made_up_keys(count: int) -> list[bytes]:
    """Returns keys of made-up pictures, (picture,), each by its number."""
    return [hashlib.sha256(number.to_bytes(8, "big")).digest() for number in range(count)]


def _numbered(of: list[int], patients: list[bytes]) -> Iterator[bytes]:
    """Yields the key of each picture, from its patient's and its number among the patient's pictures."""
    number = 0
    for place, patient in enumerate(of):
        number = number + 1 if place and of[place - 1] == patient else 0
        yield hashlib.blake2b(number.to_bytes(8, "big"), key=patients[patient], digest_size=32).digest()


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Torch mode that draws the random numbers of each picture from that picture's key.

    Each draw takes one number from torch's own generator, which `drawing` seeds with a constant. Checkpointing
    (`torch.utils.checkpoint`) restores that generator, so that its second forward pass draws what the first one drew.

    Attributes:
        count: draws so far.
        unforeseen: never here; see `Watched`.
    """

    unforeseen = False

    def __init__(self, pictures: PictureKeys, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self._pictures, self._device = pictures, device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Returns False: torch would import its compiler, for seconds, to skip what is compiled; nothing here is."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one kernel; torch calls this for every kernel while the mode is on."""
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        self.count += 1
        if "generator" in kwargs:
            kwargs = {**kwargs, "generator": None}
        args = [None if isinstance(value, torch.Generator) else value for value in args]
        number = int(torch.empty((), dtype=torch.int64).random_()).to_bytes(8, "big")
        state = torch.default_generator.get_state()
        try:
            if len(self._pictures) == 1:
                self._seed(self._pictures[0], number)
                return func(*args, **kwargs)
            parts = []
            for place, key in enumerate(self._pictures):
                own = self._own(func, args, place)
                self._seed(key, number)
                parts.append(func(*own, **kwargs))
        finally:
            torch.default_generator.set_state(state)
        if func._schema.is_mutable and func._schema.name.endswith("_"):
            return args[0]
        return _joined(parts)

    def _own(self, func: Any, args: list[Any], place: int) -> list[Any]:
        """Returns one picture's part of the arguments: of tensors a view, of a size one picture."""
        count = len(self._pictures)
        if any(isinstance(value, Tensor) for value in args):
            own = [_part(value, place, count) for value in args]
            if own[0] is not args[0]:
                return own
        else:
            for at, argument in enumerate(func._schema.arguments[: len(args)]):
                if argument.name == "size" and len(args[at]) and args[at][0] == count:
                    return [*args[:at], [1, *args[at][1:]], *args[at + 1 :]]
        raise Unkeyed(f"{func._schema.name} draws numbers without the picture on the first axis")

    def _seed(self, key: bytes, number: bytes) -> None:
        seed = int.from_bytes(hashlib.blake2b(number, key=key, digest_size=8).digest(), "big") >> 1
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(seed)


class Watched:
    """Result of a pass in which no draw is foreseen: whether torch's generator was moved all the same."""

    unforeseen = False


@contextmanager
def drawing(pictures: PictureKeys | None, device: torch.device) -> Iterator[Draws | Watched]:
    """Keys all draws inside by picture; without keys (a network that draws nothing), watches that nothing is drawn.

    Torch's generators are afterwards as they were.

    Raises:
        DrawsInWorker: keys, in one of `process.workers`.
    """
    if is_worker():
        if pictures is not None:
            raise DrawsInWorker
        yield Watched()  # the thread that asked watches all: here the state put back would hide another one's draw
        return
    generator = torch.default_generator
    before = generator.get_state()
    accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        if pictures is None:
            watched = Watched()
            yield watched
            watched.unforeseen = not torch.equal(before, generator.get_state()) or (
                accelerator is not None and not torch.equal(accelerator, torch.cuda.get_rng_state(device))
            )
        else:
            generator.manual_seed(0)
            with Draws(pictures, device) as mode:
                yield mode
    finally:
        generator.set_state(before)
        if accelerator is not None:
            torch.cuda.set_rng_state(accelerator, device)


_KNOWN: dict[Any, bool] = {}


def _is_random(func: Any) -> bool:
    known = _KNOWN.get(func)
    if known is None:
        known = _KNOWN[func] = torch.Tag.nondeterministic_seeded in func.tags
    return known


def _part(value: Any, place: int, count: int) -> Any:
    fits = isinstance(value, Tensor) and value.ndim >= 1 and value.shape[0] == count
    return value[place : place + 1] if fits else value


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        if parts[0].ndim == 0:
            raise Unkeyed("a draw gives one number for all pictures")
        return torch.cat(parts)
    return tuple(_joined([part[at] for part in parts]) for at in range(len(parts[0])))
