"""What could be broken without anything looking broken: each mutation turns a named check red."""

from dataclasses import replace

import numpy as np
import pytest
from tests.charges import charges_in
from tests.hospital.masked_rounds import MaskedFederation, announce, expected_total, masked_plan, rows_of

from wardround.errors import FederationError, LedgerError
from wardround.federation.messages import Request
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategy import Call
from wardround.hospital.agent import Agent
from wardround.hospital.kept.notes import Notes
from wardround.secure_aggregation.integers import mechanism as mechanism_module
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.integers.grid import Grid
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.keys.secret import Once
from wardround.secure_aggregation.round.round_key import RoundKey
from wardround.secure_aggregation.round.witness import WITNESSES
from wardround.work import GradientSum


class Broken(Exception):
    """A check that does not hold."""


def demand(holds, what):
    if not holds:
        raise Broken(what)


# The checks ----------------------------------------------------------------------------------------------------------


def the_sum_is_clear_sum_and_all_shares(make):
    masked = make()
    total = masked.ask()
    expected = expected_total(masked, masked.request(), masked.channel.hospitals)
    update = masked.mechanism.decode(expected)[:-WITNESSES].astype(np.float32)
    demand(np.array_equal(total.update, update), "the opened sum is another")


def the_witness_is_quiet(make):
    masked = make()
    try:
        for round in range(1, 6):
            masked.ask(round)
    except FederationError as error:
        raise Broken(str(error)) from None


def a_patient_moves_the_sum_by_the_bound_at_most(make):
    masked = make(sampling_prob=1.0)
    grid, bound = masked.mechanism.grid, masked.mechanism.sensitivity
    for agent in masked.federation.agents.values():
        rows = [1000 * row for row in rows_of(agent, masked.request())]
        whole = grid.sum_of(rows)
        for left_out in range(len(rows)):
            moved = whole - grid.sum_of(rows[:left_out] + rows[left_out + 1 :])
            demand(sum(int(step) ** 2 for step in moved) <= bound**2, "a row is longer than the bound")


def an_empty_sample_is_noised(make):
    masked = make()
    noised = masked.mechanism.encode([], masked.federation.agents["hospital-1"].noise_bytes(masked.request()))
    spread = float(np.std(noised.astype(np.float64))) / masked.mechanism.share_std
    demand(0.9 < spread < 1.1, f"the noise on nobody has {spread:.2g} of its size")


def the_step_divides_by_a_public_constant(make):
    masked = make(sampling_prob=0.5)
    opened = masked.ask().update
    again = make(sampling_prob=0.5, folder="again")
    sgd = FedSGD(Call("a study", allowed_missing=1), again.aggregator, 1.0, 0.0, 0.5, 20, 0.5)
    weights = masked.federation.weights
    after = sgd.update(sgd.init(weights, again.channel), again.channel, 1)["weights"]
    demand(np.array_equal(after, weights - opened / np.float32(0.5 * 20)), "the step depends on the sample's size")


def masks_hide_one_vector(make):
    masked = make()
    parties = masked.parties.values()
    keys = [announce(p, masked.request()) for p in parties]
    [party, *_] = parties
    party.admit([p.confirm(keys) for p in parties])
    masks = party._attempt.key.masks(party._attempt.charged)
    hidden = [masks.hide(np.full(masked.mechanism.dimension, 7, dtype=masked.mechanism.ring.dtype))]
    try:
        hidden.append(masks.hide(np.full(masked.mechanism.dimension, 9, dtype=masked.mechanism.ring.dtype)))
    except FederationError:
        return
    raise Broken("two vectors under one mask show their difference")


def a_ledger_that_was_put_back_is_refused(make):
    masked = make()
    masked.ask()
    try:
        make(seed=6, folder="notes of 5")  # another ledger file, and the notes of the first
    except LedgerError:
        return
    raise Broken("a hospital went on with an empty ledger")


def nothing_leaves_uncharged(make):
    masked = make()
    masked.ask()
    charged = {name: charges_in(ledger.path)[name] for name, ledger in masked.federation.ledgers.items()}
    demand(masked.uploads and all(charged[name] for name, _ in masked.uploads), "an upload is not in the ledger")


CHECKS = [
    the_sum_is_clear_sum_and_all_shares, the_witness_is_quiet, a_patient_moves_the_sum_by_the_bound_at_most,
    an_empty_sample_is_noised, the_step_divides_by_a_public_constant, masks_hide_one_vector,
    a_ledger_that_was_put_back_is_refused, nothing_leaves_uncharged,
]  # fmt: skip


# The mutations -------------------------------------------------------------------------------------------------------


def drop_a_share(patch):
    def noised(self, total_of, random_bytes):
        calls[0] += 1
        return total_of() if calls[0] % 5 == 0 else noised_well(self, total_of, random_bytes)

    calls, noised_well = [0], IntegerMechanism.noised
    patch.setattr(IntegerMechanism, "noised", noised)


def divide_the_share_twice(patch):
    patch.setattr(
        mechanism_module,
        "discrete_gaussian",
        lambda count, std, source: discrete_gaussian(count, std // 2, source),
    )


def clip_at_twice_the_norm(patch):
    def round_into(self, row, gradient):
        longer = replace(self, clipping_norm=2 * self.clipping_norm, bound=2 * self.bound)
        return round_well(longer, row, gradient)

    round_well = Grid._round_into
    patch.setattr(Grid, "_round_into", round_into)


def divide_by_the_realised_sample(patch):
    def update(self, state, channel, round):
        request = Request("a study", round, 1, GradientSum(state["weights"]))
        parties = channel.answer.__self__.parties.values()
        realised = sum(len(party._agent.sample(request).chosen) for party in parties)
        size = np.array([max(1, realised) / self.sampling_prob], dtype=np.float32)
        return update_well(self, {**state, "num_patients": size}, channel, round)

    update_well = FedSGD.update
    patch.setattr(FedSGD, "update", update)


def skip_the_noise_of_an_empty_sample(patch):
    def noised(self, total_of, random_bytes):
        total = total_of()
        return noised_well(self, lambda: total, random_bytes) if total.any() else total

    noised_well = IntegerMechanism.noised
    patch.setattr(IntegerMechanism, "noised", noised)


def use_a_mask_again(patch):
    patch.setattr(Once, "take", lambda self: self._left[0])


def forget_the_ledger_s_head(patch):
    patch.setattr(Notes, "check", lambda self, ledger: None)


def charge_nothing(patch):
    patch.setattr(Agent, "admit", lambda self, request: None)


def leave_a_mask_out(patch):
    def masks(self, agreed):
        found = masks_well(self, agreed)
        found._shares._left[0] = found._shares._left[0][1:]
        return found

    masks_well = RoundKey.masks
    patch.setattr(RoundKey, "masks", masks)


MUTATIONS = [
    (drop_a_share, the_sum_is_clear_sum_and_all_shares),
    (drop_a_share, the_witness_is_quiet),
    (divide_the_share_twice, the_sum_is_clear_sum_and_all_shares),
    (divide_the_share_twice, the_witness_is_quiet),
    (clip_at_twice_the_norm, a_patient_moves_the_sum_by_the_bound_at_most),
    (divide_by_the_realised_sample, the_step_divides_by_a_public_constant),
    (skip_the_noise_of_an_empty_sample, an_empty_sample_is_noised),
    (use_a_mask_again, masks_hide_one_vector),
    (forget_the_ledger_s_head, a_ledger_that_was_put_back_is_refused),
    (charge_nothing, nothing_leaves_uncharged),
    (leave_a_mask_out, the_sum_is_clear_sum_and_all_shares),
]


@pytest.fixture
def make(make_federation, tmp_path):
    def make(*, seed=5, folder=None, **fields):
        notes = tmp_path / (folder or f"notes of {seed}")
        notes.mkdir(exist_ok=True)
        plan = masked_plan(**fields)
        return MaskedFederation(make_federation(hospitals=plan.hospitals, plan=plan, seed=seed), notes)

    return make


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_checks_hold(make, check):
    check(make)


@pytest.mark.parametrize(("mutate", "check"), MUTATIONS, ids=lambda function: function.__name__)
def test_a_mutation_turns_its_check_red(make, monkeypatch, mutate, check):
    mutate(monkeypatch)
    with pytest.raises((Broken, FederationError)):
        check(make)


def test_every_check_has_a_mutation_that_it_finds():
    assert {check for _, check in MUTATIONS} == set(CHECKS)
