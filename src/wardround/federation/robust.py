"""Aggregators that stand a few bad hospitals: the median, the trimmed mean, Krum and Multi-Krum in place of the mean.

They need each hospital's own answer. Masks hide it, and under shares of noise a single answer has too little noise, so
they are for `trust = "nobody"`, where every hospital noises its own release, and for studies without privacy.

Guarantee:
    An aggregator reads noised releases only: it is post-processing, and epsilon stays. The unit, the relation and the
    sensitivity (C, of one hospital's sum) are those of each release. It does not bound the harm of bad hospitals: the
    theorems assume answers of good hospitals that are alike, and neither unequal patients nor noise in many coordinates
    are (Guerraoui et al. 2021, https://arxiv.org/abs/2102.08166).

Cost in accuracy, for n hospitals with Gaussian noise of std s each and equal patients, in std of the noise on the mean:
s / sqrt(n) for the mean; about 1.2 times that for the median of five (1.25 times for many); between the two for the
trimmed mean; sqrt(n / m) times that of the mean for Multi-Krum, which keeps m answers, and for Krum, which keeps one.
All of them also lose what makes hospitals different: a hospital with a rare disease looks like a bad one.
"""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from wardround.errors import FederationError
from wardround.federation.aggregators import answers_of, sum_of
from wardround.federation.channel import Channel
from wardround.federation.messages import Requests, Total
from wardround.types import Vector
from wardround.work import CountPatients

Updates = npt.NDArray[np.float32]
"""(hospital, parameter)."""


@dataclass(frozen=True)
class Mean:
    """The mean."""

    fewest = 1


@dataclass(frozen=True)
class Median:
    """The median of each coordinate: fewer than half of the hospitals cannot move it beyond the others' values."""

    fewest = 1


@dataclass(frozen=True)
class Trimmed:
    """The mean of each coordinate without its `bad` largest and `bad` smallest values.

    Source: Yin et al. 2018, definition 2, https://arxiv.org/abs/1803.01498.
    """

    bad: int

    @property
    def fewest(self) -> int:
        """Answers that are needed, so that some are left."""
        return 2 * self.bad + 1


@dataclass(frozen=True)
class Krum:
    """The one update that is nearest to its n - bad - 2 nearest others, in sums of squared distances.

    Under noise in many coordinates that is the answer with the least noise: a bad hospital that adds none is chosen.

    Source: Blanchard et al. 2017, section 4, https://arxiv.org/abs/1703.02757; resilient from n >= 2 bad + 3.
    """

    bad: int

    @property
    def fewest(self) -> int:
        """Answers that are needed."""
        return 2 * self.bad + 3


@dataclass(frozen=True)
class MultiKrum(Krum):
    """The mean of the n - bad - 2 updates that Krum puts first.

    Sensitivity: one hospital's release moves by C at most for a patient, and has its noise before it is compared. The
    mean of some of the releases is computed from them alone, and epsilon is that of the releases.

    Source: Blanchard et al. 2017, section 4; number of updates: El Mhamdi et al. 2018, https://arxiv.org/abs/1802.07927.
    """


Rule: TypeAlias = Mean | Median | Trimmed | Krum | MultiKrum


def robust_mean(rule: Rule, updates: Updates) -> Vector:
    """Returns the middle of several updates by a rule, (parameter,)."""
    match rule:
        case Mean():
            return sum_of(updates) / np.float32(len(updates))
        case Median():
            return np.asarray(np.median(updates, axis=0), dtype=np.float32)
        case Trimmed():
            kept = np.sort(updates, axis=0)[rule.bad : len(updates) - rule.bad]
            return sum_of(kept) / np.float32(len(kept))
        case Krum():
            values, near = updates.astype(np.float64), len(updates) - rule.bad - 2
            apart = np.array([((values - own) ** 2).sum(axis=1) for own in values])
            nearest = np.sort(apart, axis=1)[:, 1 : near + 1]  # its own distance comes first
            kept = updates[np.argsort(nearest.sum(axis=1), kind="stable")]
            kept = kept[: near if isinstance(rule, MultiKrum) else 1]
            return sum_of(kept) / np.float32(len(kept))
        case _:
            assert_never(rule)


def contributions(left_out: Updates) -> Vector:
    """Returns each hospital's part of the sum of all, (hospital,), from sums that leave out one hospital each.

    With S_k the sum without hospital k and S = (S_1 + ... + S_n) / (n - 1), hospital k's part is S - S_k, and its
    score (S - S_k) . S / |S|^2. Scores add up to 1. A hospital whose answer points away from the others' has a score
    below 0. Equal noise in all sums moves all scores towards 1 / n.

    Guarantee:
        The sums are released, each with the noise of a round. A patient is in all of them but one, moves each by C at
        most, and each is charged as a release. Scores are computed from them alone.
    """
    sums = left_out.astype(np.float64)
    total = sums.sum(axis=0) / (len(sums) - 1)
    return np.asarray((total - sums) @ total / max(float(total @ total), 1e-300), dtype=np.float32)


@dataclass(frozen=True)
class Robust:
    """An aggregator that takes a robust mean of the hospitals' updates, times their number.

    Attributes:
        rule: of the mean.
        norm_bound: an update with a larger L2 norm is scaled to it first, counts of patients excepted; None keeps all.
            It bounds what one hospital adds. Noise counts: a vector of d coordinates has about std * sqrt(d) of it.
    """

    rule: Rule
    norm_bound: float | None = None

    def collect(self, channel: Channel, requests: Requests, deadline_s: float) -> Total:
        """See `Aggregator`.

        Raises:
            FederationError: fewer hospitals answered than the rule needs (code `federation-too-few`).
        """
        replies, failures = channel.ask(requests, deadline_s)
        answers = answers_of(replies)
        events = {name: answer.event for name, answer in answers.items()}
        if not answers:
            return Total(None, events, failures)
        if len(answers) < self.rule.fewest:
            raise FederationError(
                f"`[federation] aggregate` needs {self.rule.fewest} answers in a round, got {len(answers)}. Lower "
                "byzantine, or resume when more hospitals answer.",
                code="federation-too-few",
            )
        updates = np.stack([answer.update for answer in answers.values()])
        if self.norm_bound is not None and not isinstance(next(iter(requests.values())).work, CountPatients):
            updates = bounded(updates, self.norm_bound)
        return Total(robust_mean(self.rule, updates) * np.float32(len(updates)), events, failures)


def bounded(updates: Updates, norm: float) -> Updates:
    """Returns updates, (hospital, parameter), each scaled down to an L2 norm of at most `norm`."""
    lengths = np.linalg.norm(updates.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(updates * np.minimum(1, norm / np.maximum(lengths, 1e-30)), dtype=np.float32)
