"""A study as the hospital that is asked to take part reads it: its promise, and what it would cost its own patients.

Released: nothing. The figures depend on the accounts of single patients, and are for the hospital's own screen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wardround import __version__
from wardround.accounting.insiders import InsiderRow
from wardround.accounting.statement import Statement
from wardround.agreed.plans import epsilon_limit_of, plan_of
from wardround.boundary.text import counted, sentence_lines
from wardround.config import Study
from wardround.config.site import PolicyFile, Site
from wardround.errors import BudgetExhausted, PrivacyError
from wardround.hospital.allowed import refusals
from wardround.hospital.charged import foreseen
from wardround.hospital.examined.patients import set_aside
from wardround.hospital.opening import check_deployable, check_named, of_hospital, own_images, set_limit
from wardround.ledger.file import LedgerFile
from wardround.ledger.spending import greatest_after, spending_of
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.kinds import NothingTrained
from wardround.privacy.plans.wording import evaluation_statement, statement_of


@dataclass(frozen=True)
class Review:
    """Figures that a person reads before accepting a study.

    Attributes:
        study: its name and digest.
        statement: the promise, after all rounds and spare attempts.
        insiders: against whom it holds, and how far.
        refusals: what the hospital's policy has against it.
        has_begun: the ledger has charges or a beginning of it; the figures below then count it twice.
        patients: of the cohort who would train; the others are test patients.
        affording: those of them who can afford it, and would take part.
        delta: of the three figures that follow, the ledger's.
        spent: the greatest epsilon of any of them so far.
        after: the greatest epsilon of any who would take part, with this study.
        limit: of the ledger.
        tested: test patients of the cohort.
        evaluation: the promise to them; None where no figure of them leaves.
    """

    study: tuple[str, str]
    statement: Statement
    insiders: tuple[InsiderRow, ...]
    refusals: tuple[PrivacyError, ...]
    has_begun: bool
    patients: int
    affording: int
    delta: float
    spent: float
    after: float
    limit: float
    tested: int
    evaluation: Statement | None

    def lines(self) -> Iterator[str]:
        """Yields the review in words."""
        name, digest = self.study
        yield f"study {name}, digest {digest}"
        yield from sentence_lines(self.statement.sentence())
        for row in self.insiders:
            yield f"  against {row.adversary}: epsilon = {row.epsilon:.3f} at delta = {self.statement.delta:g}"
        at = f"at delta = {self.delta:g}"
        yield f"{self.affording} of {counted(self.patients, 'patient')} can afford it and would take part"
        yield f"spent so far by a patient, at most: epsilon = {self.spent:.3f} {at}"
        yield f"with this study: epsilon = {self.after:.3f} of {self.limit:g} {at}; {self.left:.3f} would be left"
        if self.evaluation is None:
            yield f"{counted(self.tested, 'test patient')}: no figure of them leaves this hospital"
        else:
            yield f"{counted(self.tested, 'test patient')}, whose own accounts are charged:"
            yield from sentence_lines(self.evaluation.sentence())
        if self.has_begun:
            yield "this study has begun here: the figures above count it twice"
        for refusal in self.refusals:
            yield f"refused ({refusal.code}): {refusal}"

    @property
    def left(self) -> float:
        """Epsilon between the limit and the patient who would have spent most."""
        return max(0.0, self.limit - self.after)


def review(folder: Path, site: Site, policy: PolicyFile, study: Study) -> Review:
    """Returns the review of a study by one hospital; charges nothing, promises nothing, writes nothing.

    Raises:
        WardroundError: a study that no hospital could answer, or pictures or a ledger that do not hold.
    """
    plan = plan_of(study)
    check_deployable(study, plan, site)
    check_named(study, site)
    training, tested = set_aside(own_images(of_hospital(study, site, folder), site).patients, study)
    charged = tested if isinstance(plan.training, NothingTrained) else training
    persons, seeded = [patient.id for patient in charged], study.study.seed is not None
    more = foreseen(plan, epsilon_limit_of(study, plan))
    with LedgerFile(folder / "ledger.sqlite", version=__version__, copied=True) as ledger:
        set_limit(ledger, policy)
        delta = policy.policy.delta
        try:
            affords = ledger.can_afford(persons, more, plan.accountant, plan.unit, plan.relation)
            members = [person for person, is_in in zip(persons, affords, strict=True) if is_in]
        except BudgetExhausted:
            members = []
        return Review(
            study=(study.study.name, study.digest),
            statement=statement_of(plan, simulated=False, seeded=seeded),
            insiders=insiders_of(plan, all_present=not study.leaves_one_out),
            refusals=tuple(refusals(study, plan, policy)),
            has_begun=any(part.begun.study == study.digest for part in ledger.book().parts.values()),
            patients=len(persons),
            affording=len(members),
            delta=delta,
            spent=spending_of(ledger, persons, delta).greatest,
            after=greatest_after(ledger, members, more, delta),
            limit=policy.policy.epsilon_limit,
            tested=len(tested),
            evaluation=evaluation_statement(plan, simulated=False, seeded=seeded) if plan.evaluation else None,
        )
