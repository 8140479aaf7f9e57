"""The outcome of an audit: what was claimed, what was found, and a verdict that never says "private"."""

from dataclasses import asdict, dataclass

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import Event
from wardround.accounting.insiders import InsiderRow
from wardround.accounting.numbers import number_to_json
from wardround.accounting.second import second_opinion
from wardround.accounting.statement import Statement
from wardround.audit.bounds import Bound
from wardround.audit.mechanism import Attack, Claim
from wardround.audit.model import Leak
from wardround.audit.noise import NoiseCheck
from wardround.audit.procedure import Procedure

CONFIDENCE = 0.99
"""Probability, at least, that no bound of a whole audit lies above the truth."""

CLEAN, CONTRADICTION = "no contradiction found at this power", "CONTRADICTION"

_INSIDE = "hospitals that know their own share of the noise, and hospitals that do not keep to the protocol"
_READING = (
    "the pictures, their reader, the division of patients and the network: virtual patients take their place "
    "(`--procedure` reads the pictures)"
)
_MODEL = "the model: no membership inference was tried (`--model` tries it)"

_EXACT = 1e-9


@dataclass(frozen=True)
class Recount:
    """An epsilon that was printed or charged, and that of its events by two accountants.

    Attributes:
        source: the events that were recomputed, or the account that they are owed to.
        claimed: epsilon at the claim's delta.
        again: of the events, by the claim's own accountant.
        lower: by the second accountant, no mechanism as leaky as these events has less.
        upper: every mechanism of these events has this at most.
        word: "claimed", or "charged" of an account.
    """

    source: str
    claimed: float
    again: float
    lower: float
    upper: float
    word: str = "claimed"

    @classmethod
    def of(
        cls, source: str, claimed: float, event: Event, delta: float, accountant: AccountantKind,
        word: str = "claimed",
    ) -> "Recount":  # fmt: skip
        """Returns an epsilon beside that of its events."""
        bounds = second_opinion(event, delta)
        return cls(source, claimed, epsilon_of(event, delta, accountant), bounds.lower, bounds.upper, word)

    @property
    def least(self) -> float:
        """The least epsilon that the events allow."""
        return max(self.again, self.lower)

    @property
    def is_contradicted(self) -> bool:
        """True where the claim is below what its events come to."""
        return self.least > self.claimed * (1 + _EXACT)


@dataclass(frozen=True)
class Audit:
    """An audit of one study or run.

    Attributes:
        statement: what was claimed.
        insiders: the claim against each attacker.
        attacks: on the mechanism; empty if it cannot be attacked.
        not_attacked: why; empty if it was.
        recounts: of the accounting.
        seeded: whether coins and noise follow from a seed that was fixed beforehand.
        leak: membership inference; the reason for which it was not possible; None where it was not asked for.
        procedure: the whole procedure with one patient less; likewise.
        holds: of a run, a line for each thing that its record and its ledger were held against.
        unchecked: a line for each that could not be.
        faults: a sentence for each that does not hold.
    """

    study: str
    digest: str
    statement: Statement
    insiders: tuple[InsiderRow, ...]
    attacks: tuple[Attack, ...]
    not_attacked: str
    recounts: tuple[Recount, ...]
    seeded: bool
    leak: Leak | str | None = None
    procedure: Procedure | str | None = None
    holds: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def not_covered(self) -> tuple[str, ...]:
        """Parts that were not attacked, a sentence each."""
        found = []
        for part, name in ((self.procedure, _READING), (self.leak, _MODEL)):
            if part is None or isinstance(part, str):
                found.append(name if part is None else f"{name.partition(':')[0]}: {part}")
        return (*found, _INSIDE)

    @property
    def contradictions(self) -> tuple[str, ...]:
        """A sentence for each bound that lies above its claim."""
        attacked = [
            f"{attack.name}, {bound.method}: epsilon is at least {bound.epsilon:.3f}, claimed "
            f"{_claimed(attack.claim, bound):.3f} for {attack.claim.what}"
            for attack in self.attacks
            for bound in attack.contradictions
        ]
        attacked += [
            f"{attack.name}: the hospitals ended the run themselves. {attack.stopped}"
            for attack in self.attacks
            if attack.stopped
        ]
        attacked += [line for attack in self.attacks if attack.noise for line in attack.noise.contradictions]
        recounted = [
            f"accounting, {one.source}: {one.word} epsilon {one.claimed:.4f}, and its events come to {one.least:.4f}"
            for one in self.recounts
            if one.is_contradicted
        ]
        exact = self.procedure.contradictions if isinstance(self.procedure, Procedure) else ()
        return (*attacked, *exact, *recounted, *self.faults)

    @property
    def verdict(self) -> str:
        """The verdict."""
        return CONTRADICTION if self.contradictions else CLEAN

    def to_json(self) -> dict[str, object]:
        """Returns the audit as one JSON object."""
        statement = self.statement
        return {
            "study": self.study,
            "study_digest": self.digest,
            "verdict": self.verdict,
            "contradictions": list(self.contradictions),
            "claimed": {
                "sentence": statement.sentence(),
                "epsilon": number_to_json(statement.epsilon),
                "delta": statement.delta,
                "unit": statement.unit.value,
                "relation": statement.relation.value,
                "mechanism": statement.mechanism,
                "sampler": statement.sampler,
                "accountant": statement.accountant.value,
                "released_to": statement.released_to,
                "against": [row.to_json() for row in self.insiders],
            },
            "confidence": CONFIDENCE,
            "seeded": self.seeded,
            "attacks": [_attack_to_json(attack) for attack in self.attacks],
            "not_attacked": self.not_attacked,
            "accounting": [_numbers_to_json(one) | {"contradicts": one.is_contradicted} for one in self.recounts],
            "record": {
                "holds": list(self.holds),
                "unchecked": list(self.unchecked),
                "faults": list(self.faults),
            },
            "model": self.leak.to_json() if isinstance(self.leak, Leak) else self.leak,
            "procedure": self.procedure.to_json() if isinstance(self.procedure, Procedure) else self.procedure,
            "not_covered": list(self.not_covered),
        }


def lines_of(audit: Audit) -> list[str]:
    """Returns an audit as lines for a terminal."""
    lines = [f"claimed: {audit.statement.short()}", ""]
    for attack in audit.attacks:
        lines.append(f"{attack.name}: claimed epsilon = {attack.claim.epsilon:.3f} for {attack.claim.what}")
        for bound in attack.bounds:
            lines.append(
                f"  {bound.method:16} epsilon >= {bound.epsilon:6.3f}  at most {bound.ceiling:6.3f} could be shown by "
                f"{bound.trials} trials (confidence {bound.confidence:.4f})"
                f"{'' if attack.claim.is_within_reach(bound) else ': too few to contradict this claim'}"
            )
            if bound.mu is not None:
                lines.append(
                    f"  {'':16} held against {attack.claim.gaussian_epsilon:.3f}, of the Gaussian above the claim"
                )
        if attack.noise is not None:
            lines.append(f"  {sentence_of_noise(attack.noise)}")
    if audit.not_attacked:
        lines.append(f"the mechanism was not attacked: {audit.not_attacked}")
    for recount in audit.recounts:
        lines.append(
            f"accounting, {recount.source}: {recount.claimed:.3f} {recount.word}, {recount.again:.3f} by its events, "
            f"between {recount.lower:.3f} and {recount.upper:.3f} by the second accountant"
        )
    lines += [*(f"record: {line}" for line in audit.holds), *(f"not checked: {line}" for line in audit.unchecked)]
    if isinstance(audit.procedure, Procedure):
        one = audit.procedure
        clips = (
            "; how far the sum moves was not measured: that takes a fixed clip and fedsgd"
            if one.clips is None
            else f"; the sum moves by {one.clips:.3f} clipping norms"
        )
        lines.append(
            f"one patient less ({one.through}): {one.moved} of {one.others} others moved, "
            f"{one.changed} changed{clips}"
        )
        lines += [
            f"  {noise.parameter}: {noise.present:.1%} of the planned variance in {noise.numbers} numbers "
            f"(p = {noise.p_present:.2g})"
            for noise in one.noise
        ]
    if isinstance(audit.leak, Leak):
        lines += _lines_of_leak(audit.leak)
    lines += ["", *(f"not covered: {what}" for what in audit.not_covered), "", f"verdict: {audit.verdict}"]
    return [*lines, *(f"  {what}" for what in audit.contradictions)]


def sentence_of_noise(noise: NoiseCheck) -> str:
    """Returns what the noise-only coordinates show, in one sentence."""
    seen = (
        ""
        if noise.present is None
        else f"{noise.present:.1%} of the planned variance (p = {noise.p_present:.2g}), tail p = {noise.p_beyond:.2g}, "
    )
    return (
        f"noise of {noise.vectors} sums on {noise.coordinates} coordinates without a patient: {seen}"
        f"largest correlation of two {noise.correlation:.3f} (p = {noise.p_independent:.2g})"
    )


def _lines_of_leak(leak: Leak) -> list[str]:
    at = ", ".join(str(round) for round in leak.rounds)
    lines = [f"membership in {leak.attacked} (rounds {at}), {leak.shadows} shadow models:"]
    for name, one in [("", figure) for figure in leak.figures] + list(leak.groups.items()):
        rates = "  ".join(
            f"{each.true_positives:.2%} ({each.low:.2%} to {each.high:.2%}) at {each.rate:.1%} false positives"
            for each in one.at
        )
        lines.append(f"  {name or one.attack:24} AUROC {one.auroc:.3f}  true positives {rates}")
    if leak.real:
        lines.append("  computed from real patients and protected by nothing: keep it with the pictures")
    return lines


def _claimed(claim: Claim, bound: Bound) -> float:
    return claim.epsilon if bound.mu is None else claim.gaussian_epsilon


def _attack_to_json(attack: Attack) -> dict[str, object]:
    claim = attack.claim
    return {
        "name": attack.name,
        "claimed": _numbers_to_json(claim),
        "stopped": attack.stopped,
        "noise": None if attack.noise is None else asdict(attack.noise),
        "bounds": [
            asdict(bound)
            | {"contradicts": claim.is_contradicted(bound), "could_contradict": claim.is_within_reach(bound)}
            for bound in attack.bounds
        ],
    }


def _numbers_to_json(one: Claim | Recount) -> dict[str, object]:
    """Returns all fields; JSON has no infinity."""
    return {name: number_to_json(v) if isinstance(v, float) else v for name, v in asdict(one).items()}
