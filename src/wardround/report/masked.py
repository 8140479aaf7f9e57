"""What a masked run says of its masks: the noise that was there, what was sent, and attempts that were lost."""

from collections.abc import Iterable
from dataclasses import dataclass

from wardround.records.json_object import JsonObject


@dataclass(frozen=True)
class NoiseWitness:
    """What coordinates of noise alone showed in a masked run: how many, their variance over that of all shares, p."""

    coordinates: int
    ratio: float
    p_value: float


@dataclass(frozen=True)
class LostAttempts:
    """What missing hospitals cost a masked run: attempts in vain, and the rounds that they belong to."""

    attempts: int
    rounds: int


def witness_of(certificate: JsonObject) -> NoiseWitness | None:
    """What its witness coordinates showed; None where sums were not masked."""
    if certificate.values.get("witness") is None:
        return None
    row = certificate.section("witness")
    return NoiseWitness(row.integer("coordinates"), row.number("ratio"), row.number("p_value"))


def upload_of(results: JsonObject) -> JsonObject:
    """What a hospital sent in a masked round; empty where sums were not masked."""
    return JsonObject({}, "results.json") if results.values.get("upload") is None else results.section("upload")


def lost_of(lines: Iterable[JsonObject]) -> LostAttempts | None:
    """Attempts that ended without a sum; None where none did."""
    again = [line.integer("attempts") - 1 for line in lines if "attempts" in line.values]
    return LostAttempts(sum(again), len(again)) if again else None
