"""Selective sharing: what is fetched, what is sent, and that a replica tells nothing that was not protected."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.charges import charges_of
from tests.federation.known import local_sgd, rounds, state_after
from tests.fixtures_federation import STUDY, private_plan, with_training, without_noise

from wardround.accounting.events import NoEvent
from wardround.federation.local_training import LocalTraining
from wardround.federation.messages import Answer
from wardround.federation.strategies.ring import Ring
from wardround.federation.strategy import Call
from wardround.federation.timetable import Order, Timetable
from wardround.privacy.plans import releases
from wardround.privacy.updates import ClippedUpdate
from wardround.randomness import Randomness
from wardround.reproduce.mechanisms.selective.hospital import chosen_changes
from wardround.reproduce.mechanisms.selective.strategy import Selective, most_updated
from wardround.work import Selection

CALL = Call(STUDY)
EVERYTHING = {"download_fraction": 1.0, "upload_fraction": 1.0, "truncation": 1e9}


def selective(order=Order.FIXED, *, hospitals=3, sampling_prob=1.0, momentum=0.6, **changes):
    local = LocalTraining(CALL, 2, 0.4, momentum, sampling_prob, 4 * hospitals)
    settings = {
        "download_fraction": 0.5,
        "upload_fraction": 0.2,
        "random": False,
        "threshold": 0.0,
        "truncation": 0.02,
        "counter_decay": 0.9,
    }
    return Selective(local, Timetable(hospitals, order, seed=3), **(settings | changes))


@pytest.mark.parametrize("order", [Order.FIXED, Order.RANDOM, Order.STOCHASTIC])
def test_sharing_everything_is_the_ring(make_federation, order):
    federation = make_federation()
    strategy = selective(order, **EVERYTHING)
    known = rounds(Ring(strategy.local, strategy.timetable), federation, 5)["global"]
    assert np.allclose(rounds(strategy, make_federation(), 5)["global"], known, rtol=1e-4, atol=1e-6)


def paper(federation, strategy, num_rounds):
    """Shokri and Shmatikov 2015, Figures 3 and 4, parameter by parameter, in double precision."""
    size = federation.weights.size
    server, stat = federation.weights.astype(float), np.zeros(size)
    replicas = [federation.weights.astype(float) for _ in range(3)]
    for round in range(1, num_rounds + 1):
        [k] = strategy.timetable.asked(round)
        ranked = sorted(range(size), key=lambda j: (-stat[j], j))
        for j in ranked[: int(size * strategy.download_fraction)]:
            replicas[k][j] = server[j]
        trained, _ = local_sgd(federation, k, replicas[k], steps=2, learning_rate=0.4, momentum=0.6)
        change, replicas[k] = trained - replicas[k], trained
        above = [j for j in range(size) if abs(change[j]) > strategy.threshold]
        above.sort(key=lambda j: -abs(change[j]))
        stat *= strategy.counter_decay
        for j in above[: round_half(size * strategy.upload_fraction)]:
            server[j] += min(max(change[j], -strategy.truncation), strategy.truncation)
            stat[j] += 1
    return server, stat


def round_half(number):
    return int(np.rint(number))


@pytest.mark.parametrize("threshold", [0.0, 0.05])
def test_the_largest_changes_are_shared_as_in_the_source(make_federation, threshold):
    federation = make_federation(rounds=9)
    strategy = selective(
        threshold=threshold, upload_fraction=6 / 34
    )  # the two classes change alike: an even number
    state = state_after(strategy, federation, 9)
    server, stat = paper(federation, strategy, 9)
    assert np.allclose(state["counter"], stat, rtol=1e-5)
    assert np.allclose(state["weights"], server, rtol=1e-4, atol=1e-5)
    assert 0 < np.count_nonzero(stat) < federation.weights.size


def selection(size, **changes):
    settings = {"fraction": 0.3, "random": False, "threshold": 0.0, "truncation": 1.0}
    return Selection(np.arange(size), **(settings | changes))


CHANGE = np.array([0.5, -3.0, 0.0, 0.1, -0.2, 2.0, 0.05, -0.4, 0.3, 0.02], dtype=np.float32)


def draw(seed=0):
    return Randomness(seed).stream("draw")


def test_the_largest_are_chosen_and_cut():
    sent = chosen_changes(CHANGE, selection(10), draw())
    assert sent.tolist() == np.array([0.5, -1, 0, 0, 0, 1, 0, 0, 0, 0], dtype=np.float32).tolist()


def test_nothing_at_or_below_the_threshold_is_sent():
    for random in (False, True):
        sent = chosen_changes(CHANGE, selection(10, fraction=1.0, threshold=0.3, random=random), draw())
        assert np.flatnonzero(sent).tolist() == [0, 1, 5, 7] + ([8] if CHANGE[8] > 0.3 else [])
    assert not chosen_changes(CHANGE, selection(10, threshold=9.0), draw()).any()


def test_a_draw_takes_every_change_above_the_threshold_equally_often():
    drawn = np.zeros(10)
    stream = draw()
    for _ in range(3000):
        sent = chosen_changes(CHANGE, selection(10, random=True, threshold=0.07), stream)
        assert np.count_nonzero(sent) == 3
        drawn += sent != 0
    above = np.abs(CHANGE) > 0.07
    assert not drawn[~above].any()
    assert stats.chisquare(drawn[above]).pvalue > 1e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_sent_is_finite_whatever_became_of_the_replica(bad):
    change = CHANGE.copy()
    change[3] = bad
    sent = chosen_changes(change, selection(10), draw())
    assert np.isfinite(sent).all()
    assert np.abs(sent).max() <= 1.0


@pytest.mark.parametrize(
    ("fraction", "positions"), [(0.01, [1]), (0.4, [1, 3]), (0.6, [0, 1, 3]), (1.0, range(5))]
)
def test_the_most_updated_are_fetched_and_ties_go_in_order(fraction, positions):
    counter = np.array([1, 5, 1, 2, 0], dtype=np.float32)
    assert most_updated(counter, fraction).tolist() == list(positions)


class Watching:
    """A channel that sends fixed changes and remembers what was fetched."""

    hospitals = ("a", "b", "c")

    def __init__(self):
        self.asked = []

    def ask(self, requests, deadline_s):
        [(name, request)] = requests.items()
        self.asked.append(request)
        update = np.zeros(10, dtype=np.float32)
        update[{"a": [1, 2], "b": [2], "c": [2, 7]}[name]] = 0.5
        return {name: Answer(update, NoEvent())}, {}


def test_the_counter_says_how_often_each_was_sent_and_forgets():
    strategy, channel = selective(download_fraction=0.2, counter_decay=0.5), Watching()
    state = strategy.init(np.zeros(10, dtype=np.float32), channel)
    for round in (1, 2, 3):
        state = strategy.update(state, channel, round)
    assert state["counter"].tolist() == [0, 0.25, 1.75, 0, 0, 0, 0, 1, 0, 0]
    assert state["weights"].tolist() == [0, 0.5, 1.5, 0, 0, 0, 0, 0.5, 0, 0]
    strategy.update(state, channel, 4)
    assert [request.work.selection.positions.tolist() for request in channel.asked] == [
        [0, 1],
        [1, 2],
        [1, 2],
        [2, 7],
    ]
    assert channel.asked[-1].work.weights.tolist() == [1.5, 0.5], "nothing but what is fetched travels"


def test_under_noised_steps_the_replica_is_made_of_what_was_released_alone(make_federation, monkeypatch):
    """Public weights, the server's parameters and noised sums: from these alone the replicas can be computed again."""
    sums = []
    original = releases.noised_sum

    def remembering(part, clipped, stream):
        noised = original(part, clipped, stream)
        sums.append(noised.copy())  # the step that takes it changes it in place
        return noised

    monkeypatch.setattr("wardround.training.local.noised_sum", remembering)
    federation = make_federation(plan=private_plan(), rounds=6)
    strategy = selective(sampling_prob=0.5)
    state = strategy.init(federation.weights, federation.channel)
    replicas = [federation.weights.copy() for _ in range(3)]
    for round in range(1, 7):
        k = (round - 1) % 3
        positions = most_updated(state["counter"], strategy.download_fraction)
        replicas[k][positions] = state["weights"][positions]
        velocity = np.zeros_like(replicas[k])
        state = strategy.update(state, federation.channel, round)
        for noised in sums[2 * round - 2 : 2 * round]:
            velocity = np.float32(0.6) * velocity + noised / np.float32(2.0)
            replicas[k] = replicas[k] - np.float32(0.4) * velocity
        kept = federation.agents[f"hospital-{k + 1}"].memory.of(round)
        assert np.array_equal(kept["replica"], replicas[k])
    assert len(sums) == 12
    agent = federation.agents["hospital-1"]
    assert agent.account.spent() == pytest.approx(with_training(federation.plan, releases=4).epsilon)


def clipped_update_plan(mechanism):
    return private_plan(sampling_prob=1.0, mechanism=mechanism)


class Constant(ClippedUpdate):
    """A mechanism whose release has nothing to do with the update."""

    def release(self, update, share, stream):
        return np.linspace(-1, 1, update.size, dtype=np.float32)


class Selecting(Constant):
    """One that has chosen already."""

    selects = True


@pytest.mark.parametrize("mechanism", [Constant(1.0, 2.0), Selecting(1.0, 2.0)], ids=["after", "by itself"])
def test_under_noised_updates_what_is_chosen_follows_from_the_mechanism_alone(make_federation, mechanism):
    federation = make_federation(plan=clipped_update_plan(mechanism))
    local = replace(selective().local, own_size=True, num_patients=None)
    strategy = replace(selective(**EVERYTHING | {"upload_fraction": 0.1}), local=local)
    state = state_after(strategy, federation, 1)
    sent = state["weights"] - federation.weights
    constant = mechanism.release(sent, None, None)
    chosen = constant if mechanism.selects else chosen_changes(constant, selection(34, fraction=0.1), draw())
    assert np.allclose(sent, chosen, atol=1e-6)
    assert np.count_nonzero(sent) == (34 if mechanism.selects else 3)
    assert [len(charges_of(agent.account)) for agent in federation.agents.values()] == [1, 0, 0]


@pytest.mark.parametrize("random", [False, True])
def test_a_round_that_is_asked_for_again_is_answered_alike(make_federation, random):
    federation = make_federation(plan=private_plan(), rounds=9)
    strategy = selective(sampling_prob=0.5, random=random)
    states = [strategy.init(federation.weights, federation.channel)]
    for round in range(1, 8):
        states.append(strategy.update(states[-1], federation.channel, round))
        again = strategy.update(states[-2], federation.channel, round)
        for name in again:
            assert np.array_equal(again[name], states[-1][name])


def test_without_privacy_hospitals_keep_replicas_of_their_own(make_federation):
    federation = make_federation(plan=without_noise(private_plan(sampling_prob=1.0)))
    state_after(selective(), federation, 3)
    kept = [agent.memory.before(9)["replica"].tobytes() for agent in federation.agents.values()]
    assert len(set(kept)) == 3
