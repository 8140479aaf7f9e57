"""A hospital's account in a study: what is foreseen, and what was charged, which is more than the rounds that ended.

A round that was interrupted, or an attempt under masks that lost a hospital, was charged before anything was sent, and
may have been seen.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

from wardround.accounting.events import Event, leaves
from wardround.accounting.search import largest_count
from wardround.agreed.plans import epsilon_limit_of
from wardround.config import Study
from wardround.hospital.policy import COUNT_PURPOSES
from wardround.ledger.account import Account
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.kinds import NoisedPictures
from wardround.privacy.plans.plan import Plan
from wardround.types import HospitalName

PICTURES = "pictures"
"""Purpose of the ledger's lines that pay for noised pictures."""


def charged_releases(account: Account, plan: Plan) -> int:
    """Returns the noised sums that a run was charged, whether or not their round ended."""
    if isinstance(plan.training, NoisedPictures):
        return account.charges(PICTURES)
    sums = sum(count for purpose, count in account.charged().items() if purpose not in COUNT_PURPOSES)
    # A release may be made of several mechanisms.
    each = sum(count for _, count in leaves(release_event(plan.main)))
    return -(-sums // max(1, each))


def charged_counts(account: Account) -> int:
    """Returns the noised counts of patients that a run was charged."""
    return sum(count for purpose, count in account.charged().items() if purpose in COUNT_PURPOSES)


def foreseen(plan: Plan, cap: float) -> Event:
    """Returns everything that a run is expected to be charged: its plan, as far as its cap goes."""
    if not plan.is_private or plan.epsilon <= cap:
        return plan.event_after(plan.releases, plan.counts)
    counts = plan.counts
    affordable = largest_count(lambda releases: plan.epsilon_after(releases, counts), cap, plan.releases)
    return plan.event_after(affordable, counts)


def spare_attempts(account: Account, place: str) -> int:
    """Returns the answers beyond one a round and purpose that a run was charged for, were `place` charged once more.

    Charges of nothing, as of the later rounds under correlated noise, are none. `place` is a round and a purpose, such
    as "3/gradient-sum".
    """
    charged = [release.rpartition("/")[0] for release in account.released()]
    return len(charged) + 1 - len({*charged, place})


def open_accounts(
    ledger: LedgerFile, study: Study, plan: Plan, persons: Mapping[HospitalName, Sequence[str]], run: str
) -> dict[HospitalName, Account]:
    """Returns hospitals' accounts in a study's run, at the plan's delta, accountant, unit and relation: all or none.

    Args:
        ledger: the hospital's, or that of the person who simulates all of them.
        study: names the run, and caps what it may cost.
        plan: the study's.
        persons: ids of those that the study would have, by the hospital's name in the study.
        run: see `LedgerFile.begin`.

    Raises:
        BudgetExhausted: nobody could afford the study.
        LedgerError: the ledger is damaged, busy, or cannot be written.
    """
    cap, digest = epsilon_limit_of(study, plan), study.digest
    expected = foreseen(plan, cap)
    with ledger.transaction():
        ledger.enrol(chain.from_iterable(persons.values()))
        return {
            hospital: ledger.begin(
                run=run, study=digest, name=study.study.name, hospital=hospital, persons=own,
                foreseen=expected, epsilon=cap, delta=plan.delta, accountant=plan.accountant, unit=plan.unit,
                relation=plan.relation, seeded=study.study.seed is not None,
            )
            for hospital, own in persons.items()
        }  # fmt: skip


def run_of(study: Study, origin: str, made: str) -> str:
    """Returns the name of a run in a ledger: `made` for it, or of a seeded study what all its releases follow from.

    A seeded study releases bit for bit the same, at no further cost, as long as its origin is the same.

    Args:
        study: to be run.
        origin: digest of all pictures and labels, and of patients' places and a weights file where the study does not
            say these. It stays in the ledger.
        made: the same for the whole run, and for no other.
    """
    return made if study.study.seed is None else f"seeded/{study.digest}/{origin}"
