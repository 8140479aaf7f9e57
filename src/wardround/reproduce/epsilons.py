"""Every epsilon that the published systems state or imply, computed anew by the accountants that run the strategies.

Each line says what it is computed for. None of them is a promise of anything here: they are what was claimed, and what
the claim would have had to be.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import Event, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier as analytic_noise
from wardround.accounting.mechanisms import gdp_epsilon, gdp_mu, group_epsilon, local_laplace_epsilon
from wardround.accounting.rdp import rdp_epsilon_2020
from wardround.noisers import NoiseShares
from wardround.reproduce.accounting import (
    central_limit_epsilon,
    fixed_batch_epsilon,
    uniform_sampling_gdp_epsilon,
)
from wardround.reproduce.as_published.statement import no_guarantee
from wardround.reproduce.request import Request
from wardround.reproduce.table import Origin, Row, Score, Table

PLD, RDP = AccountantKind


@dataclass(frozen=True)
class Line:
    """One number: whose it is, what it is the epsilon (or the noise) of, and how it is computed.

    Attributes:
        delta: at which it holds; None for pure epsilon.
        published: as found in the source or in the audit of it.
        tolerance: how far ours may lie from that, in its last printed digits.
        compute: ours.
    """

    system: str
    what: str
    by: str
    delta: float | None
    published: float
    tolerance: float
    compute: Callable[[], float]


def training(sampling_prob: float, noise_multiplier: float, steps: int) -> Event:
    """Steps on secret Poisson samples."""
    return SelfComposedEvent(PoissonSampledEvent(sampling_prob, GaussianEvent(noise_multiplier)), steps)


def lines() -> tuple[Line, ...]:
    """All of them; nothing is computed before it is asked for."""
    return (*_yuan(), *_dopamine(), *_deepee(), *_singh())


def _near(published: float) -> float:
    """One in the last of two decimals; of numbers from 8 on, in the last of one."""
    return 0.06 if published > 8 else 0.006


def _yuan() -> Iterator[Line]:
    delta = 1e-5
    for epsilon, sigma in (
        (0.1, 30.749566), (0.5, 7.031827), (1.0, 3.730632), (2.0, 1.993812), (4.0, 1.081162), (8.0, 0.600229),
    ):  # fmt: skip
        what, compute = f"noise for epsilon {epsilon:g}, if S were 1", partial(analytic_noise, epsilon, delta)
        yield Line("Yuan", what, "analytic Gaussian", delta, sigma, 6e-7, compute)
    for sigma, epsilons in (
        (0.600, (8.0, 22.2, 35.6, 58.8, 99.7)),
        (1.993, (2.0, 5.0, 7.54, 11.53, 17.94)),
        (7.032, (0.5, 1.21, 1.77, 2.61, 3.87)),
    ):
        for visits, epsilon in zip((1, 5, 10, 20, 40), epsilons, strict=True):
            what, compute = f"{visits} visits at sigma {sigma}", partial(gdp_epsilon, gdp_mu(sigma, visits), delta)
            yield Line(
                "Yuan", f"{what}, if S were 1", "exact composition", delta, epsilon, _near(epsilon), compute
            )


def _dopamine() -> Iterator[Line]:
    delta = 1e-4
    for what, event, old, new, tight in (
        ("Dopamine", training(0.03425, 1.15, 3001), 10.877, 9.903, 9.02),
        ("Dopamine, with the README's 30,001 rounds", training(0.03425, 1.15, 30_001), 48.39, 46.84, 41.90),
        ("pooled DP-SGD", training(50 / 2931, 1.0, 5800), 9.081, 8.179, 7.44),
        ("each hospital's own DP-SGD", training(50 / 293, 2.0, 1250), 19.29, 18.02, 16.45),
        ("one hospital's update, decrypted", training(0.03425, 1.15 / 10**0.5, 3001), 494.9, 493.0, 206.6),
    ):
        size = 0.06 if old > 100 else 0.006
        by = "RDP, conversion of 2020"
        yield Line("Dopamine", what, by, delta, old, size, partial(rdp_epsilon_2020, event, delta))
        yield Line("Dopamine", what, "RDP", delta, new, size, partial(epsilon_of, event, delta, RDP))
        yield Line("Dopamine", what, "PLD", delta, tight, size, partial(epsilon_of, event, delta, PLD))
    shares = NoiseShares(hospitals=10, colluders=0)
    for colluding, epsilon in ((1, 9.94), (2, 11.1), (5, 18.5), (8, 66.8), (9, 206.6)):
        event, what = (
            training(0.03425, shares.left(1.15, colluding, 0), 3001),
            f"against {colluding} of 10 hospitals",
        )
        compute = partial(epsilon_of, event, delta, PLD)
        yield Line("Dopamine", f"{what} colluding", "PLD", delta, epsilon, 0.06, compute)


def _deepee() -> Iterator[Line]:
    delta = 1e-5
    for what, units, batch, sigma, steps, uniform, poisson, rdp, pld in (
        ("MNIST example", 50_000, 200, 1.0, 2500, 1.3077, 0.976, 1.313, 1.059),
        ("pneumonia", 4434, 32, 3.0, 20 * (4434 // 32), 0.5147, 0.4533, 0.505, 0.459),
    ):
        event = training(batch / units, sigma, steps)
        fixed = partial(uniform_sampling_gdp_epsilon, units, batch, sigma, steps, delta)
        for by, published, size, compute in (
            ("central limit, fixed batches (no bound)", uniform, 0.0009, fixed),
            ("central limit, Poisson (no bound)", poisson, 0.0009, partial(central_limit_epsilon, event, delta)),
            ("RDP, Poisson", rdp, 0.0015, partial(epsilon_of, event, delta, RDP)),
            ("PLD, Poisson", pld, 0.0009, partial(epsilon_of, event, delta, PLD)),
        ):
            yield Line("deepee", what, by, delta, published, size, compute)
    for what, units, batch, multiplier, steps, epsilon in (
        ("pneumonia as run", 4434, 32, 3.0 / 2, 20 * (4434 // 32), 2.56),
        ("MNIST example, noise over sensitivity 1", 50_000, 200, 1.0, 2500, 2.10),
        ("MNIST example as run", 50_000, 200, 1.0 / 2, 2500, 14.5),
    ):
        compute = partial(fixed_batch_epsilon, units, batch, multiplier, steps, delta)
        yield Line("deepee", what, "RDP, fixed batches, one replaced", delta, epsilon, _near(epsilon), compute)
    for slices, epsilon in ((50, 9.5), (157, 43.1), (200, 61.0)):
        what, size = f"a patient with {slices} liver slices", 0.6 if slices > 60 else 0.06
        compute = partial(group_epsilon, 0.0384, delta, slices)
        yield Line("deepee", what, "group of slices (central limit)", delta, epsilon, size, compute)


def _singh() -> Iterator[Line]:
    delta = 1e-4
    for size in (256 * 256, 256 * 256 * 3):
        for scale in (1, 2, 4):
            what, compute = (
                f"Laplace {scale} on each of {size} pixels",
                partial(local_laplace_epsilon, size, scale),
            )
            yield Line("Singh", what, "L1 sensitivity", None, size / scale, 1e-9, compute)
    for what, units, multiplier, epsilon in (
        ("X-rays", 5218, 5.002, 0.9942), ("X-rays", 5218, 9.7, 0.5003), ("X-rays", 5218, 19.55, 0.2502),
        ("retina", 2929, 6.60, 1.0017), ("retina", 2929, 12.95, 0.4997), ("retina", 2929, 26.1, 0.2501),
    ):  # fmt: skip
        what, by = f"{what}, DP-SGD as stated, z {multiplier:g}", "RDP, conversion of 2020"
        compute = partial(rdp_epsilon_2020, training(128 / units, multiplier, 50 * units // 128), delta)
        yield Line("Singh", what, by, delta, epsilon, 0.0006, compute)
    for multiplier, rdp, pld in ((5.002, 1.75, 1.58), (9.7, 0.80, 0.71), (19.55, 0.36, 0.32)):
        event = training(128 / 5218, multiplier / 2, 50 * math.ceil(5218 / 128))
        what = f"X-rays, groups of 4 moved by twice the clip, z {multiplier:g}"
        yield Line("Singh", what, "RDP", delta, rdp, 0.006, partial(epsilon_of, event, delta, RDP))
        yield Line("Singh", what, "PLD", delta, pld, 0.006, partial(epsilon_of, event, delta, PLD))


def table(request: Request) -> Table:
    """All lines, as published and as computed here; it needs no pictures."""
    reason = "this is a figure computed anew, of a training that was run elsewhere."
    statement = no_guarantee(reason, "published", "nothing")
    rows = tuple(
        Row(
            line.system, f"{line.what}; {line.by}" + ("" if line.delta is None else f", delta {line.delta:g}"),
            Origin.AS_PUBLISHED, {"published": Score(line.published), "ours": Score(line.compute())}, statement,
        )
        for line in lines()
    )  # fmt: skip
    return Table(
        "epsilons", "Every published epsilon, and the same from our accountants", "The systems' papers and code",
        "No pictures: arithmetic alone.", (("published", "published"), ("ours", "computed here")), rows,
    )  # fmt: skip
