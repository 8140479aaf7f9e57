import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.accounting.events import (
    ComposedEvent,
    GaussianEvent,
    LaplaceEvent,
    NoEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    PureEvent,
    SelfComposedEvent,
    event_of_leaves,
    from_json,
    leaves,
    to_json,
)
from wardround.errors import PrivacyError

noise = st.floats(0.01, 100)
noisy = st.one_of(st.builds(GaussianEvent, noise), st.builds(LaplaceEvent, noise))
simple = st.one_of(
    noisy,
    st.builds(PureEvent, st.floats(1e-6, 1e5)),
    st.builds(PoissonSampledEvent, st.floats(1e-6, 1), noisy),
    st.just(NonPrivateEvent()),
    st.just(NoEvent()),
)
events = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(SelfComposedEvent, inner, st.integers(0, 5)),
        st.builds(ComposedEvent, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


@given(events)
def test_every_event_survives_json(event):
    assert from_json(json.loads(json.dumps(to_json(event)))) == event


@given(events)
def test_leaves_are_a_normal_form(event):
    assert leaves(event_of_leaves(leaves(event))) == leaves(event)


@given(st.lists(simple, max_size=5))
def test_order_does_not_matter_to_leaves(parts):
    assert leaves(ComposedEvent(tuple(parts))) == leaves(ComposedEvent(tuple(reversed(parts))))


def test_sampling_everyone_is_no_sampling():
    assert leaves(PoissonSampledEvent(1.0, GaussianEvent(2.0))) == ((GaussianEvent(2.0), 1),)


def test_counts_multiply_when_compositions_are_nested():
    event = SelfComposedEvent(ComposedEvent((SelfComposedEvent(GaussianEvent(1.0), 3), GaussianEvent(1.0))), 5)
    assert leaves(event) == ((GaussianEvent(1.0), 20),)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianEvent(0.0),
        lambda: GaussianEvent(-1.0),
        lambda: GaussianEvent(float("nan")),
        lambda: LaplaceEvent(float("inf")),
        lambda: PureEvent(0.0),
        lambda: PureEvent(-1.0),
        lambda: PureEvent(float("inf")),
        lambda: PureEvent(float("nan")),
        lambda: PoissonSampledEvent(0.1, PureEvent(1.0)),  # type: ignore[arg-type]
        lambda: PoissonSampledEvent(0.0, GaussianEvent(1.0)),
        lambda: PoissonSampledEvent(1.1, GaussianEvent(1.0)),
        lambda: PoissonSampledEvent(0.1, SelfComposedEvent(GaussianEvent(1.0), 2)),  # type: ignore[arg-type]
        lambda: SelfComposedEvent(GaussianEvent(1.0), -1),
        lambda: SelfComposedEvent(GaussianEvent(1.0), 1.5),  # type: ignore[arg-type]
    ],
)
def test_events_that_mean_nothing_are_refused(make):
    with pytest.raises(PrivacyError, match=r"must be .* got"):
        make()


@pytest.mark.parametrize(
    "data",
    [{}, {"event": "magic"}, {"event": "pure"}, {"event": "pure", "epsilon": -1.0},
     {"event": "gaussian"}, {"event": "gaussian", "noise_multiplier": "much"},
     {"event": "composed", "of": 3}, {"event": "self-composed", "of": {"event": "none"}, "count": True},
     {"event": "poisson-sampled", "sampling_prob": 0.1, "of": {"event": "none"}}, [], "gaussian"],
)  # fmt: skip
def test_records_that_are_no_events_are_refused(data):
    with pytest.raises(PrivacyError):
        from_json(data)
