"""A run as the coordinator sees it: a channel, a strategy, and what the hospitals said of themselves.

It has no picture, no ledger and no hospital's key. What it knows of a hospital is its `Hello` before round 1, its
replies in the rounds, and its `Receipt` at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from wardround import __version__
from wardround.agreed.strategies import releases_after
from wardround.config import Study
from wardround.errors import FederationError
from wardround.federation.channel import DEADLINE_S, Channel
from wardround.federation.masked import MaskedAggregator, Tries
from wardround.federation.messages import UNREACHED, Hello, Receipt, Request
from wardround.federation.receipts import check_receipt
from wardround.federation.strategy import Strategy
from wardround.noisers import dropouts_of
from wardround.privacy.plans.plan import Plan
from wardround.secure_aggregation.round.witness import Witness
from wardround.types import HospitalName
from wardround.work import GiveReceipt, SayHello

_Said = TypeVar("_Said", Hello, Receipt)

Receipts = Mapping[HospitalName, Receipt]


@dataclass(frozen=True)
class Coordinator:
    """The coordinator of one run.

    Attributes:
        plan: the privacy plan that follows from it.
        masked: forms the sums, where they are masked; else None.
        keys: public signing keys of the hospitals, by name; empty in a simulation, whose receipts have no signature.
    """

    study: Study
    plan: Plan
    channel: Channel
    strategy: Strategy
    masked: MaskedAggregator | None = None
    keys: Mapping[str, bytes] = field(default_factory=dict)
    _heard: dict[HospitalName, Receipt] = field(default_factory=dict, repr=False)

    @property
    def may_be_gone(self) -> int:
        """Hospitals that may leave a run that has begun, for good: those whose share of the noise may be missing."""
        return dropouts_of(self.plan.noiser)

    def greet(self, *, resumes: bool = False) -> Hello:
        """Asks every hospital what it is, and returns what all of them have in common.

        The number of threads is compared where the study gives it, or has a seed: it may round differently. Devices are
        not compared: with a seed all hospitals compute on the processor, and without one no bit has to agree. Where a
        run goes on, as many hospitals as the study foresees may be gone.

        Raises:
            FederationError: a hospital does not answer, or differs from another one in its study, version, classes,
                input shape, initial weights or threads, or from the coordinator in its version.
        """
        hellos = self._said(SayHello(), Hello, self.may_be_gone if resumes else 0)
        (first_name, first), *others = hellos.items()
        if first.version != __version__:
            raise FederationError(
                f"All parties must have the same version: {first_name} has {first.version}, the coordinator has "
                f"{__version__}. Install one version everywhere.",
                code="federation-version",
            )
        compared = ["study", "version", "classes", "input_shape", "weights_sha256"]
        if self.study.study.seed is not None or self.study.performance.threads is not None:
            compared.append("threads")
        for name, hello in others:
            for what in compared:
                theirs, known = getattr(hello, what), getattr(first, what)
                if theirs != known:
                    raise FederationError(
                        f"All hospitals must have the same {what.replace('_', ' ')}: {first_name} has {known}, "
                        f"{name} has {theirs}. Compare the study files and versions, and begin again.",
                        code="federation-hospitals-differ",
                    )
        return first

    def receipts(self) -> dict[HospitalName, Receipt]:
        """Asks every hospital what its ledger was charged for this study; those that the study lets go may be missing.

        Raises:
            FederationError: more hospitals do not answer, or its receipt is of another study or hospital, or not signed
                with its key.
        """
        receipts, digest = self._said(GiveReceipt(), Receipt, self.may_be_gone), self.study.digest
        for name, receipt in receipts.items():
            if receipt.study != digest or receipt.hospital != name:
                raise FederationError(
                    f"The receipt of {name} must be its own and of this study, and is not.",
                    code="federation-receipt",
                )
            if name in self.keys:
                check_receipt(receipt, self.keys[name])
        return receipts

    def witness(self, round: int) -> Witness | None:
        """Returns what the witness coordinates of a round showed; None where sums are not masked."""
        return None if self.masked is None else self.masked.witnesses.get(round)

    def tries(self, round: int) -> Tries | None:
        """Returns the attempts of a round in which hospitals were missing; None where none was, or sums are open.

        Those of a count before round 1 stand with round 1.
        """
        rounds, tries = (0, 1) if round == 1 else (round,), {} if self.masked is None else self.masked.tries
        found = [tries[one] for one in rounds if one in tries and tries[one].missing]
        if not found:
            return None
        missing = {name: None for one in found for name in one.missing}
        return Tries(1 + sum(one.attempts - 1 for one in found), tuple(missing))

    def epsilon_after(self, round: int) -> float:
        """Returns the epsilon of everything that was charged up to a round.

        Under masks attempts are lost when a hospital is missing, and were charged all the same: the receipts say how
        many; of a hospital that is away, the last one that it gave. A seeded run protects no patient, and says the same
        of a round whether or not it was repeated: it counts rounds.
        """
        done = releases_after(self.study, round)
        if self.plan.masked is None or self.study.study.seed is not None:
            return self.plan.epsilon_after(done)
        self._heard.update(self.receipts())
        releases, counts = charged(self._heard)
        return self.plan.epsilon_after(max(done, releases), counts)

    def close(self) -> None:
        """Ends the rounds: the hospitals take in the sum that was opened last."""
        if self.masked is not None:
            self.masked.close(self.channel, DEADLINE_S)

    def _said(self, work: SayHello | GiveReceipt, kind: type[_Said], may_miss: int) -> dict[HospitalName, _Said]:
        request = Request(self.study.digest, 0, 1, work)
        replies, failures = self.channel.ask(dict.fromkeys(self.channel.hospitals, request), DEADLINE_S)
        if len(failures) > may_miss:
            name, failure = next(iter(failures.items()))
            but = f" but {may_miss}" if may_miss else ""
            look = UNREACHED if failure.is_unreached else "Its own log says why."
            raise FederationError(
                f"Every hospital{but} must say its {work.name}, and {name} did not: {failure}. {look}",
                code="federation-silent-hospital",
            )
        said = {name: reply for name, reply in replies.items() if isinstance(reply, kind)}
        if len(said) < len(replies):
            raise FederationError(f"Every hospital must reply with its {work.name}, and one replied otherwise.")
        return said


def charged(receipts: Receipts) -> tuple[int, int]:
    """Returns the most noised releases, and the most noised counts, that some hospital was charged for the study."""
    return max(r.releases for r in receipts.values()), max(1, *(r.counts for r in receipts.values()))
