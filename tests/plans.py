"""Plans of small numbers for tests: each field of the training part can be given."""

from dataclasses import replace
from typing import Any

from wardround.accounting.events import GaussianEvent
from wardround.agreed.masks import COUNT_COORDINATES, shares_for
from wardround.config.federation import EvaluationStrategy, FederationSection
from wardround.config.section import kinds_of, tags_of
from wardround.noisers import ByEachHospital, NoiseShares
from wardround.privacy.plans.calibrate import with_shares
from wardround.privacy.plans.kinds import (
    Clip,
    CorrelatedGradients,
    NoisedCounts,
    NoisedGradients,
    NoisyCount,
    PublicSize,
    Training,
)
from wardround.privacy.plans.plan import Plan

DELTA = 1e-5


def gradients(**fields) -> NoisedGradients:
    """Noise on sums of gradients, of three hospitals with four patients each; each hospital adds all of it."""
    defaults: dict[str, Any] = dict(
        clip=Clip(0.5), noise=GaussianEvent(1.0), sampling_prob=0.5, releases=5, size=PublicSize(12),
        noiser=ByEachHospital(3),
    )  # fmt: skip
    return NoisedGradients(**(defaults | fields))


def plan(training: Training, **fields) -> Plan:
    """A plan whose number of patients is public."""
    defaults: dict[str, Any] = {"parts": (training,), "delta": DELTA}
    return Plan(**(defaults | fields))


def counted(training: NoisedGradients | CorrelatedGradients, noise_multiplier: float = 2.0, **fields) -> Plan:
    """A plan that counts patients with noise of that std, by the noiser of its sums."""
    count = NoisedCounts(GaussianEvent(noise_multiplier), training.noiser)
    return plan(training, parts=(count, replace(training, size=NoisyCount())), **fields)


def masked(noiser: NoiseShares | None = None, **fields) -> Plan:
    """A plan with whole-number shares of noise, of five hospitals of which one may collude and one be missing."""
    return _on_grid(plan(gradients(noiser=noiser or NoiseShares(5, 1, 1), **fields)))


def masked_and_counted(noiser: NoiseShares | None = None, noise_multiplier: float = 2.0, **fields) -> Plan:
    """The same with a count of patients in shares, of at least that noise multiplier."""
    return _on_grid(counted(gradients(noiser=noiser or NoiseShares(5, 1, 1), **fields), noise_multiplier))


def training_of(made: Plan) -> Any:
    """The training part, of the kind that the test made it of."""
    return made.training


def count_of(made: Plan) -> Any:
    """The count of a plan that the test made with one."""
    return made.count


def _on_grid(made: Plan) -> Plan:
    part, noiser = made.training, made.noiser
    assert isinstance(part, NoisedGradients)
    assert isinstance(noiser, NoiseShares)
    shares = shares_for(part.noise.noise_multiplier, part.clip.norm, 1 << 30, noiser)
    if made.count is None:
        return with_shares(made, shares)
    of_count = shares_for(made.count.noise.noise_multiplier, 1.0, COUNT_COORDINATES, noiser)
    return with_shares(made, shares, of_count)


def strategy_names() -> tuple[str, ...]:
    """The names of the strategies that train: all that `[federation] strategy` may have but "evaluation"."""
    training = [kind for kind in kinds_of(FederationSection) if kind is not EvaluationStrategy]
    return tuple(name for kind in training for name in tags_of(kind, "strategy"))
