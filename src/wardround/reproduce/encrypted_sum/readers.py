"""The models that the server reads, alone and with one hospital: the published sum, masks, and the threshold repair.

Every scheme adds up the same whole numbers of ten hospitals, and the sum must be exact. Then the server, and the server
with all that one hospital has, try to read every other hospital's numbers; counted is the share read exactly. From the
sum they also know what all others add up to, under any scheme. Numbers drawn at random stand for weights: what is read
is read whatever they are. No noise is added by any row, so no row promises anything to a patient.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wardround import __version__
from wardround.errors import FederationError, MissingExtra
from wardround.reproduce.as_published.statement import no_guarantee
from wardround.reproduce.encrypted_sum import shared_key
from wardround.reproduce.encrypted_sum.bfv import Bfv
from wardround.reproduce.request import Request
from wardround.reproduce.table import Origin, Row, Score, Table
from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.keys.identity import Identity, SigningKey, fingerprint
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.secure_aggregation.round.cohort import CohortRule
from wardround.secure_aggregation.round.confirmation import Agreed, confirm
from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.masks import Masks, Share, pair_key
from wardround.secure_aggregation.round.round_key import RoundKey, shared_secret
from wardround.secure_aggregation.round.transcript import NO_ENTRY, LedgerMark, Summed, Terms
from wardround.secure_aggregation.round.upload import Upload

Numbers: TypeAlias = npt.NDArray[np.int64]

HOSPITALS, PARAMETERS = 10, 725_061
"""As published: ten hospitals, and the SqueezeNet that they trained."""

METRICS = (
    ("alone", "read by the server"),
    ("together", "read by it and one hospital"),
    ("bytes", "upload over float32"),
    ("seconds", "a hospital, s"),
)
SOURCE = "Malekzadeh et al. 2021, Dopamine (arXiv 2101.11693), and its code's secure aggregation"
_ONE_KEY = "one secret key opens every upload, and every hospital has it."
_NO_NOISE = "no noise is added here: single models are hidden, and their sum is released as it is."
_NOTES = (
    "The published noise is shared by ten hospitals. A reader of single updates meets a tenth of its variance: "
    "epsilon 207 at delta 1e-4 in place of 9.02, by the PLD accountant (`wardround reproduce epsilons`).",
    "By chance, a coordinate under masks is read once in 2^16, and one under threshold encryption once in 2^40.",
)


@dataclass(frozen=True)
class Reading:
    """One scheme's attempt at the sum, and what was read of it.

    Attributes:
        alone: share of the other hospitals' numbers that the server reads exactly.
        together: the same of the server with the first hospital.
        upload_bytes: of one hospital.
        seconds: of one hospital, keys and its part of opening included.
    """

    alone: float
    together: float
    upload_bytes: int
    seconds: float


def table(request: Request) -> Table:
    """Returns who reads what under each scheme; the threshold repair where OpenFHE is present."""
    length = request.scale.count("parameters of the network", PARAMETERS, least=5_000)
    generator = np.random.default_rng(0)
    numbers = [shared_key.encoded(generator.normal(0.0, 0.05, length)) for _ in range(HOSPITALS)]
    schemes: dict[str, tuple[Callable[[Sequence[Numbers]], Reading], Origin, str]] = {
        "BFV, one secret key (TenSEAL)": (read_shared_key, Origin.AS_PUBLISHED, _ONE_KEY),
        "masks": (read_masks, Origin.REPAIRED, _NO_NOISE),
        "threshold BFV (OpenFHE)": (read_threshold, Origin.REPAIRED, _NO_NOISE),
    }
    rows, notes = [], list(_NOTES)
    for name, (read, origin, reason) in schemes.items():
        try:
            found = read(numbers)
        except MissingExtra as missing:
            if read is not read_threshold:
                raise
            notes.append(f"Left out: {name}. {missing}")
            continue
        scores = {
            "alone": Score(found.alone),
            "together": Score(found.together),
            "bytes": Score(found.upload_bytes / (4 * length)),
            "seconds": Score(found.seconds),
        }
        statement = no_guarantee(reason, name, "the sum of the hospitals' models", HOSPITALS)
        rows.append(Row(f"{HOSPITALS} hospitals", name, origin, scores, statement))
    return Table(
        "encrypted-sum", "Dopamine's encrypted sum: who reads a hospital's model", SOURCE,
        "No pictures: numbers drawn at random stand for weights.", METRICS, tuple(rows), request.scale.shrunk,
        notes=tuple(notes),
    )  # fmt: skip


def read_shared_key(numbers: Sequence[Numbers]) -> Reading:
    """The published scheme; the first hospital gives the server its secret key."""
    key = shared_key.SharedKey.new()
    uploads, started = [], time.perf_counter()
    for vector in numbers:
        uploads.append(shared_key.encrypted(key.server, vector))
    seconds = (time.perf_counter() - started) / len(numbers)
    total = shared_key.added(key.server, uploads)
    started = time.perf_counter()
    _check_sum(shared_key.opened(key.hospitals, total), numbers)
    seconds += time.perf_counter() - started

    def read(secret: bytes) -> float:
        try:
            return _share_read([shared_key.opened(secret, upload) for upload in uploads[1:]], numbers)
        except FederationError:  # nothing opens
            return 0.0

    return Reading(read(key.server), read(key.hospitals), sum(map(len, uploads[0])), seconds)


def read_masks(numbers: Sequence[Numbers]) -> Reading:
    """Pairwise masks; the first hospital gives the server its round key, which takes its own masks off."""
    ring = Ring.for_sums_up_to(shared_key.PLAIN_MODULUS // 2)
    secret, started = system_entropy(32), time.perf_counter()
    agreed, identities, keys = _agreed(len(numbers), numbers[0].size, ring, secret)
    total, uploads = MaskedSum(agreed.transcript), []
    for vector, identity, key in zip(numbers, identities, keys, strict=True):
        masked = key.masks(agreed).hide(vector.astype(ring.dtype))
        uploads.append(Upload.signed(masked, agreed, identity))
    seconds = (time.perf_counter() - started) / len(numbers)
    for upload in uploads:
        total.add(upload)
    _check_sum(ring.centred(total.total()), numbers)
    first, *others = agreed.transcript.members
    private, alone, together = X25519PrivateKey.from_private_bytes(secret), [], []
    for peer, upload in zip(others, uploads[1:], strict=True):
        sent = upload.residues[: numbers[0].size]
        pair = fingerprint(first.identity), fingerprint(peer.identity)
        share = Share(pair_key(shared_secret(private, peer), agreed.transcript.digest, pair), adds=True)
        without = Masks([share], sent.size, ring).hide(sent)[: sent.size]  # the peer has subtracted this stream
        alone.append(ring.centred(sent))
        together.append(ring.centred(without))
    num_bytes = len(uploads[0].to_bytes())
    return Reading(_share_read(alone, numbers), _share_read(together, numbers), num_bytes, seconds)


def read_threshold(numbers: Sequence[Numbers]) -> Reading:
    """A key that all hold; the first hospital decrypts its part of single uploads, and no other does.

    Raises:
        MissingExtra: OpenFHE is not here.
    """
    scheme, secrets, public = Bfv(len(numbers)), [], None
    started = time.perf_counter()
    for _ in numbers:
        public, secret = scheme.new_part(public)
        secrets.append(secret)
    assert public is not None, "there are two hospitals or more"
    uploads = [scheme.encrypt(public, vector) for vector in numbers]
    openings = []
    for holder, secret in enumerate(secrets):
        total: list[Any] = []  # each hospital forms the sum itself, and opens nothing else
        for upload in uploads:
            total = scheme.added(total, upload)
        openings.append(scheme.partial(total, secret, leads=holder == 0))
    seconds = (time.perf_counter() - started) / len(numbers)
    length = numbers[0].size
    _check_sum(scheme.fuse(openings)[:length], numbers)
    together = [
        scheme.fuse([scheme.partial(scheme.added([], upload), secrets[0], leads=True)])[:length]
        for upload in uploads[1:]
    ]
    num_bytes = sum(map(len, (*uploads[0], *openings[0])))
    return Reading(0.0, _share_read(together, numbers), num_bytes, seconds)  # the server has no part of the key


def _agreed(
    hospitals: int, length: int, ring: Ring, secret: bytes
) -> tuple[Agreed, list[Identity], list[RoundKey]]:
    """Returns what all hospitals have confirmed, and their keys; `secret` is the first one's round key."""
    identities = [Identity(f"hospital {n:02d}", SigningKey.new(system_entropy)) for n in range(hospitals)]
    terms = Terms(
        run="encrypted-sum", study=64 * "0", summed=Summed.GRADIENTS, round=1, attempt=1, model=64 * "0",
        hospitals=hospitals, mechanism={}, length=length, ring=ring, code_version=__version__,
    )  # fmt: skip
    known = LedgerMark(0, NO_ENTRY)
    first, *rest = identities
    keys = [RoundKey(first, terms, known, lambda _: secret)]
    keys += [RoundKey(identity, terms, known, system_entropy) for identity in rest]
    rule = CohortRule(Pins({identity.hospital: identity.key.public for identity in identities}), hospitals)
    transcript = rule.form(terms, [key.announcement for key in keys], keys[0].announcement)
    return Agreed(transcript, tuple(confirm(transcript, one) for one in identities)), identities, keys


def _share_read(found: Sequence[Numbers], numbers: Sequence[Numbers]) -> float:
    """Returns which share of all hospitals' numbers but the first's was found exactly."""
    pairs = zip(found, numbers[1:], strict=True)
    return float(np.mean([np.mean(one[: other.size] == other) for one, other in pairs]))


def _check_sum(total: Numbers, numbers: Sequence[Numbers]) -> None:
    if not np.array_equal(total, np.sum(numbers, axis=0)):
        raise FederationError(
            "The opened sum must be that of all hospitals, and is not; compare the scheme's parameters."
        )
