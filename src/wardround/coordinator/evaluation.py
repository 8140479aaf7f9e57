"""The evaluation of the final model across hospitals: one sum after the last round.

Released, to the coordinator and from it to the readers of the record: what `[evaluation] level` names. With "none"
nothing; with "noised" the sum of all hospitals' histograms, each charged to its test patients before it is sent; with
"unprotected" each hospital's exact histograms, where its policy allows them.
"""

import math
from typing import assert_never

import numpy as np

from wardround.coordinator.coordinator import Coordinator
from wardround.coordinator.figures import figures_of
from wardround.coordinator.rounds import JsonDict, Models
from wardround.federation.aggregators import Aggregator, PlainSum
from wardround.federation.channel import DEADLINE_S
from wardround.federation.messages import Request
from wardround.noisers import hospital_std
from wardround.privacy.plans.kinds import Evaluation, NoisedHistograms, OpenHistograms
from wardround.privacy.plans.wording import evaluation_statement
from wardround.work import Evaluate, histogram_coordinates


def evaluate(
    coordinator: Coordinator, models: Models, classes: tuple[str, ...], *, masks: bool = False
) -> JsonDict | None:
    """Returns what leaves about the test patients, of `masks` or classes, as a JSON object; None where nothing does.

    A hospital that refuses or is away leaves the figures to the others, as far as the noise allows; without enough of
    them there are none, and the run ends without figures.

    Raises:
        FederationError: a party does not keep to the protocol.
    """
    part, study = coordinator.plan.evaluation, coordinator.study
    if part is None:
        return None
    [weights] = models.values()
    request = Request(study.digest, study.rounds + 1, 1, Evaluate(weights))
    aggregator: Aggregator = PlainSum(histogram_coordinates(len(classes)))
    if coordinator.masked is not None and isinstance(part, NoisedHistograms):
        aggregator = coordinator.masked
    total = aggregator.collect(
        coordinator.channel, dict.fromkeys(coordinator.channel.hospitals, request), DEADLINE_S
    )
    figures, missing = None, {name: failure.code.value for name, failure in total.failures.items()}
    if total.update is not None:
        std = noise_std(part, len(total.events))
        figures = figures_of(total.update.astype(np.float64), classes, std, masks=masks)
    return {"level": study.evaluation.level, "figures": figures, "missing": missing}


def noise_std(part: Evaluation, hospitals: int) -> float:
    """Returns the std of the noise in each bin of the sum over so many hospitals."""
    match part:
        case OpenHistograms():
            return 0.0
        case NoisedHistograms():
            each = hospital_std(part.noiser, part.noise.noise_multiplier * part.sensitivity)
            return each * math.sqrt(hospitals)
        case _:
            assert_never(part)


def statement_in(coordinator: Coordinator) -> JsonDict | None:
    """Returns the promise to test patients for the certificate; None where nothing about them leaves."""
    plan, study = coordinator.plan, coordinator.study
    if plan.evaluation is None:
        return None
    statement = evaluation_statement(plan, simulated=not coordinator.keys, seeded=study.study.seed is not None)
    return {
        "level": study.evaluation.level,
        "statement": statement.to_json(),
        "sentence": statement.sentence(),
        "short": statement.short(),
    }
