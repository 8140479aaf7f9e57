"""What a finished run says about itself: results, certificate, and the table of who was where."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import reduce

from wardround.accounting.events import to_json as event_to_json
from wardround.accounting.insiders import NoiseShares
from wardround.accounting.ledger_entry import number_to_json
from wardround.agreed.strategies import releases_after
from wardround.agreed.upload import upload_of
from wardround.config import Study
from wardround.coordinator.observer import Observer
from wardround.coordinator.rounds import JsonDict, Outcome
from wardround.hospital.charged import charged_counts, charged_releases
from wardround.images.entries import Target
from wardround.images.patients import Patient
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.kinds import NoisedPictures
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.wording import statement_of
from wardround.published import published
from wardround.report.reading import JsonObject
from wardround.secure_aggregation.round.witness import WITNESSES, Witness
from wardround.simulation.absences import availability_of
from wardround.simulation.evaluation import (
    evaluate_models,
    evaluate_subgroups,
    location_dice,
    shortcut_auroc,
    summary_of,
)
from wardround.simulation.federate import Federation
from wardround.simulation.materials import Hospitals, Materials
from wardround.simulation.references import REFERENCES, run_reference
from wardround.training.patients import TrainingPatients


def results_of(
    study: Study,
    plan: Plan,
    materials: Materials,
    hospitals: Hospitals,
    outcome: Outcome,
    observer: Observer,
) -> dict[str, object]:
    """Metrics of the final models, the reference runs, and what left to whom; evaluates and trains."""
    observer.stage("evaluating")
    ensemble = study.federation.strategy == "ensemble"
    metrics = evaluate_models(outcome.models, materials, ensemble=ensemble)
    availability = availability_of(study)
    upload = upload_of(plan, materials.workbench.network.num_parameters, hospitals)
    references: dict[str, object] = {}
    for name in study.federation.compare:
        if not plan.is_private and (REFERENCES[name].private or name == "no-privacy"):
            continue  # the main run is without privacy itself
        observer.stage(f"reference run: {name}")
        references[name] = run_reference(name, study, plan, materials, observer)
    return {
        "metrics": summary_of(metrics),
        "validation": _validated(outcome, materials, ensemble),
        "models": {name: m.to_json() for name, m in metrics.items()},
        "subgroups": evaluate_subgroups(next(iter(outcome.models.values())), materials)
        if len(outcome.models) == 1
        else {},
        "references": references,
        "target": materials.images.target.value,
        "shortcut_auroc": shortcut_auroc(materials),
        "location_dice": location_dice(materials),
        "classes": list(materials.images.class_names),
        "parameters": materials.workbench.network.num_parameters,
        "test": {
            "patients": len(materials.test),
            "images": len(materials.test.rows),
            "leaking": materials.split.leaking,
            "note": materials.split.note,
        },
        "hospitals": [
            {
                "name": name,
                "patients": len(p),
                "images": len(p.rows),
                "share_not_first_class": _share(p, materials),
            }
            for name, p in hospitals.items()
        ],
        "availability": None if availability is None else availability.to_json(outcome.position.round),
        "upload": None if upload is None else upload.to_json(),
        "findings": materials.images.findings.summary(),
        "resemblance": published(study.privacy.plan, "simulation").resemblance_of(plan, materials)
        if isinstance(plan.training, NoisedPictures)
        else None,
        "released": _released(study, plan, materials),
    }


def _validated(outcome: Outcome, materials: Materials, ensemble: bool) -> dict[str, object] | None:
    """Metrics of the final models on the validation patients; None where nobody was set aside for that."""
    if not len(materials.validation):
        return None
    metrics = evaluate_models(outcome.models, materials, ensemble=ensemble, validation=True)
    return {
        "patients": len(materials.validation),
        "images": len(materials.validation.rows),
        "metrics": summary_of(metrics),
    }


def _released(study: Study, plan: Plan, materials: Materials) -> list[dict[str, str]]:
    """What left, to whom, and what protects it."""
    guarded = "the statement" if plan.is_private else "nothing: the study asks for no privacy"
    rows = [
        {"what": "the model of every round and the final model", "to": "whoever gets it", "protected_by": guarded},
    ]
    if isinstance(plan.training, NoisedPictures):
        what = "noised training pictures or features, noised labels, and which belong to one patient"
        rows.insert(0, {"what": what, "to": "everybody", "protected_by": guarded})
        rows.append(
            {
                "what": "how much noised pictures resemble their originals",
                "to": "readers of this record",
                "protected_by": "nothing: a reference of a simulation, charged to no ledger",
            }
        )
    if plan.masked is not None:
        rows.append(
            {
                "what": f"{WITNESSES} coordinates of noise alone behind every sum, public keys, signatures, how "
                "many charges each ledger has, and its sealed head",
                "to": "the coordinator and every hospital",
                "protected_by": "nothing: none of it depends on a patient",
            }
        )
    if plan.count is not None:
        to = "the coordinator" if plan.masked is None else "the coordinator and every hospital"
        rows.append({"what": "the number of training patients", "to": to, "protected_by": guarded})
    rows.append(
        {
            "what": "metrics on the validation patients, round by round, and on the test patients at the end"
            if len(materials.validation)
            else "metrics on the test patients, round by round",
            "to": "readers of this record",
            "protected_by": "nothing: test patients stand outside the guarantee"
            + ("" if materials.split.leaking else " and were never trained on"),
        }
    )
    rows.append(
        {
            "what": "the table of hospitals (patients, images, class shares), the counts of findings in the "
            "pictures, and the digest of the data set",
            "to": "readers of this record",
            "protected_by": "nothing: known because this machine simulates every hospital",
        }
    )
    baseline = (
        "the Dice of the mask that training patients have most often at each place"
        if materials.images.target is Target.MASKS
        else "the AUROC of six brightness and border numbers alone, fitted to the training pictures"
    )
    rows.append(
        {
            "what": baseline,
            "to": "readers of this record",
            "protected_by": "nothing: a reference of a simulation, charged to no ledger",
        }
    )
    if study.federation.compare:
        rows.append(
            {
                "what": "reference runs and their metrics",
                "to": "readers of this record",
                "protected_by": "nothing: references of a simulation, charged to no ledger",
            }
        )
    return rows


def certificate_of(
    study: Study,
    plan: Plan,
    federation: Federation,
    outcome: Outcome,
    model_sha256: str,
    history: Sequence[JsonDict],
) -> dict[str, object]:
    """The promise as it was kept, and what it can be checked against.

    Epsilon is the looser of two: of the rounds that ended, and of everything that some hospital's ledger was
    charged for this study. They differ when an interrupted round was asked for again: its first answer may
    have been seen. `history` has a line for every round, those before an interruption included.
    """
    done = releases_after(study, outcome.position.round)
    releases, counts = charged(study, plan, federation)
    repeated = max(0, releases - done)
    seeded = study.study.seed is not None
    statement = statement_of(plan, releases=done + repeated, counts=counts, simulated=True, seeded=seeded)
    recounted = counts - 1 if plan.is_counted else 0
    if repeated + recounted:
        again = (
            f"{repeated + recounted} of the releases were charged for rounds that were interrupted, or that lost a "
            "hospital, and count all the same."
        )
        statement = replace(statement, caveats=(*statement.caveats, again))
    return {
        "study": study.study.name,
        "study_digest": study.digest,
        "statement": statement.to_json(),
        "sentence": statement.sentence(),
        "short": statement.short(),
        "unit": plan.unit.value,
        "rounds": outcome.position.round,
        "stopped": outcome.stopped,
        "event": event_to_json(plan.event_after(done + repeated, counts))
        if done + repeated or plan.is_counted
        else None,
        "insiders": [
            row.to_json()
            for row in insiders_of(plan, done + repeated, counts, all_present=_all_were_present(plan, history))
        ],
        "ledgers": {
            name: {
                "head": agent.ledger.head(),
                "epsilon_spent": number_to_json(agent.ledger.spent()),
                "delta": plan.delta,
            }
            for name, agent in federation.agents.items()
        },
        "witness": _witness_of(history),
        "model_sha256": model_sha256,
        "seeded": seeded,
    }


def _all_were_present(plan: Plan, history: Sequence[JsonDict]) -> bool:
    """Whether every share of the noise is known to be in every sum; who was missing is noted of masked rounds only."""
    dropouts = plan.noiser.dropouts if isinstance(plan.noiser, NoiseShares) else 0
    return dropouts == 0 or (plan.masked is not None and not any(line.get("missing") for line in history))


def _witness_of(history: Sequence[JsonDict]) -> dict[str, object] | None:
    """What the witness coordinates showed in all rounds of a masked run, else None; they depend on no patient."""
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


def charged_after(study: Study, plan: Plan, federation: Federation, round: int) -> tuple[int, int]:
    """Returns the noised sums, and the noised counts, that cost epsilon up to a round.

    Under masks attempts are lost when a hospital is missing, and were charged all the same: the ledgers say how many.
    A seeded run protects nobody, and says the same of a round whether or not it was repeated: it counts rounds.
    """
    done = releases_after(study, round)
    if plan.masked is None or study.study.seed is not None:
        return done, 1
    releases, counts = charged(study, plan, federation)
    return max(done, releases), counts


def charged(study: Study, plan: Plan, federation: Federation) -> tuple[int, int]:
    """Returns the most noised sums, and noised counts, that some hospital's ledger was charged for this study."""
    ledgers = [agent.ledger for agent in federation.agents.values()]
    releases = max(charged_releases(ledger, study.digest, plan) for ledger in ledgers)
    return releases, max(1, *(charged_counts(ledger, study.digest) for ledger in ledgers))


def patient_table(materials: Materials) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Who was where, by a hash under a key that is forgotten at once: rows can be counted, not traced."""
    key = os.urandom(32)
    places: list[tuple[str, tuple[Patient, ...]]] = [("test", materials.split.test)]
    places += [("validation", materials.split.validation), *materials.split.hospitals.items()]
    rows = [
        (hmac.new(key, patient.id.encode(), hashlib.sha256).hexdigest()[:16], place, len(patient.images))
        for place, patients in places
        for patient in patients
    ]
    return ("patient", "place", "images"), sorted(rows)


def _share(patients: TrainingPatients, materials: Materials) -> float | None:
    """Share of pictures that are not of the first class; None where pictures have no class."""
    if materials.images.target is Target.MASKS or not len(patients):
        return None
    return float((patients.labels > 0).mean())
