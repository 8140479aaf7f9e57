"""One masked attempt of all hospitals, one after the other, each part timed: what `benchmarks.secure_sum` measures.

What a run does between the gradients and the network, with the classes that a run uses: terms with the hash of the
model, announcements, confirmations, the share of noise on all parameters and witnesses, masks, the signed upload, and
the coordinator's sum and opening. The samples are empty, so that what is opened must be the shares, and is held to be.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import numpy as np

from wardround.noisers import NoiseShares
from wardround.randomness import Stream
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.integers.ring import WIDEST, Ring
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.secure_aggregation.round.agreement import Agreement
from wardround.secure_aggregation.round.cohort import CohortRule
from wardround.secure_aggregation.round.confirmation import Agreed, confirm
from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.masks import Masks
from wardround.secure_aggregation.round.round_key import RoundKey
from wardround.secure_aggregation.round.transcript import NO_ENTRY, LedgerMark
from wardround.secure_aggregation.round.upload import Upload
from wardround.secure_aggregation.round.witness import WITNESSES

PARTS = ("keys", "noise", "masks", "upload")
_P = ParamSpec("_P")
_T = TypeVar("_T")
_HASH = "0" * 64


class Clock:
    """Seconds by part and hospital; what a hospital does for one part in several steps is added up."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[int, float]] = {}

    def time(
        self, part: str, hospital: int, work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs
    ) -> _T:
        started = time.perf_counter()
        result = work(*arguments, **named)
        seconds = self.taken.setdefault(part, {})
        seconds[hospital] = seconds.get(hospital, 0.0) + time.perf_counter() - started
        return result

    def of_one(self, part: str) -> float:
        """Median over the hospitals."""
        return statistics.median(self.taken[part].values())

    def of_all(self, part: str) -> float:
        return sum(self.taken[part].values())


def mechanism_for(length: int, hospitals: int, noise_multiplier: float, ring: Ring = WIDEST) -> IntegerMechanism:
    """Over parameters and witnesses."""
    return IntegerMechanism(1.0, noise_multiplier, length + WITNESSES, NoiseShares(hospitals), ring=ring)


def rings_for(mechanism: IntegerMechanism, patients: Sequence[int]) -> list[Ring]:
    """The rings that runs of so many patients a round choose, and the widest."""
    chosen = {mechanism.for_patients(count).ring for count in patients} | {WIDEST}
    return sorted(chosen, key=lambda ring: ring.bits)


def attempt(length: int, hospitals: int, noise_multiplier: float, patients: Sequence[int]) -> dict[str, Any]:
    """Seconds and bytes of a hospital and of the coordinator by bits of the ring; the same noise is masked in each.

    Args:
        length: parameters.
        hospitals: how many take part.
        noise_multiplier: z.
        patients: numbers of patients a round, whose rings are measured.
    """
    mechanism = mechanism_for(length, hospitals, noise_multiplier)
    rings = rings_for(mechanism, patients)
    identities = [Identity(f"hospital {n}", SigningKey.new(system_entropy)) for n in range(hospitals)]
    clocks = {ring: Clock() for ring in rings}
    mechanisms = {ring: replace(mechanism, ring=ring) for ring in rings}
    ready = {ring: _keys(mechanisms[ring], length, identities, clocks[ring]) for ring in rings}
    sums = {ring: MaskedSum(ready[ring][0].transcript) for ring in rings}
    sent: dict[Ring, int] = {}
    noise, truth = Clock(), np.zeros(mechanism.dimension, np.int64)
    for number, identity in enumerate(identities):
        share = noise.time("noise", number, mechanism.encode, [], _random_bytes())
        truth += share
        for ring, clock in clocks.items():
            agreed, masks, _ = ready[ring]
            sent[ring] = _one_upload(
                mechanisms[ring], share, agreed, masks[number], identity, number, clock, sums[ring]
            )
    answers: dict[str, Any] = {}
    for ring, clock in clocks.items():
        opened = clock.time("open", 0, _opened, mechanisms[ring], sums[ring])
        if not np.array_equal(opened, truth):
            raise SystemExit("the opened sum is not the sum of the shares")
        parts = {part: clock.of_one(part) for part in PARTS if part != "noise"} | {"noise": noise.of_one("noise")}
        answers[str(ring.bits)] = {
            **{f"{part}_seconds": parts[part] for part in PARTS},
            "hospital_seconds": sum(parts.values()),
            "sum_seconds": clock.of_all("add") + clock.of_all("open"),
            "keys_bytes_sent": ready[ring][2],
            "keys_bytes_received": ready[ring][2] * (hospitals - 1),
            "upload_bytes": sent[ring],
        }
    return answers


def _random_bytes() -> Callable[[int], bytes]:
    """A hospital's own source, as in a run."""
    stream = Stream.from_os()
    return lambda count: stream.words(count // 8).tobytes()


def _opened(mechanism: IntegerMechanism, total: MaskedSum) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The sum in grid steps; decoding it to gradients is part of what is timed."""
    opened = mechanism.lifted(total.total())
    mechanism.decode(opened)
    return opened


def _keys(
    mechanism: IntegerMechanism, length: int, identities: list[Identity], clock: Clock
) -> tuple[Agreed, list[Masks], int]:
    """What comes before the noise: what was agreed on, everybody's masks, and the bytes that one hospital sent."""
    agreement = Agreement("benchmark", _HASH, mechanism, 1, "0")
    model = np.zeros(length, np.float32)
    pins = Pins({one.hospital: one.key.public for one in identities})
    rule, count = CohortRule(pins), len(identities)

    def announced(identity: Identity) -> RoundKey:
        return RoundKey(identity, agreement.terms(1, 1, count, model), LedgerMark(0, NO_ENTRY), system_entropy)

    keys = [clock.time("keys", n, announced, one) for n, one in enumerate(identities)]
    announcements = [key.announcement for key in keys]
    terms = agreement.terms(1, 1, count, model)
    told, confirmations, masks = [], [], []
    for n, (key, identity) in enumerate(zip(keys, identities, strict=True)):
        told.append(clock.time("keys", n, rule.form, terms, announcements, key.announcement))
        confirmations.append(clock.time("keys", n, confirm, told[n], identity))
    for n, key in enumerate(keys):
        agreed = clock.time("keys", n, Agreed, told[n], tuple(confirmations))
        masks.append(clock.time("keys", n, key.masks, agreed))
    first, confirmed = announcements[0], confirmations[0]
    return agreed, masks, len(first.to_bytes()) + len(confirmed.to_bytes())


def _one_upload(
    mechanism: IntegerMechanism,
    share: np.ndarray[Any, np.dtype[np.int64]],
    agreed: Agreed,
    masks: Masks,
    identity: Identity,
    number: int,
    clock: Clock,
    total: MaskedSum,
) -> int:
    """Masks, signs and sends one hospital's vector, and has the coordinator add it; how many bytes that were."""
    masked = clock.time("masks", number, lambda: masks.hide(mechanism.in_ring(share)))
    content = clock.time("upload", number, lambda: Upload.signed(masked, agreed, identity).to_bytes())
    clock.time("add", number, lambda: total.add(Upload.from_bytes(content)))
    return len(content)
