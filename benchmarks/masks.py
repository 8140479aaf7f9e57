"""What masks take: `python -m benchmarks.masks [COORDINATES] [HOSPITALS]`, on one core."""

import statistics
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from wardround.secure_aggregation.cohort import CohortRule
from wardround.secure_aggregation.identity import Identity, SigningKey
from wardround.secure_aggregation.masked_sum import MaskedSum
from wardround.secure_aggregation.pins import Pins
from wardround.secure_aggregation.ring import Ring
from wardround.secure_aggregation.round_key import RoundKey
from wardround.secure_aggregation.secret import system_entropy
from wardround.secure_aggregation.transcript import Terms
from wardround.secure_aggregation.upload import Upload

_T = TypeVar("_T")
REPEATS = 15


class Clock:
    """Milliseconds by the name of what took them."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}

    def time(self, name: str, work: Callable[[], _T]) -> _T:
        started = time.perf_counter()
        result = work()
        self.taken.setdefault(name, []).append(1e3 * (time.perf_counter() - started))
        return result


def one_attempt(identities: list[Identity], rule: CohortRule, terms: Terms, clock: Clock) -> int:
    """Bytes of the first hospital's upload; its work and the coordinator's are timed."""
    key = clock.time("announce", lambda: RoundKey(identities[0], terms, "0" * 64, system_entropy))
    announcements = [key.announcement]
    announcements += [RoundKey(one, terms, "0" * 64, system_entropy).announcement for one in identities[1:]]
    transcript = clock.time("check the others", lambda: rule.form(terms, announcements, key.announcement))
    masks = clock.time("derive the keys", lambda: key.masks(transcript))
    vector = np.ones(terms.length, terms.ring.dtype)
    masked = clock.time("masks", lambda: masks.hide(vector))
    content = clock.time("sign", lambda: Upload.signed(masked, transcript, identities[0]).to_bytes())
    total = MaskedSum(transcript)
    clock.time("verify and add one", lambda: total.add(Upload.from_bytes(content)))
    return len(content)


def main(length: int = 725_061, hospitals: int = 10) -> None:
    identities = [Identity(f"hospital {n}", SigningKey.new(system_entropy)) for n in range(hospitals)]
    rule = CohortRule(Pins({one.hospital: one.key.public for one in identities}))
    for ring in Ring:
        clock, sent = Clock(), 0
        for attempt in range(1, REPEATS + 1):
            terms = Terms("benchmark", "0" * 64, 1, attempt, "0" * 64, hospitals, {}, length, ring, "0")
            sent = one_attempt(identities, rule, terms, clock)
        print(f"{length} coordinates, {hospitals} hospitals, ring 2^{ring}: {sent} bytes of upload")
        for name, taken in clock.taken.items():
            print(f"  {name:20} {statistics.median(taken):7.2f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
