"""A round of masked hospitals, small enough for a test, and a test of uniformity."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import stats

from wardround.secure_aggregation.integers.packing import pack
from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.round.cohort import CohortRule
from wardround.secure_aggregation.round.confirmation import Agreed, confirm
from wardround.secure_aggregation.round.round_key import RoundKey
from wardround.secure_aggregation.round.transcript import LedgerMark, Summed, Terms, Transcript
from wardround.secure_aggregation.round.upload import Upload

RINGS = [Ring(bits) for bits in (17, 31, 32, 40, 63, 64)]
IN_RINGS = pytest.mark.parametrize("ring", RINGS, ids=str)
MECHANISM = {"clipping_norm": 0.5, "noise_multiplier": 1.0, "grid_bits": 20, "colluders": 1, "dropouts": 0}


def entropy_of(seed):
    """Repeatable bytes that look random, in place of the operating system's."""
    drawn = 0

    def draw(num_bytes):
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"{seed}/{drawn}".encode()).digest(num_bytes)

    return draw


def make_terms(**changes):
    fields: dict[str, Any] = {
        "run": "run-1", "study": "ab" * 32, "summed": Summed.GRADIENTS, "round": 1, "attempt": 1, "model": "cd" * 32,
        "hospitals": 3, "mechanism": MECHANISM, "length": 8, "ring": Ring(32), "code_version": "0.1.0",
    }  # fmt: skip
    return Terms(**(fields | changes))


def make_identities(count, seed=0):
    return [
        Identity(f"hospital {n:02d}", SigningKey.new(entropy_of(f"{seed}/identity {n}"))) for n in range(count)
    ]


def pins_of(identities):
    return Pins({identity.hospital: identity.key.public for identity in identities})


@dataclass
class Round:
    identities: list[Identity]
    keys: list[RoundKey]
    transcript: Transcript
    rule: CohortRule

    @property
    def announcements(self):
        return [key.announcement for key in self.keys]

    def upload(self, index, vector, transcript=None):
        """The upload of one hospital; `transcript` is what it was told, where that is something else."""
        agreed = agreed_on(transcript or self.transcript, self.identities)
        return Upload.signed(self.keys[index].masks(agreed).hide(vector), agreed, self.identities[index])

    @property
    def agreed(self):
        return agreed_on(self.transcript, self.identities)


def agreed_on(transcript, identities):
    """A transcript that all of its hospitals have signed, whatever they were told elsewhere."""
    names = {member.hospital for member in transcript.members}
    return Agreed(transcript, tuple(confirm(transcript, one) for one in identities if one.hospital in names))


def make_round(count=3, *, seed=0, **changes):
    """All that was said before the masks: identities, announcements, the transcript."""
    identities = make_identities(count)
    terms = make_terms(hospitals=count, **changes)
    keys = [
        RoundKey(
            identity,
            terms,
            LedgerMark(n, f"{n:064x}"),
            entropy_of(f"{seed}/{n}/{terms.round}/{terms.attempt}"),
            {peer.hospital: LedgerMark(m + 1, f"{m + 1:064x}") for m, peer in enumerate(identities[:n])},
        )
        for n, identity in enumerate(identities)
    ]
    rule = CohortRule(pins_of(identities), minimum=min(count, 3))
    announcements = [key.announcement for key in keys]
    return Round(identities, keys, rule.form(terms, announcements[::-1], announcements[0]), rule)


def uniformity(residues, ring):
    """p-value of the bytes that are sent of residues being uniform, by chi-square with 255 degrees of freedom.

    The last byte is left out, as it may be filled up with zeros.
    """
    return stats.chisquare(np.bincount(np.frombuffer(pack(residues, ring)[:-1], np.uint8), minlength=256)).pvalue
