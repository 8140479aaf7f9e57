"""The plan of a study that releases a few coordinates: its mechanism, and the least noise for its epsilon."""

from collections.abc import Callable
from dataclasses import replace

from wardround.accounting.calibration import calibrate_noise_multiplier
from wardround.accounting.events import Event, PureEvent, SelfComposedEvent
from wardround.config import Study
from wardround.noisers import ByEachHospital
from wardround.privacy.plans.kinds import NoisedUpdates
from wardround.privacy.plans.plan import Plan
from wardround.reproduce.mechanisms.sparse_vector.mechanism import GumbelTopK, SparseVector
from wardround.reproduce.mechanisms.sparse_vector.section import SparseVectors, TopK


def part_of(study: Study, section: SparseVectors | TopK, hospitals: int, releases: int) -> NoisedUpdates:
    """Returns the plan's part, with the noise that the study gives; given an epsilon, the noise is still open."""
    del study  # the section says everything
    mechanism = _sparse_vector(section) if isinstance(section, SparseVectors) else _top_k(section)
    return NoisedUpdates(mechanism, section.sampling_prob, releases, ByEachHospital(hospitals))


def calibrated(plan: Plan, section: SparseVectors | TopK) -> Plan:
    """Returns the plan with the least noise for the study's epsilon, or as it is where the study gives the noise."""
    part, epsilon, releases = plan.training, section.epsilon, plan.releases
    assert isinstance(part, NoisedUpdates), "made by part_of"
    if epsilon is None:
        return plan

    def least(event: Callable[[float], Event]) -> float:
        return calibrate_noise_multiplier(
            lambda z: SelfComposedEvent(event(z), releases), epsilon, plan.delta, plan.accountant
        )

    match part.mechanism:
        case SparseVector() as sparse:
            even = epsilon / releases * (1 - 1e-12)  # rounding cannot bring the sum above the promise
            found: SparseVector | GumbelTopK = replace(
                sparse, epsilon=max(1 / least(lambda z: PureEvent(1 / z)), even)
            )
        case GumbelTopK() as top:
            found = replace(top, noise_multiplier=least(lambda z: replace(top, noise_multiplier=z).event))
        case other:
            raise AssertionError(f"made by part_of, got {other}")
    return replace(plan, parts=(replace(part, mechanism=found),))


def _sparse_vector(section: SparseVectors) -> SparseVector:
    answers, share = section.answers, section.values_share
    epsilon = section.epsilon if section.noise_multiplier is None else answers / (section.noise_multiplier * share)
    return SparseVector(section.truncation, answers, epsilon or 1.0, section.answer_threshold, values_share=share)


def _top_k(section: TopK) -> GumbelTopK:
    return GumbelTopK(
        section.truncation, section.answers, section.noise_multiplier or 1.0, values_share=section.values_share
    )
