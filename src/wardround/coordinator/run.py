"""A run between hospitals, from the greeting to the report: no picture, no ledger, no hospital's key.

    RUN/    study.toml environment.json rounds.jsonl checkpoints/ model.safetensors model.json results.json
            receipts.json certificate.json record.json report.html handed_out.json (attempt.json, while it goes on)

Released, to the readers of that folder: noised sums or answers, the models that follow from them, what hospitals say in
receipts, and of test patients what `[evaluation] level` names: nothing by default (`coordinator.evaluation`).
"""

from collections.abc import Mapping
from pathlib import Path

from wardround.agreed.upload import upload_of
from wardround.config import Study, read_study
from wardround.coordinator.evaluation import evaluate, statement_in
from wardround.coordinator.handing_out import hand_out
from wardround.coordinator.observer import Observer
from wardround.coordinator.opening import Opened, open_coordinator
from wardround.coordinator.recording import report_on, run_recorded, write_card, write_model
from wardround.coordinator.rounds import JsonDict, Models, Outcome
from wardround.errors import RecordError
from wardround.federation.attempts import AttemptNotes
from wardround.federation.channel import Channel
from wardround.images.entries import Target
from wardround.privacy.plans.kinds import NoisedHistograms, OpenHistograms
from wardround.privacy.plans.plan import Plan
from wardround.records.environment import describe_environment
from wardround.records.folder import RunFolder, RunRecord
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_json
from wardround.records.signed import check_signed
from wardround.records.signer import Signer
from wardround.secure_aggregation.keys.identity import SigningKey

_OWN = "the coordinator"


def coordinate(
    study: Study, channel: Channel, keys: Mapping[str, bytes], key: SigningKey, out: Path, observer: Observer
) -> RunRecord:
    """Runs a study between hospitals into a folder, or goes on where the run in it stopped.

    Hospitals that differ are found before the folder is touched and before any of them is charged. A run that is in
    the folder must be signed with `key`, and be as it was signed.

    Args:
        study: the agreed study.
        channel: reaches the hospitals, in the study's order.
        keys: public signing keys of all hospitals, by name.
        key: private, of the coordinator; signs the record.
        out: empty, missing, or the run of this study.
        observer: watches.

    Raises:
        BudgetExhausted: a hospital has no budget left before the first round.
        FederationError: hospitals differ, do not answer, or do not keep to the protocol.
        RecordError: the folder holds something else, or a record that does not hold.
    """
    resumes = (out / "study.toml").is_file()
    if not resumes:
        RunFolder.check_free(out)
    elif {check_signed(out, {_OWN: key.public}).study_digest, read_study(out / "study.toml").digest} != {
        study.digest
    }:
        raise RecordError(
            f"The run in {out} must be of this study, and is of another; choose another --out.",
            code="record-another-study",
        )
    if (out / "certificate.json").is_file():
        return _ended(study, channel, key, out, observer)
    observer.stage("greeting the hospitals")
    opened = open_coordinator(study, channel, keys, AttemptNotes.of(out), resumes=resumes)
    folder = RunFolder.open(out) if resumes else RunFolder.create(out)
    try:
        signer = Signer(key, study.digest, "")
        if resumes:
            folder.signer = signer
            signer.begin(out, {})
        else:
            folder.write_json(
                "environment.json", describe_environment(opened.hello.threads) | {"study_digest": study.digest}
            )
            folder.begin(signer, study.to_toml())  # last: a folder with a study file goes on
        _run(opened, folder, observer)
        return _ended(study, channel, key, out, observer)
    finally:
        folder.close()


def _ended(study: Study, channel: Channel, key: SigningKey, out: Path, observer: Observer) -> RunRecord:
    """Reports on a run that has ended, and has every hospital take its model."""
    record = RunRecord.read(out)
    report_on(record, observer, key)
    hand_out(study.digest, channel, out, observer)
    return record


def _run(opened: Opened, folder: RunFolder, observer: Observer) -> None:
    coordinator, network, hello = opened.coordinator, opened.network, opened.hello

    def nothing(round: int, models: Models | None) -> tuple[JsonDict, str]:
        return {}, ""

    outcome = run_recorded(
        coordinator, opened.weights, folder, observer, nothing, classes=len(opened.hello.classes)
    )
    coordinator.close()
    model_sha256 = write_model(outcome, network, folder)
    released = _released(coordinator.plan)
    evaluation = _evaluated(opened, outcome, folder, observer)
    folder.write_json("results.json", _results(opened, released) | {"evaluation": evaluation})
    coordinator.close()
    certificate = write_card(
        coordinator, outcome, network, folder, model_sha256=model_sha256, target=opened.target,
        classes=hello.classes, channels=hello.input_shape[0],
    )  # fmt: skip
    unprotected = [row for row in released if row["protected_by"].startswith("nothing")]
    certificate |= {"standing": "hospitals", "unprotected": unprotected, "evaluation": statement_in(coordinator)}
    folder.finish(certificate)
    AttemptNotes.of(folder.path).remove()


def _evaluated(opened: Opened, outcome: Outcome, folder: RunFolder, observer: Observer) -> JsonDict | None:
    """Returns the evaluation; the one in the folder, where a run that stopped behind it goes on."""
    if opened.coordinator.plan.evaluation is None:
        return None
    if (folder.path / "results.json").is_file():
        results = JsonObject(read_json(folder.path / "results.json"), "results.json")
        if (known := results.maybe_section("evaluation")) is not None:
            return dict(known.values)
    observer.stage("evaluating the final model")
    masks = opened.target is Target.MASKS
    return evaluate(opened.coordinator, outcome.models, opened.hello.classes, masks=masks)


def _results(opened: Opened, released: list[dict[str, str]]) -> JsonDict:
    """Returns results without metrics: exact figures of test patients are a simulation's."""
    coordinator, hello, parameters = opened.coordinator, opened.hello, opened.network.num_parameters
    upload = upload_of(coordinator.plan, parameters, coordinator.channel.hospitals)
    return {
        "metrics": None,
        "test": None,
        "target": opened.target.value,
        "classes": list(hello.classes),
        "parameters": parameters,
        "hospitals": [{"name": name} for name in coordinator.channel.hospitals],
        "upload": None if upload is None else upload.to_json(),
        "findings": {},
        "released": released,
    }


def _released(plan: Plan) -> list[dict[str, str]]:
    """Returns each release of a run between hospitals: its content, its readers, and its protection."""
    one, to, guarded = plan.persons.one, "the coordinator, and from it every hospital", "the statement"
    masked = plan.masked is not None
    what = "noised sums over all hospitals" if masked else "each hospital's noised answers"
    rows = [(f"{what}, the model of every round and the final model", to, guarded)]
    if plan.count is not None:
        rows.append((f"the number of training {one}s, noised", "the coordinator", guarded))
    match plan.evaluation:
        case NoisedHistograms():
            what = "the sum of histograms" if masked else "each hospital's histograms"
            rows.append((f"{what} of test {one}s' scores by class, noised", to, "the statement of the evaluation"))
        case OpenHistograms():
            what = f"each hospital's exact histograms of its test {one}s' scores by class"
            rows.append((what, to, "nothing: the study asks for it, and the policy of each hospital allows it"))
        case None:
            pass
    facts = "names, versions, classes, picture size, public keys, signatures, sealed heads of ledgers, and charges"
    rows.append((facts, to, f"nothing: none of it depends on a {one}"))
    return [{"what": what, "to": to, "protected_by": guard} for what, to, guard in rows]
