"""The certificate of a run, from what the hospitals said: the promise as it was kept."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import reduce

from wardround.accounting.events import to_json as event_to_json
from wardround.accounting.numbers import number_to_json
from wardround.agreed.strategies import releases_after
from wardround.config import Study
from wardround.coordinator.coordinator import Coordinator, Receipts, charged
from wardround.coordinator.rounds import JsonDict, Outcome
from wardround.noisers import dropouts_of
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.kinds import NothingTrained
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.wording import statement_of
from wardround.records.json_object import JsonObject
from wardround.secure_aggregation.round.witness import Witness, powers


def certificate_of(
    coordinator: Coordinator,
    outcome: Outcome,
    model_sha256: str,
    history: Sequence[JsonDict],
    receipts: Receipts,
    sealed: Callable[[str], str],
) -> dict[str, object]:
    """Returns the promise as it was kept, and what it can be checked against.

    Epsilon is the looser of two: of the rounds that ended, and of everything that some hospital's ledger was charged
    for this study. They differ when an interrupted round was asked for again: its first answer may have been seen. Of a
    hospital that left, and gives no receipt, everything is counted that the study lets it be charged, and that its own
    ledger refuses to exceed. `history` has a line for every round, those before an interruption included. `sealed`
    seals the head of a ledger whose receipt is not signed; a signed receipt has it sealed already.
    """
    study, plan, simulated = coordinator.study, coordinator.plan, not coordinator.keys
    done = releases_after(study, outcome.position.round)
    releases, counts = charged(receipts)
    repeated = max(0, releases - done)
    recounted = counts - 1 if plan.is_counted else 0
    total, silent = done + repeated, [name for name in coordinator.channel.hospitals if name not in receipts]
    if silent:
        total, counts = max(total, plan.releases), max(counts, plan.counts)
    seeded = study.study.seed is not None
    witness = witness_of(history)
    finds = [] if coordinator.masked is None else powers(plan.hospitals, coordinator.masked.agreement.sums)
    statement = statement_of(plan, releases=total, counts=counts, simulated=simulated, seeded=seeded)
    if repeated + recounted:
        again = (
            f"{repeated + recounted} of the releases were charged for rounds that were interrupted, or that lost a "
            "hospital, and count all the same."
        )
        statement = replace(statement, caveats=(*statement.caveats, again))
    if silent:
        gone = f"{', '.join(silent)} left and gave no receipt: all that the study lets it be charged is counted."
        statement = replace(statement, caveats=(*statement.caveats, gone))
    present = all_were_present(study, plan, history)
    return {
        "study": study.study.name,
        "study_digest": study.digest,
        "statement": statement.to_json(),
        "sentence": statement.sentence(),
        "short": statement.short(),
        "unit": plan.unit.value,
        "rounds": outcome.position.round,
        "stopped": outcome.stopped,
        "event": event_to_json(plan.event_after(total, counts)) if total or plan.is_counted else None,
        "insiders": [row.to_json() for row in insiders_of(plan, total, counts, all_present=present)],
        "ledgers": {
            name: {
                "head": receipt.ledger_head if receipt.signature else sealed(receipt.ledger_head),
                "epsilon_spent": number_to_json(receipt.epsilon_spent),
                "delta": receipt.delta,
            }
            for name, receipt in receipts.items()
        },
        "witness": None if witness is None else witness | {"finds": finds},
        "model_sha256": model_sha256,
        "seeded": seeded,
    }


def all_were_present(study: Study, plan: Plan, history: Sequence[JsonDict]) -> bool:
    """Returns whether every share of the noise is known to be in every sum.

    Missing hospitals are noted of masked rounds of training only; one that a round leaves out is not among them.
    """
    if dropouts_of(plan.noiser) == 0:
        return True
    if plan.masked is None or study.leaves_one_out or isinstance(plan.training, NothingTrained):
        return False
    return not any(line.get("missing") for line in history)


def witness_of(history: Sequence[JsonDict]) -> dict[str, object] | None:
    """Returns what the witness coordinates of all rounds showed, which depend on no patient; None without masks."""
    lines = [JsonObject(line, "rounds.jsonl").section("witness") for line in history if "witness" in line]
    if not lines:
        return None
    rounds = [Witness(line.number("statistic"), line.integer("coordinates")) for line in lines]
    whole = reduce(Witness.plus, rounds)
    too_little, too_much = whole.tails
    return {
        **asdict(whole),
        "ratio": whole.ratio,
        "p_too_little": too_little,
        "p_too_much": too_much,
        "p_value": whole.p_value,
    }
