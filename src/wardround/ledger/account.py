"""One hospital's account in one run: check, then spend.

Each run has a cap, which is public: the most that all its charges together may cost, by the accountant of its plan.
Before it began, every person in it could afford everything that is foreseen, and that much is kept for it. So no charge
of a run asks what a person has spent: nothing that leaves depends on one person's account.

The check against the cap is made once for all the charges that are foreseen: the counts it was made for are a
certificate, and as doing less never costs more, every later charge inside them is allowed without asking the accountant
again. The counts are read anew inside every transaction, so what another process charged in between is part of it.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.calibration import affordable_count
from wardround.accounting.events import Event, LeafEvent, event_of_leaves, leaves, sorted_leaves
from wardround.accounting.filter import RenyiFilter
from wardround.errors import BudgetExhausted, LedgerError
from wardround.ledger.book import Part
from wardround.ledger.chain import Chain
from wardround.ledger.entry import Answered, Charge, Ended, LimitSet

Counts = Mapping[LeafEvent, int]
"""Times that each leaf event was charged, or may be."""


class Account:
    """One hospital's account in one run; made by `LedgerFile.begin`.

    Attributes:
        begun: sequence number of the line that it began with.
        admitted: of each person offered, whether they are in the run, (person,).
    """

    def __init__(self, chain: Chain, begun: int, admitted: npt.NDArray[np.bool_]) -> None:
        self.begun, self.admitted = begun, admitted
        self._chain = chain
        self._certified: Counts = {}

    def charge(self, event: Event, *, release: str, purpose: str, planned: int = 1) -> None:
        """Writes down what is about to be released; only after it returns may anything be released.

        Guarantee:
            All charges of the run, by all processes, compose to at most its cap; and everything ever charged to a
            person of it keeps to the ledger's limit (`accounting.filter`), however the studies were chosen. Check
            and line are one transaction that no other writer can enter.

        Args:
            event: about to be done.
            release: of the run, such as "round-12". A seeded run's same release is bit for bit the same whenever it is
                made: it is charged once. In any other run it is a new attempt, and charged again.
            purpose: a word for the reader of the ledger.
            planned: such charges that are foreseen, this one included: they are then checked at once. It changes the
                time this takes, never what is allowed.

        Raises:
            BudgetExhausted: the charge would exceed the cap; the ledger is as it was.
            LedgerError: the file is damaged, busy, or cannot be written.
        """
        with self._chain.transaction():
            part = self._part
            attempt, earlier = part.releases.get(release, (0, None))
            if part.begun.seeded and earlier is not None and leaves(earlier) == leaves(event):
                return
            if part.is_ended:
                raise LedgerError(
                    f"{release} must be charged before its run has ended, and the ledger says that it has. Start a new "
                    "run.",
                    code="ledger-ended",
                )
            self._check_affordable(part, event, max(1, planned))
            self._chain.append(Charge(self.begun, release, attempt + 1, purpose, event, self._chain.now()))

    def answer_once(self, release: str, answer: str) -> None:
        """Writes down the SHA-256 of the one answer to a request, before it is sent.

        Raises:
            LedgerError: another answer was sent: a copy of this run went on elsewhere.
        """
        with self._chain.transaction():
            self.check_unanswered(release, answer)
            if release not in self._part.answers:
                self._chain.append(Answered(self.begun, release, answer, self._chain.now()))

    def check_unanswered(self, release: str, answer: str | None) -> None:
        """Refuses what `answer_once` would refuse, before anything is charged; `answer` is the one that is known.

        Raises:
            LedgerError: the ledger has another answer.
        """
        earlier = self._part.answers.get(release)
        if earlier is not None and earlier != answer:
            raise LedgerError(
                f"{release} of this run must have one answer, and the ledger has another one: a copy of the run went "
                "on elsewhere. Go on with that copy, or start a new run.",
                code="ledger-answered",
            )

    @property
    def is_ended(self) -> bool:
        """True where nothing more may be charged to the run, but what a seeded one repeats."""
        return self._part.is_ended

    @property
    def is_seeded(self) -> bool:
        """True where the run releases bit for bit the same again."""
        return self._part.begun.seeded

    def end(self) -> None:
        """Writes down that nothing more is foreseen: what was not charged is free for other studies."""
        with self._chain.transaction():
            if not self._part.is_ended:
                self._chain.append(Ended(self.begun, self._chain.now()))

    def spent(self) -> float:
        """Returns epsilon of everything charged to this run so far, at its delta."""
        part = self._part
        return self._epsilon_of(part, part.counts)

    def charged(self) -> dict[str, int]:
        """Returns the leaf events that this run was charged, by purpose."""
        return dict(self._part.purposes)

    def released(self) -> tuple[str, ...]:
        """Returns the name of each release that this run was charged for, in order; charges of nothing are none."""
        return tuple(self._part.released)

    def charges(self, purpose: str) -> int:
        """Returns how often this run was charged for a purpose."""
        return self._part.charged[purpose]

    @property
    def limit(self) -> LimitSet | None:
        """The limit of the whole ledger, as last set; None before the first."""
        return self._chain.limit

    @property
    def delta(self) -> float:
        """Delta of the run's cap."""
        return self._part.begun.delta

    def position(self) -> tuple[int, str]:
        """Returns the number of lines in the ledger, and the hash of the last one."""
        return self._chain.store.position()

    def head_after(self, entries: int) -> str | None:
        """Returns the hash of the last of so many lines of the ledger; None if there are fewer."""
        return self._chain.head_after(entries)

    def verify(self, expected_head: str | None = None) -> None:
        """Walks the whole ledger; see `Chain.verify`."""
        self._chain.verify(expected_head)

    @property
    def _part(self) -> Part:
        return self._chain.book().parts[self.begun]

    def _check_affordable(self, part: Part, event: Event, planned: int) -> None:
        after = _plus(part.counts, event)
        is_certified = _covers(self._certified, after)
        if not is_certified:
            foreseen: Counts = dict(leaves(part.begun.foreseen))
            if not _covers(foreseen, after):
                foreseen = _plus(part.counts, event, planned)
            if self._epsilon_of(part, foreseen) <= part.begun.epsilon:
                self._certified = foreseen
            else:
                begun = part.begun
                affordable = affordable_count(
                    event_of_leaves(sorted_leaves(part.counts)), event, begun.epsilon, begun.delta,
                    accountant=begun.accountant, at_most=planned,
                )  # fmt: skip
                self._certified = _plus(part.counts, event, affordable)
            is_certified = _covers(self._certified, after)
        if not is_certified or not self._is_kept(part, after):
            raise BudgetExhausted(
                f"Hospital {part.begun.hospital} must stay within epsilon {part.begun.epsilon:g} at delta "
                f"{part.begun.delta:g} for one {part.begun.unit} in this study, and this release would bring it to "
                f"{self._epsilon_of(part, after):.4g}. Nothing was released: stop here, or begin a study that may "
                "spend more."
            )

    def _is_kept(self, part: Part, after: Counts) -> bool:
        """Returns whether what was kept for this run covers these charges; a public fact, the same for every person.

        Other charges than those foreseen are covered where they diverge no more at any order, and cost no more.
        """
        limit = self._chain.limit
        if limit is None:
            return True
        foreseen = leaves(part.begun.foreseen)
        if _covers(dict(foreseen), after):
            return True
        bound, items = RenyiFilter(limit.epsilon, limit.delta), sorted_leaves(after)
        kept = bool((bound.divergences(items) <= bound.divergences(foreseen)).all())
        kind = part.begun.accountant
        return kept and (
            epsilon_of(event_of_leaves(items), limit.delta, kind)
            <= epsilon_of(part.begun.foreseen, limit.delta, kind)
        )

    @staticmethod
    def _epsilon_of(part: Part, counts: Counts) -> float:
        return epsilon_of(event_of_leaves(sorted_leaves(counts)), part.begun.delta, part.begun.accountant)


def _covers(certified: Counts, counts: Counts) -> bool:
    for leaf, count in counts.items():  # noqa: SIM110  # a generator costs as much again, at each charge
        if count > certified.get(leaf, 0):
            return False
    return True


def _plus(counts: Counts, event: Event, times: int = 1) -> Counts:
    total = dict(counts)
    for leaf, count in leaves(event):
        total[leaf] = total.get(leaf, 0) + count * times
    return total
