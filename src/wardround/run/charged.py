"""How many releases the hospitals' ledgers were charged for, which is more than the rounds that ended.

A round that was interrupted, or an attempt under masks that lost a hospital, was charged before anything was sent, and
may have been seen.
"""

from wardround.accounting.events import leaves
from wardround.accounting.ledger import Ledger
from wardround.agent.policy import COUNTS
from wardround.config import Study
from wardround.privacy.plan import PrivacyPlan
from wardround.run.assemble import Federation
from wardround.run.local_pictures import charges
from wardround.run.strategies import releases_after


def charged_after(study: Study, plan: PrivacyPlan, federation: Federation, round: int) -> tuple[int, int]:
    """Noised sums, and noised counts, that cost epsilon up to a round.

    Under masks attempts are lost when a hospital is missing, and were charged all the same: the ledgers say how many.
    A seeded run protects nobody, and says the same of a round whether or not it was repeated: it counts rounds.
    """
    done = releases_after(study, round)
    if plan.shares is None or study.study.seed is not None:
        return done, 1
    releases, counts = charged(study, plan, federation)
    return max(done, releases), counts


def charged(study: Study, plan: PrivacyPlan, federation: Federation) -> tuple[int, int]:
    """The most noised sums, and noised counts, that some hospital's ledger was charged for this study."""
    ledgers = [agent.ledger for agent in federation.agents.values()]
    releases = max(_charged_releases(ledger, study, plan) for ledger in ledgers)
    return releases, max(1, *(_charged_counts(ledger, study) for ledger in ledgers))


def _charged_releases(ledger: Ledger, study: Study, plan: PrivacyPlan) -> int:
    """Noised sums that a hospital's ledger was charged for this study, whether or not their round ended."""
    if plan.on_pictures is not None:
        return charges(ledger, study)
    sums = sum(count for purpose, count in ledger.charged(study.digest).items() if purpose not in COUNTS)
    each = sum(count for _, count in leaves(plan.release_event))  # a release may be made of several mechanisms
    return -(-sums // max(1, each))


def _charged_counts(ledger: Ledger, study: Study) -> int:
    """Noised counts of patients that a hospital's ledger was charged for this study."""
    return sum(count for purpose, count in ledger.charged(study.digest).items() if purpose in COUNTS)
