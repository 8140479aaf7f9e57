"""The epsilon of a plan against each adversary: parties that know shares of the noise, or see sums before it."""

from dataclasses import replace
from typing import assert_never

from wardround.accounting.events import ComposedEvent, Event, GaussianEvent
from wardround.accounting.insiders import InsiderRow, epsilon_by_colluders
from wardround.noisers import NoiseShares
from wardround.privacy.plans.costs import event_of
from wardround.privacy.plans.kinds import (
    CorrelatedGradients,
    NoisedCounts,
    NoisedGradients,
    NoisedHead,
    NoisedHistograms,
    NoisedPictures,
    NoisedUpdates,
    NothingTrained,
    NotPrivate,
    OpenHistograms,
    Part,
)
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.wording import words_of
from wardround.privacy.updates import ClippedUpdate


def against(part: Part, noise_multiplier: float) -> Part:
    """Returns a part as an adversary sees it to whom noise of that multiplier is unknown."""
    match part:
        case NoisedCounts() | NoisedGradients() | CorrelatedGradients() | NoisedHistograms():
            return replace(part, noise=GaussianEvent(noise_multiplier))
        case NoisedUpdates(mechanism=ClippedUpdate() as mechanism):
            return replace(part, mechanism=replace(mechanism, noise_multiplier=noise_multiplier))
        case NoisedHead():
            return replace(part, mechanism=replace(part.mechanism, noise_multiplier=noise_multiplier))
        case NoisedUpdates() | NoisedPictures() | NotPrivate() | NothingTrained() | OpenHistograms():
            return part  # each hospital's own noise, of which no other party knows a share
        case _:
            assert_never(part)


def insiders_of(
    plan: Plan, releases: int | None = None, counts: int | None = None, *, all_present: bool = True
) -> tuple[InsiderRow, ...]:
    """Returns epsilon after `releases` and `counts` (default: all) against each adversary; empty without a promise.

    Without `all_present`, as where a hospital was missing from some round, rows that count on every share are left out.
    """
    done = plan.releases if releases is None else releases
    counts = plan.counts if counts is None else counts
    if not plan.is_private or (done == 0 and not plan.is_counted):
        return ()
    promised = words_of(plan).noise_multiplier

    def event(noise_multiplier: float) -> Event:
        steps = event_of(against(plan.main, noise_multiplier), done)
        if plan.count is None:
            return steps
        left = plan.count.noise.noise_multiplier * (noise_multiplier / promised)
        return ComposedEvent((event_of(against(plan.count, left), counts), steps))

    rows = epsilon_by_colluders(
        event,
        promised,
        plan.noiser,
        delta=plan.delta,
        accountant=plan.accountant,
        parts=() if plan.masked is None else plan.discrete_after(done, counts),
    )
    if all_present or not isinstance(plan.noiser, NoiseShares):
        return rows
    return tuple(row for row in rows if row.missing == plan.noiser.dropouts)
