"""Random histories of one ledger, step by step beside the oracle, and once more with one person alone."""

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ledger.oracle import ORDERS, Oracle, Part, curve, rdp_epsilon, tight_epsilon

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import (
    ComposedEvent,
    GaussianEvent,
    LaplaceEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    PureEvent,
    SelfComposedEvent,
)
from wardround.accounting.filter import RenyiFilter
from wardround.errors import BudgetExhausted, LedgerError
from wardround.ledger.file import LedgerFile

WHOLE: list[Any] = [GaussianEvent(2.0), GaussianEvent(5.0), GaussianEvent(20.0), LaplaceEvent(8.0), PureEvent(0.1)]
SAMPLED = [PoissonSampledEvent(0.1, GaussianEvent(1.0)), PoissonSampledEvent(0.3, GaussianEvent(2.0))]  # slower
DELTAS = (1e-5, 1e-3)
SLACK = 1 + 1e-6  # no cap or limit is met to the last digit


@dataclass
class Replay:
    """The same ledger as if one person were alone in it."""

    person: str
    ledger: LedgerFile = field(default_factory=lambda: LedgerFile(":memory:"))
    accounts: dict[tuple[str, str, str], Any] = field(default_factory=dict)


class History:
    """A ledger, the oracle beside it, and the steps of one history."""

    def __init__(self, seed: int, folder: Path | None = None, *, sampled: bool = True) -> None:
        self.random = random.Random(seed)
        self.events = WHOLE + SAMPLED * sampled
        self.path: Path | str = ":memory:" if folder is None else folder / f"{seed}.sqlite"
        self.ledger, self.oracle = LedgerFile(self.path), Oracle()
        self.persons = [f"person {number}" for number in range(self.random.randint(1, 9))]
        self.alone = Replay(self.random.choice(self.persons))
        self.studies: list[tuple[str, str, dict[str, list[str]], dict[str, Any]]] = []
        self.accounts: dict[tuple[str, str, str], Any] = {}
        self.promised: dict[str, tuple[float, float]] = {}
        self.left_out = self.refused = 0

    def close(self) -> None:
        self.ledger.close()
        self.alone.ledger.close()

    def run(self, steps: int) -> None:
        """Makes so many steps, and checks every person at the end."""
        kinds = [
            self.begin,
            self.again,
            self.charge,
            self.charge,
            self.charge,
            self.end,
            self.set_limit,
            self.reopen,
        ]
        weights = [4, 1, 3, 3, 3, 2, 1, 0.5]
        for _ in range(steps):
            self.random.choices(kinds, weights)[0]()
            self.check_promises()
        self.check_figures()
        self.ledger.verify()

    def begin(self) -> None:
        """A study of some persons, dealt to hospitals of any number and name."""
        draw = self.random
        present = draw.sample(self.persons, draw.randint(0, len(self.persons)))  # in any order, as files have them
        names = draw.sample(["north", "south", "hospital-1", "hospital-2", "renamed"], draw.randint(1, 3))
        places: dict[str, list[str]] = {name: [] for name in names}
        for person in present:
            places[draw.choice(names)].append(person)
        one, count = draw.choice(self.events), draw.randint(1, 5)
        event: Any = SelfComposedEvent(one, count)
        if draw.random() < 0.3:
            event = ComposedEvent((event, draw.choice(self.events)))
        seeded, number = draw.random() < 0.3, len(self.studies)
        delta, accountant = draw.choice(DELTAS), AccountantKind.RDP
        cap = epsilon_of(event, delta, accountant) * SLACK if draw.random() < 0.7 else math.inf
        if cap == math.inf and self.oracle.limit is None and draw.random() < 0.3:
            event = one = NonPrivateEvent()
        study = f"study {number}"
        options = {
            "study": study, "name": study, "foreseen": event, "epsilon": cap, "delta": delta,
            "accountant": accountant, "seeded": seeded,
        }  # fmt: skip
        self.studies.append((f"seeded/{study}" if seeded else f"run {number}", study, places, options))
        self.open(number)

    def again(self) -> None:
        """A run that is resumed, or a seeded study once more, its persons in another order."""
        if self.studies:
            self.open(self.random.randrange(len(self.studies)))

    def open(self, number: int) -> None:
        run, study, places, options = self.studies[number]
        foreseen = counts_of(options["foreseen"])
        for hospital, persons in places.items():
            name = (run, study, hospital)
            persons = self.random.sample(persons, len(persons))
            expected = self._expected(name, persons, foreseen, options)
            mine = [person for person in persons if person == self.alone.person]
            try:
                account = self.ledger.begin(run=run, hospital=hospital, persons=persons, **options)
            except BudgetExhausted:
                assert expected == "too dear", (name, expected)
                self.refused += 1
                try:
                    self.alone.ledger.begin(run=run, hospital=hospital, persons=mine, **options)
                except BudgetExhausted:
                    continue
                raise AssertionError(f"{name} is refused for everybody, whoever they are") from None
            assert expected != "too dear", name
            alone = self.alone.ledger.begin(run=run, hospital=hospital, persons=mine, **options)
            admitted = dict(zip(persons, account.admitted.tolist(), strict=True))
            for person, is_in in admitted.items():
                assert expected[person] in (is_in, None), (name, person, is_in)
            self.left_out += sum(not is_in for is_in in admitted.values())
            if mine:
                assert admitted[mine[0]] == alone.admitted[0], "an admission depends on other persons"
            self.accounts[name], self.alone.accounts[name] = account, alone
            if name not in self.oracle.parts or self._is_free(name):
                members = {person for person, is_in in admitted.items() if is_in}
                self.oracle.parts[name] = Part(members, foreseen, options["seeded"])
                if self.oracle.limit is not None:
                    self.promised |= dict.fromkeys(members, self.oracle.limit)

    def _is_free(self, name: tuple[str, str, str]) -> bool:
        part = self.oracle.parts[name]
        return part.seeded and part.is_ended and not part.counts

    def _expected(self, name: Any, persons: list[str], foreseen: Counter[Any], options: dict[str, Any]) -> Any:
        if name in self.oracle.parts and not self._is_free(name):
            return {person: person in self.oracle.parts[name].members for person in persons}
        limit = self.oracle.limit
        if limit is not None and rdp_epsilon(foreseen, limit[1]) > limit[0]:
            return "too dear"
        orders = () if limit is None else tuple(RenyiFilter(*limit).orders)
        return {person: self.oracle.can_afford(person, foreseen, orders) for person in persons}

    def charge(self) -> None:
        """One release of a run: foreseen or not, new or made again, before its end or after."""
        if not self.accounts:
            return
        name = self.random.choice(list(self.accounts))
        part, account = self.oracle.parts[name], self.accounts[name]
        event = self.random.choice(
            [*part.foreseen, *part.foreseen, *part.foreseen, self.random.choice(self.events)]
        )
        release = f"round {self.random.randint(1, 4)}"
        after = part.counts + Counter([event])
        if part.seeded and part.releases.get(release) == event:
            account.charge(event, release=release, purpose="training")  # the same again: free, at any time
            self.alone.accounts[name].charge(event, release=release, purpose="training")
            return
        try:
            account.charge(event, release=release, purpose="training", planned=self.random.choice([1, 3]))
        except LedgerError as error:
            if error.code != "ledger-ended" or not part.is_ended:
                raise
            return
        except BudgetExhausted:
            begun = account._part.begun
            too_much = rdp_epsilon(after, begun.delta) > begun.epsilon
            assert not part.is_ended
            assert too_much or (self.oracle.limit is not None and not after <= part.foreseen), (name, event)
            return
        assert not part.is_ended, name
        begun = account._part.begun
        assert rdp_epsilon(after, begun.delta) <= begun.epsilon
        if self.oracle.limit is not None and not after <= part.foreseen:
            orders = tuple(RenyiFilter(*self.oracle.limit).orders)
            assert (curve(after, orders) <= curve(part.foreseen, orders)).all(), "beyond what was kept for it"
        part.counts[event] += 1
        part.releases[release] = event
        self.alone.accounts[name].charge(event, release=release, purpose="training")

    def end(self) -> None:
        """The end of a run, which may have ended before."""
        if self.accounts:
            name = self.random.choice(list(self.accounts))
            self.accounts[name].end()
            self.alone.accounts[name].end()
            self.oracle.parts[name].is_ended = True

    def set_limit(self) -> None:
        """Another limit, or none."""
        epsilon, delta = self.random.choice([math.inf, 0.5, 2.0, 4.0, 8.0]), self.random.choice(DELTAS)
        for ledger in (self.ledger, self.alone.ledger):
            ledger.set_limit(epsilon, delta, by="a test", reason="a step")
        self.oracle.limit = None if epsilon == math.inf else (epsilon, delta)
        if epsilon == math.inf:
            self.promised = {}  # from here on a run may charge more than it foresaw

    def reopen(self) -> None:
        """Another process goes on."""
        if isinstance(self.path, Path):
            self.ledger.close()
            self.ledger = LedgerFile(self.path)
            open_before, self.accounts = self.accounts, {}
            for number, (_, study, _, _) in enumerate(self.studies):
                known = [name for name in open_before if name[1] == study]
                if known and not any(self._is_free(name) for name in known):
                    self.open(number)

    def check_promises(self) -> None:
        """Whatever open runs still charge, nobody comes to more than the limit that they were last admitted under."""
        for person, (epsilon, delta) in self.promised.items():
            orders = ORDERS + tuple(RenyiFilter(epsilon, delta).orders)
            assert rdp_epsilon(self.oracle.worst(person), delta, orders) <= epsilon, person

    def check_figures(self) -> None:
        """Each person's figure is the direct composition of the charges they could have been in."""
        for person in self.persons:
            spent = self.oracle.spent(person)
            for delta in DELTAS:
                shown = self.ledger.epsilon_of(person, delta, AccountantKind.RDP)
                assert math.isclose(shown, rdp_epsilon(spent, delta), rel_tol=1e-9), person
                if all(isinstance(event, GaussianEvent) for event in spent):
                    shown = self.ledger.epsilon_of(person, delta)
                    assert math.isclose(shown, tight_epsilon(spent, delta), rel_tol=1e-4, abs_tol=1e-9), person
        alone = self.alone.person
        assert self.alone.ledger.epsilon_of(alone, 1e-5, AccountantKind.RDP) == self.ledger.epsilon_of(
            alone, 1e-5, AccountantKind.RDP
        )


def counts_of(event: Any) -> Counter[Any]:
    match event:
        case SelfComposedEvent(one, count):
            return Counter({one: count})
        case ComposedEvent(events):
            return sum((counts_of(each) for each in events), Counter())
        case _:
            return Counter([event])
