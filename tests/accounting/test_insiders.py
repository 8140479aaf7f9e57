import math

import pytest
from tests.cases import family

from wardround.accounting.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from wardround.accounting.insiders import InsiderRow, epsilon_by_colluders
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares, Trust, inflation_of, noiser_of


def training(noise_multiplier: float) -> SelfComposedEvent:
    return SelfComposedEvent(PoissonSampledEvent(0.02, GaussianEvent(noise_multiplier)), 2_000)


def table(hospitals: int, colluders: int, dropouts: int = 0) -> dict[tuple[int, int], InsiderRow]:
    rows = epsilon_by_colluders(training, 1.0, NoiseShares(hospitals, colluders, dropouts), delta=1e-5)
    return {(row.colluders, row.missing): row for row in rows}


@pytest.mark.parametrize(
    ("hospitals", "colluders", "expected"),
    family(
        [
            (2, 0, {0: 5.62, 1: 12.5}),
            (3, 0, {0: 5.62, 1: 8.71, 2: 22.4}),
            (5, 0, {0: 5.62, 1: 7.07, 2: 9.90}),
            (10, 0, {0: 5.62, 1: 6.24, 2: 7.07, 9: 156}),
            (2, 1, {0: 3.12, 1: 5.62}),
            (3, 1, {0: 3.91, 1: 5.62}),
            (5, 1, {0: 4.56, 1: 5.62}),
            (10, 1, {0: 5.08, 1: 5.62}),
        ],
        keep=[(3, 0, {0: 5.62, 1: 8.71, 2: 22.4}), (3, 1, {0: 3.91, 1: 5.62})],
    ),
)
def test_insiders_are_as_strong_as_the_audit_found(hospitals, colluders, expected):
    rows = table(hospitals, colluders)
    for colluding, epsilon in expected.items():
        assert rows[colluding, 0].epsilon == pytest.approx(epsilon, rel=4e-3)


def test_the_foreseen_colluders_and_dropouts_leave_exactly_what_was_promised():
    rows = table(hospitals=6, colluders=2, dropouts=1)
    assert rows[2, 1].noise_multiplier == 1.0
    assert rows[2, 0].noise_multiplier > 1.0
    assert rows[3, 1].noise_multiplier < 1.0


def test_no_unknown_noise_is_no_guarantee():
    assert table(hospitals=3, colluders=1, dropouts=1)[2, 1].epsilon == math.inf


def test_a_trusted_coordinator_itself_sees_everything():
    outsider, coordinator = epsilon_by_colluders(training, 1.0, ByCoordinator(5), delta=1e-5)
    assert outsider.epsilon == pytest.approx(5.62, abs=0.01)
    assert (coordinator.adversary, coordinator.epsilon) == ("the coordinator", math.inf)
    assert coordinator.to_json()["epsilon"] == "infinity"


def test_who_trusts_nobody_has_one_promise_against_everyone():
    [everyone] = epsilon_by_colluders(training, 1.0, ByEachHospital(5), delta=1e-5)
    assert everyone.colluders == 4
    assert everyone.epsilon == pytest.approx(5.62, abs=0.01)


def test_shares_add_up_to_the_promise():
    shares = NoiseShares(hospitals=10, colluders=2, dropouts=1)
    assert math.sqrt(shares.honest) * shares.share(1.15) == pytest.approx(1.15)
    assert math.sqrt(10) * shares.share(1.15) == pytest.approx(1.15 * inflation_of(shares))


@pytest.mark.parametrize(
    ("hospitals", "colluders", "dropouts"), [(0, 0, 0), (1, 1, 0), (3, -1, 0), (3, 0, -1), (3, 2, 1)]
)
def test_a_federation_without_an_honest_hospital_is_refused(hospitals, colluders, dropouts):
    with pytest.raises(PrivacyError, match=r"must be .* got"):
        NoiseShares(hospitals, colluders, dropouts)


@pytest.mark.parametrize("trust", [Trust.COORDINATOR, Trust.NOBODY])
def test_numbers_of_shares_are_refused_where_none_are_added(trust):
    assert noiser_of(trust, 3).hospitals == 3
    for given in ({"colluders": 1}, {"dropouts": 1}):
        with pytest.raises(PrivacyError, match="must be 0"):
            noiser_of(trust, 3, **given)
