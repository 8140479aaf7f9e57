"""Every part, plan and work that small fields make: what cannot be constructed is left out here."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

import numpy as np

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.events import GaussianEvent
from wardround.agreed.masks import COUNT_COORDINATES, shares_for
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares
from wardround.per_patient.clipping_rules import Flat
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.correlated import Correlation
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.pictures import LocalRelease
from wardround.privacy.plans.kinds import (
    UNCLIPPED,
    Clip,
    CorrelatedGradients,
    ExactCount,
    NoisedCounts,
    NoisedGradients,
    NoisedHead,
    NoisedHistograms,
    NoisedPictures,
    NoisedUpdates,
    NoisyCount,
    NothingTrained,
    NotPrivate,
    OpenHistograms,
    Part,
    PublicSize,
)
from wardround.privacy.plans.plan import Plan
from wardround.privacy.updates import ClippedUpdate
from wardround.reproduce.mechanisms.pictures.labels import RandomisedResponse
from wardround.reproduce.mechanisms.pictures.noise import Noise, NoisedFeatures
from wardround.reproduce.mechanisms.sparse_vector.mechanism import GumbelTopK, SparseVector
from wardround.work import (
    Announce,
    Confirm,
    CountClasses,
    CountPatients,
    Evaluate,
    Finish,
    FittedHead,
    GiveReceipt,
    GradientSum,
    HeadFit,
    LocalSteps,
    LocalUpdate,
    Receive,
    RowSum,
    SayHello,
    ScoreSum,
    Selection,
    SelectiveUpdate,
    Upload,
    Work,
)

Made = TypeVar("Made")

NORM = 0.5
FIT = HeadFit(0.02, 1.0, 50.0)
CORRELATION = Correlation(3, 2, 2)
SHARED = NoiseShares(5, 1, 1)
SHARES = shares_for(1.0, NORM, 1 << 30, SHARED)
COUNT_SHARES = shares_for(2.0, 1.0, COUNT_COORDINATES, SHARED)
PICTURES = (NoisedFeatures(Noise.LAPLACE, 1.0, 1.0), NoisedFeatures(Noise.GAUSSIAN, 1.0, 2.0))


def made(make: Callable[..., Made], *choices: list[Any]) -> list[Made]:
    """Returns what can be made of every combination of arguments; an argument may be refused itself."""
    found: list[Made] = []
    for arguments in itertools.product(*choices):
        try:
            found.append(make(*arguments))
        except PrivacyError:
            continue
    return found


NOISES = [*made(GaussianEvent, [0.0, 1.0, math.inf, math.nan]), SHARES, COUNT_SHARES]
NOISERS: list[Any] = [
    *made(ByCoordinator, [0, 5]),
    *made(ByEachHospital, [0, 5]),
    *made(NoiseShares, [5], [1, 5], [0, 1]),
]
SIZES: list[Any] = [*made(PublicSize, [0, 12]), NoisyCount(), ExactCount()]
CLIPS = [Clip(norm, rule) for norm in (NORM, 0.0, math.inf, math.nan) for rule in (Flat(), AdaptiveNorm())]
PROBABILITIES = [0.0, 0.5, 1.0, 1.5]
RELEASES = [0, 3]
MECHANISMS: list[Any] = [
    *made(ClippedUpdate, [NORM, 0.0], [0.0, 1.0, math.inf]),
    *made(GumbelTopK, [0.1], [0, 2], [0.0, 1.0, math.inf]),
    *made(SparseVector, [0.1], [0, 2], [0.0, 1.0, math.inf]),
]


@cache
def parts() -> tuple[Part, ...]:
    """Every part that can be constructed, of every kind."""
    return (
        *made(NoisedCounts, NOISES, NOISERS),
        *made(NoisedGradients, CLIPS, NOISES, PROBABILITIES, RELEASES, SIZES, NOISERS),
        *made(NoisedGradients, CLIPS, [NOISES[0], SHARES], [1.0], [3], SIZES, NOISERS, [-1, 1, 3]),
        *made(CorrelatedGradients, CLIPS, NOISES[:1], [CORRELATION], SIZES, NOISERS),
        *made(NoisedUpdates, MECHANISMS, PROBABILITIES, RELEASES, NOISERS),
        *made(NoisedHead, made(OutputPerturbation, [FIT], [0.0, 1.0, math.inf]), NOISERS),
        *made(
            NoisedPictures,
            made(LocalRelease, list(PICTURES), [RandomisedResponse(0.5)], [0, 2]),
            PROBABILITIES,
            [size for size in SIZES if not isinstance(size, NoisyCount)],
            [0, 5],
        ),
        *made(NotPrivate, [Clip(NORM), UNCLIPPED], [*PROBABILITIES, CORRELATION], RELEASES, SIZES, [0, 5]),
        *made(NoisedHistograms, NOISES, [2, 3], NOISERS, RELEASES),
        *made(OpenHistograms, [0, 5]),
        *made(NothingTrained, NOISERS),
    )


@cache
def plans() -> tuple[Plan, ...]:
    """Every plan that can be constructed of these parts, alone or in pairs."""
    counts = [part for part in parts() if isinstance(part, NoisedCounts)]
    alone = [(part,) for part in parts()]
    pairs = [(count, part) for count in counts for part in parts()]
    turned = [(part, counts[0]) for part in parts()]
    evaluations = [part for part in parts() if isinstance(part, NoisedHistograms | OpenHistograms)]
    evaluated = [(part, evaluations[-1]) for part in parts()] + [(evaluations[-1], part) for part in parts()]
    evaluated += [(part, each) for each in evaluations for part in parts()[-400::97]]
    evaluated += [(part, each) for each in evaluations for part in parts() if isinstance(part, NothingTrained)]
    return tuple(made(_plan, [*alone, *pairs, *turned, *evaluated], [0.0, 1e-5, 1.0], [0, 2]))


def _plan(parts: tuple[Part, ...], delta: float, images_per_patient: int) -> Plan:
    return Plan(parts, delta, AccountantKind.RDP, images_per_patient)


def _steps() -> Iterator[LocalSteps]:
    for steps, denominator, keep in itertools.product((0, 2), (None, 4.0), (False, True)):
        yield LocalSteps(steps, 0.1, 0.5, denominator, keep_velocity=keep)


_WEIGHTS = np.zeros(3, dtype=np.float32)
_SELECTION = Selection(np.arange(3), 0.5, False, 0.0, 0.1)
SUMS = (GradientSum(_WEIGHTS), GradientSum(_WEIGHTS, 0.3), RowSum(_WEIGHTS), ScoreSum(_WEIGHTS))
WORKS: tuple[Work, ...] = (
    CountPatients(),
    CountClasses(),
    *SUMS,
    *(LocalUpdate(_WEIGHTS, steps) for steps in _steps()),
    *(SelectiveUpdate(_WEIGHTS, steps, _SELECTION) for steps in _steps()),
    FittedHead(FIT),
    FittedHead(HeadFit(0.01, 1.0, 50.0)),
    Evaluate(_WEIGHTS),
    *(Announce(of, 1, 5) for of in (CountPatients(), *SUMS, Evaluate(_WEIGHTS))),
    Announce(CountClasses(), 1, 5),  # type: ignore[arg-type]  # no sum that is opened, and never protected
    Confirm(()),
    Upload(()),
    Receive(b""),
    SayHello(),
    GiveReceipt(),
    Finish(b"", b"", b""),
)
