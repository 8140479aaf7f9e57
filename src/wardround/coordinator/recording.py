"""Rounds with their record, and the record's end: the same for simulated hospitals and for those behind a channel."""

import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from wardround.accounting.numbers import number_to_json
from wardround.agreed.model_card import card_of
from wardround.agreed.operating_point import operating_points_of
from wardround.agreed.schedule import feasibility, norms_of, schedule_of
from wardround.agreed.strategies import average_last_of
from wardround.boundary.text import counted
from wardround.coordinator.certificate import certificate_of
from wardround.coordinator.coordinator import Coordinator
from wardround.coordinator.observer import Observer
from wardround.coordinator.rounds import JsonDict, Models, Outcome, Position, Schedule, run_rounds
from wardround.errors import MissingExtra
from wardround.images.entries import Target
from wardround.models.backbones.names import OwnEncoder
from wardround.models.backbones.own import OnnxRows, encoder_bytes
from wardround.models.card import WeightsCard
from wardround.models.network import Network
from wardround.models.vectors import named_weights
from wardround.records.folder import RunFolder, RunRecord
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_lines
from wardround.records.signer import RECEIPTS
from wardround.report.signal import Signal
from wardround.report.write import write_report
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.types import Vector

Measure = Callable[[int, Models | None], tuple[JsonDict, str]]
"""Called after each round, with the models when it is time to evaluate them: figures for the history, and in words."""


def run_recorded(
    coordinator: Coordinator,
    weights: Vector,
    folder: RunFolder,
    observer: Observer,
    measure: Measure,
    *,
    classes: int,
) -> Outcome:
    """Runs all rounds after the folder's last checkpoint, with a line of history and a checkpoint for each.

    Args:
        coordinator: asks the hospitals.
        weights: the initial ones, (parameter,).
        folder: of the run.
        observer: watches.
        measure: of the models, after each round.
        classes: of the network, for the sentence on feasibility.
    """
    study, section = coordinator.study, coordinator.study.federation
    schedule = Schedule(study.rounds, section.evaluate_every, average_last_of(study), study.score_rounds)
    folder.keeps_every_round = study.performance.keep == "every-round"
    found = folder.latest_checkpoint()
    if found is None:
        counting = f"counting {coordinator.plan.persons.one}s"
        observer.stage(counting if coordinator.plan.is_counted else "starting")
        state = coordinator.strategy.init(weights, coordinator.channel)
        position = Position(0, state)
        folder.write_checkpoint(0, position.to_arrays())
        said = schedule_of(study, coordinator.plan, classes)
        if said is not None and said.recipe.scores and "num_patients" in state:
            observer.stage(feasibility(said.mu, float(state["num_patients"][0]), classes))
    else:
        position = Position.from_arrays(*found)
        position.check(study.rounds, weights.size)
    hospitals = len(coordinator.channel.hospitals)
    observer.stage(
        f"training: {section.strategy}, {counted(study.rounds, 'round')}, {counted(hospitals, 'hospital')}"
    )
    size = position.state.get("num_patients")
    norms = {} if size is None else norms_of(study, coordinator.plan, float(size[0]), weights.size)
    shown = ""

    def look(round: int, models: Models | None) -> JsonDict:
        nonlocal shown
        witness, tries = coordinator.witness(round), coordinator.tries(round)
        entry: JsonDict = {} if witness is None else {"witness": asdict(witness)}
        entry |= {} if tries is None else asdict(tries)
        if study.centre_rounds < round <= study.training_rounds and section.strategy in ("fedsgd", "pooled"):
            entry |= norms
        measured, headline = measure(round, models)
        if models is not None:
            # A hospital that left may have been charged more than those that a coordinator of today has heard of.
            before = read_lines(folder.path / "rounds.jsonl")
            spent = [JsonObject(line, "rounds.jsonl").number("epsilon") for line in before if "epsilon" in line]
            epsilon = max([coordinator.epsilon_after(round), *spent[-1:]])
            entry |= {"epsilon": number_to_json(epsilon)}
            shown = (f"ε {epsilon:.2f}" if math.isfinite(epsilon) else "ε ∞") + headline
            signal = Signal.of(before, weights.size)
            shown += ", diverging: lower learning_rate" if signal is not None and signal.grows else ""
        again = "" if tries is None else f"  attempt {tries.attempts}, without {', '.join(tries.missing)}"
        observer.progress(round, schedule.num_rounds, shown + again)
        return entry | measured

    outcome = run_rounds(coordinator.strategy, coordinator.channel, schedule, position, folder, look)
    signal = Signal.of(read_lines(folder.path / "rounds.jsonl"), weights.size)
    if signal is not None:
        observer.stage(signal.sentence())
    if (scores := outcome.position.state.get("contributions")) is not None:
        parts = zip(coordinator.channel.hospitals, scores, strict=True)
        observer.stage(f"contributions: {', '.join(f'{name} {score:.2f}' for name, score in parts)}")
    return outcome


def write_model(outcome: Outcome, network: Network, folder: RunFolder) -> str:
    """Writes model.safetensors, parameters by name, to be read again as `[model] weights`; returns its SHA-256.

    Beside it goes a user's encoder that is an ONNX graph: the model does not answer without it.

    Of several models, each name stands after that of its hospital.
    """
    several = bool(_names_in_file(outcome.models))
    named: dict[str, npt.NDArray[np.float32]] = {}
    for model, weights in outcome.models.items():
        values = named_weights(network, weights)
        named |= {f"{model}/{name}": value for name, value in values.items()} if several else values
    assert network.parts is not None, "the network was made by build"
    if isinstance(encoder := network.parts.encoder, OnnxRows):
        folder.write_encoder(encoder_bytes(encoder.path, encoder.own.sha256))
    return folder.write_model(named)


def write_card(
    coordinator: Coordinator,
    outcome: Outcome,
    network: Network,
    folder: RunFolder,
    *,
    model_sha256: str,
    target: Target,
    classes: tuple[str, ...],
    channels: int,
    stamp: str = "",
) -> dict[str, object]:
    """Writes model.json and receipts.json; returns the certificate, which ends a run once it is written.

    `stamp` stands behind the statement on the card.

    Raises:
        FederationError: a hospital gives no receipt.
    """
    receipts = coordinator.receipts()
    history = read_lines(folder.path / "rounds.jsonl")
    assert folder.signer is not None, "set when the run began or went on"
    certificate = certificate_of(coordinator, outcome, model_sha256, history, receipts, folder.signer.sealed)
    if isinstance(backbone := coordinator.study.model.backbone, OwnEncoder):
        certificate["encoder"] = backbone.question()
    card = card_of(
        coordinator.study, network, WeightsCard(sha256=model_sha256, models=_names_in_file(outcome.models)),
        target=target, classes=classes, channels=channels, statement=f"{certificate['short']}{stamp}",
        operating_points=operating_points_of(
            coordinator.study, coordinator.plan, outcome.position.state, classes
        ),
    )  # fmt: skip
    folder.write_json("model.json", card.to_json())
    if coordinator.keys:
        folder.write_json(RECEIPTS, {name: receipt.to_json() for name, receipt in receipts.items()})
    return certificate


def report_on(record: RunRecord, observer: Observer, key: SigningKey) -> None:
    """Writes and signs the page, unless its extra is not installed: the run is complete without it."""
    observer.stage("writing the report")
    try:
        write_report(record, key)
    except MissingExtra as error:
        observer.stage(str(error))


def _names_in_file(models: Models) -> tuple[str, ...]:
    """Returns the names that parameters of several models begin with in `model.safetensors`; none for one model."""
    return tuple(models) if len(models) > 1 else ()
