"""The releases that a hospital's ledger was charged for in a study, which are more than the rounds that ended.

A round that was interrupted, or an attempt under masks that lost a hospital, was charged before anything was sent, and
may have been seen.
"""

from wardround.accounting.events import leaves
from wardround.hospital.policy import COUNT_PURPOSES
from wardround.ledger.account import Ledger
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.kinds import NoisedPictures
from wardround.privacy.plans.plan import Plan

PICTURES = "pictures"
"""Purpose of the ledger entries that pay for noised pictures."""


def charged_releases(ledger: Ledger, study: str, plan: Plan) -> int:
    """Returns the noised sums that a ledger was charged for a study, whether or not their round ended."""
    if isinstance(plan.training, NoisedPictures):
        return charged_pictures(ledger, study)
    sums = sum(count for purpose, count in ledger.charged(study).items() if purpose not in COUNT_PURPOSES)
    # A release may be made of several mechanisms.
    each = sum(count for _, count in leaves(release_event(plan.training)))
    return -(-sums // max(1, each))


def charged_counts(ledger: Ledger, study: str) -> int:
    """Returns the noised counts of patients that a ledger was charged for a study."""
    return sum(count for purpose, count in ledger.charged(study).items() if purpose in COUNT_PURPOSES)


def spare_attempts(ledger: Ledger, study: str, place: str) -> int:
    """Returns the answers beyond one a round and purpose that a study was charged for, were `place` charged once more.

    Charges of nothing, as of the later rounds under correlated noise, are none. `place` is a round and a purpose, such
    as "3/gradient-sum".
    """
    charged = [release.rpartition("/")[0] for release in ledger.released(study)]
    return len(charged) + 1 - len({*charged, place})


def charged_pictures(ledger: Ledger, study: str) -> int:
    """Returns how often a ledger was charged for a study's pictures."""
    return ledger.released(study).count(PICTURES)


def open_ledger(
    ledgers: LedgerFile, hospital: str, dataset_digest: str, plan: Plan, epsilon_limit: float
) -> Ledger:
    """Returns a hospital's ledger for its pictures, at the plan's delta, accountant, unit and relation."""
    return ledgers.open(
        hospital, dataset_digest, epsilon_limit=epsilon_limit,
        delta=plan.delta, accountant=plan.accountant, unit=plan.unit, relation=plan.relation,
    )  # fmt: skip
