"""A coordinator opened from a study and a channel: it learns from the hospitals what the pictures are like."""

from collections.abc import Mapping
from dataclasses import dataclass

from wardround.agreed.masks import agreement_of
from wardround.agreed.network import build_network
from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import open_aggregator, strategy_of
from wardround.config import Study
from wardround.coordinator.coordinator import Coordinator
from wardround.errors import FederationError
from wardround.federation.aggregators import Aggregator
from wardround.federation.attempts import NO_NOTES, AttemptNotes
from wardround.federation.channel import Channel
from wardround.federation.masked import MaskedAggregator
from wardround.federation.messages import Hello
from wardround.federation.strategy import Unchanged
from wardround.images.entries import Target
from wardround.models.catalogue import NAMES
from wardround.models.network import Network
from wardround.models.vectors import sha256_of, to_vector
from wardround.noisers import dropouts_of
from wardround.randomness import Randomness
from wardround.types import Vector


@dataclass(frozen=True)
class Opened:
    """A coordinator whose hospitals have greeted it.

    Attributes:
        weights: the initial weights that all hospitals have, (parameter,).
        target: of its predictions.
        hello: the facts that all hospitals have in common.
    """

    coordinator: Coordinator
    weights: Vector
    network: Network
    target: Target
    hello: Hello


def open_coordinator(
    study: Study,
    channel: Channel,
    keys: Mapping[str, bytes],
    notes: AttemptNotes = NO_NOTES,
    *,
    resumes: bool = False,
) -> Opened:
    """Returns the coordinator of a study, once all hospitals have greeted it and are alike.

    Args:
        study: the agreed study.
        channel: reaches the hospitals.
        keys: public signing keys of all hospitals, by name: receipts must be signed with them.
        notes: of masked attempts; none of them for a run that is not resumed.
        resumes: the run has begun: as many hospitals as the study foresees may have left.

    Raises:
        FederationError: hospitals differ, or have other classes or initial weights than the study gives.
        WardroundError: a study or a plan that does not hold.
    """
    plan = plan_of(study)
    missing = [name for name in channel.hospitals if name not in keys]
    if missing:
        raise FederationError(
            f"The coordinator needs the public key of every hospital, and has none of {missing[0]}; its receipt could "
            "be another's.",
            code="federation-no-key",
        )
    hello = Coordinator(study, plan, channel, Unchanged()).greet(resumes=resumes)
    if study.data.classes is not None and hello.classes != study.data.classes:
        raise FederationError(
            f"The hospitals must have the study's classes in its order, {', '.join(study.data.classes)}, and have "
            f"{', '.join(hello.classes)}; compare the study files.",
            code="federation-classes",
        )
    target = Target.MASKS if study.model.name in NAMES["segmentation"] else Target.CLASSES
    network = build_network(study, target=target, num_classes=len(hello.classes), shape=hello.input_shape)
    weights = to_vector(network.trained)
    if sha256_of(weights) != hello.weights_sha256:
        raise FederationError(
            "The hospitals must begin with the weights that the study gives, and have others; compare `[model]`, the "
            "weights file and the versions.",
            code="federation-weights-differ",
        )
    masked = None
    aggregator: Aggregator = open_aggregator(study, plan, _NO_NOISE)
    if plan.masked is not None:
        aggregator = masked = MaskedAggregator(agreement_of(study, plan, weights.size, keys), notes)
    strategy = strategy_of(
        study, plan, aggregator, classes=len(hello.classes), allowed_missing=dropouts_of(plan.noiser)
    )
    coordinator = Coordinator(study, plan, channel, strategy, masked, keys)
    return Opened(coordinator, weights, network, target, hello)


_NO_NOISE = Randomness(None, "coordinator")
"""A coordinator of real hospitals adds no noise: hospitals refuse plans that leave it to the coordinator."""
