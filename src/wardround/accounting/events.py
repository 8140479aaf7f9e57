"""The closed vocabulary of what was done to a hospital's data; the cost is the accountants' business.

    Event = GaussianEvent | LaplaceEvent          noise on a sum
          | PureEvent                             any release that is epsilon-DP
          | PoissonSampledEvent                   noise on a sum over a secret Poisson sample
          | SelfComposedEvent | ComposedEvent     the same again, or several; later may depend on earlier
          | NonPrivateEvent | NoEvent             released without protection, or nothing released

Neighbouring data sets differ by adding or removing one unit, unless the ledger that an event is charged to says that
one is replaced: sensitivity, or a PureEvent's epsilon, is then that under replacement.
An event is public: it holds the parameters of a mechanism and never a fact about a patient.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeAlias

from wardround.accounting.mechanisms import check_noise_multiplier
from wardround.errors import PrivacyError

Leaves: TypeAlias = tuple[tuple["LeafEvent", int], ...]
"""Events that are not composed of others, each with how often it happened; sorted, no event twice."""

JsonDict: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class GaussianEvent:
    """One release of a sum with Gaussian noise of std `noise_multiplier` × (L2 sensitivity of the sum)."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        check_noise_multiplier(self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class LaplaceEvent:
    """One release of a sum with Laplace noise of scale `noise_multiplier` × (L1 sensitivity of the sum)."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        check_noise_multiplier(self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class PureEvent:
    """One release of which nothing is known but that it is (epsilon, 0)-DP.

    It costs at most what binary randomised response with odds exp(epsilon) costs, of which every such release is a
    post-processing: Kairouz, Oh and Viswanath 2015, Theorem 2.5, https://arxiv.org/abs/1311.0776.
    """

    epsilon: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise PrivacyError(
                f"epsilon must be > 0 and finite, got {self.epsilon}. "
                "Use NonPrivateEvent for a release without protection, NoEvent for none."
            )


@dataclass(frozen=True, slots=True)
class PoissonSampledEvent:
    """`event` on a sample that each unit joins independently, and secretly, with `sampling_prob`.

    Edge cases:
        sampling_prob = 1 costs exactly what `event` alone costs (see `leaves`).
        An empty sample is a sample: the noise must have been added to it as well.
    """

    sampling_prob: float
    event: GaussianEvent | LaplaceEvent

    def __post_init__(self) -> None:
        if not 0 < self.sampling_prob <= 1:
            raise PrivacyError(
                f"sampling_prob must be in (0, 1], got {self.sampling_prob}. If nobody is sampled, use NoEvent."
            )
        if not isinstance(self.event, GaussianEvent | LaplaceEvent):
            raise PrivacyError(
                "A sampled event must be a GaussianEvent or a LaplaceEvent, "
                f"got {type(self.event).__name__}. Compose sampled events instead of sampling composed ones."
            )


@dataclass(frozen=True, slots=True)
class NonPrivateEvent:
    """Something left the hospital without protection; epsilon is infinite whatever else was done."""


@dataclass(frozen=True, slots=True)
class NoEvent:
    """Nothing left the hospital; epsilon is 0."""


@dataclass(frozen=True, slots=True)
class SelfComposedEvent:
    """`event`, `count` times in a row, each free to depend on what the earlier ones released."""

    event: "Event"
    count: int

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            raise PrivacyError(f"count must be a whole number >= 0, got {self.count!r}. Count releases.")


@dataclass(frozen=True, slots=True)
class ComposedEvent:
    """Unlike `events` in a row, each free to depend on what the earlier ones released."""

    events: tuple["Event", ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", tuple(self.events))


LeafEvent: TypeAlias = GaussianEvent | LaplaceEvent | PureEvent | PoissonSampledEvent | NonPrivateEvent
Event: TypeAlias = LeafEvent | NoEvent | SelfComposedEvent | ComposedEvent


@lru_cache(maxsize=4096)  # a run charges the same event in every round, to every hospital
def leaves(event: Event) -> Leaves:
    """Returns the multiset of leaf events, sorted: two events that must cost the same have the same leaves.

    >>> step = PoissonSampledEvent(1.0, GaussianEvent(2.0))
    >>> leaves(ComposedEvent((SelfComposedEvent(step, 3), NoEvent(), GaussianEvent(2.0))))
    ((GaussianEvent(noise_multiplier=2.0), 4),)
    """
    counts: Counter[LeafEvent] = Counter()
    _count_leaves(event, 1, counts)
    return sorted_leaves(counts)


def sorted_leaves(counts: Mapping[LeafEvent, int]) -> Leaves:
    """Returns counts of leaf events in the one order that accountants and caches see."""
    return tuple(sorted(((leaf, n) for leaf, n in counts.items() if n), key=lambda item: repr(item[0])))


def event_of_leaves(items: Iterable[tuple[LeafEvent, int]]) -> Event:
    """Returns the event that has these leaves.

    >>> event_of_leaves(leaves(GaussianEvent(2.0)))
    ComposedEvent(events=(SelfComposedEvent(event=GaussianEvent(noise_multiplier=2.0), count=1),))
    """
    return ComposedEvent(tuple(SelfComposedEvent(leaf, count) for leaf, count in items))


def _count_leaves(event: Event, times: int, counts: Counter[LeafEvent]) -> None:
    match event:
        case NoEvent():
            return
        case SelfComposedEvent(inner, count):
            if count:
                _count_leaves(inner, times * count, counts)
        case ComposedEvent(events):
            for inner in events:
                _count_leaves(inner, times, counts)
        case PoissonSampledEvent(sampling_prob, inner) if sampling_prob == 1:
            counts[inner] += times
        case GaussianEvent() | LaplaceEvent() | PureEvent() | PoissonSampledEvent() | NonPrivateEvent():
            counts[event] += times


_KINDS: dict[str, type[Event]] = {
    "gaussian": GaussianEvent,
    "laplace": LaplaceEvent,
    "pure": PureEvent,
    "poisson-sampled": PoissonSampledEvent,
    "self-composed": SelfComposedEvent,
    "composed": ComposedEvent,
    "non-private": NonPrivateEvent,
    "none": NoEvent,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_json(event: Event) -> JsonDict:
    """Returns the event as a JSON object; `from_json` reads it back unchanged.

    >>> to_json(PoissonSampledEvent(0.05, GaussianEvent(1.2)))
    {'event': 'poisson-sampled', 'sampling_prob': 0.05, 'of': {'event': 'gaussian', 'noise_multiplier': 1.2}}
    """
    data: JsonDict = {"event": _NAMES[type(event)]}
    for field in fields(event):
        value: Any = getattr(event, field.name)
        match field.name:
            case "event":
                data["of"] = to_json(value)
            case "events":
                data["of"] = [to_json(inner) for inner in value]
            case "count":
                data["count"] = value
            case number:
                data[number] = float(value)
    return data


def from_json(data: Mapping[str, object]) -> Event:
    """Returns the event that `to_json` wrote.

    Raises:
        PrivacyError: `data` is not an event of the vocabulary, or one of its numbers does not hold.
    """
    kind = _KINDS.get(str(data.get("event"))) if isinstance(data, Mapping) else None
    if kind is None:
        raise PrivacyError(
            f"An event must be a JSON object whose 'event' is one of {', '.join(_KINDS)}, got {data!r}. "
            "The record may come from a newer version."
        )
    try:
        return kind(**{field.name: _read(data, field.name) for field in fields(kind)})
    except (KeyError, TypeError, ValueError) as error:
        raise PrivacyError(
            f"The event {json.dumps(dict(data), default=repr)} is not complete: {error}."
        ) from error


def canonical_json(data: Mapping[str, object]) -> str:
    """Returns the one text of a JSON object that is hashed and compared: sorted keys, no spaces, ASCII."""
    return _ENCODER.encode(data)


def _read(data: Mapping[str, Any], name: str) -> Any:
    """Returns one field of an event; `from_json` of an inner one refuses what is no object."""
    match name:
        case "event":
            return from_json(data["of"])
        case "events":
            if not isinstance(data["of"], list | tuple):
                raise TypeError(f"'of' must be a list, got {data['of']!r}")
            return tuple(from_json(item) for item in data["of"])
        case "count":
            return data["count"]
    value = data[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)
