"""The model card for people: what is known of a model under the headings of two checklists, and what is not.

Model cards: Mitchell et al. 2019, https://doi.org/10.1145/3287560.3287596, section 4. CLAIM, the Checklist for
Artificial Intelligence in Medical Imaging: Mongan et al. 2020, https://doi.org/10.1148/ryai.2020200029, table 1.

A field that the run does not know is named and left blank: a person has to write it. Figures on test patients come
from the run's shared record, and nothing protects those patients.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround.boundary.text import counted
from wardround.inference.answers import LEAST_MARGIN, rule_of
from wardround.inference.model import Model

BLANK = "not known to the run; to be written by the people who trained the model"


@dataclass(frozen=True)
class Field:
    """One field of a checklist; `value` is None where the run does not know it."""

    checklist: str
    name: str
    value: str | None


@dataclass(frozen=True)
class Facts:
    """The files of a run that a model card is filled from; each is empty where only the model came.

    Attributes:
        study: tables of the study file.
        environment: versions and machine.
        results: metrics and numbers of patients.
        certificate: the guarantee.
    """

    study: Mapping[str, Any]
    environment: Mapping[str, Any]
    results: Mapping[str, Any]
    certificate: Mapping[str, Any]


NO_FACTS = Facts({}, {}, {}, {})


def fields_of(model: Model, facts: Facts = NO_FACTS) -> tuple[Field, ...]:
    """Returns every field of both checklists in their order."""
    known = _known(model, facts)
    cards = [Field("model card", name, known.get(key)) for name, key in MODEL_CARD.items()]
    claim = [
        Field("CLAIM", f"{number}. {name}", known.get(key))
        for number, (name, key) in enumerate(CLAIM.items(), start=1)
    ]
    return (*cards, *claim)


def json_of_card(model: Model, facts: Facts = NO_FACTS) -> dict[str, object]:
    """Returns the model card as JSON: each checklist by field, null for what is not known, and the list of blanks."""
    fields = fields_of(model, facts)
    found: dict[str, object] = {
        checklist: {field.name: field.value for field in fields if field.checklist == checklist}
        for checklist in dict.fromkeys(field.checklist for field in fields)
    }
    return found | {"blank": [f"{field.checklist}: {field.name}" for field in fields if field.value is None]}


def markdown_of_card(model: Model, facts: Facts = NO_FACTS) -> str:
    """Returns the model card as Markdown."""
    fields = fields_of(model, facts)
    blanks = sum(field.value is None for field in fields)
    lines = [f"# Model card: {_plain(model.card.study.name)}", ""]
    lines += [f"Filled from the run's own record. {blanks} of {len(fields)} fields are blank, and say so.", ""]
    for checklist in dict.fromkeys(field.checklist for field in fields):
        lines += [f"## {checklist[0].upper()}{checklist[1:]}", "", "| field | |", "|---|---|"]
        lines += [
            f"| {field.name} | {f'**blank**: {BLANK}' if field.value is None else _plain(field.value)} |"
            for field in fields
            if field.checklist == checklist
        ]
        lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Returns text that is one cell of a table, without links, pictures or code."""
    return " ".join(re.sub(r"([\\`|\[\]])", r"\\\1", text).replace("<", "&lt;").split())


def _known(model: Model, facts: Facts) -> dict[str, str]:
    """Returns the fields that the card and the run know, by key."""
    card, results, study = model.card, facts.results, facts.study
    recipe = _said(card.recipe.model_dump(mode="json"), *type(card.recipe).model_fields)
    known = {
        "model": f"{card.network.name}, {card.target}: {', '.join(card.classes)}; study {card.study.name}, digest "
        f"{card.study.digest}; weights SHA-256 {card.weights.sha256}",
        "classes": f"{card.target}: {', '.join(card.classes)}",
        "layers": f"{card.network.name}, input {card.recipe.shape}, trained part: {card.network.train}",
        "initialisation": f"drawn from the public seed {card.network.init_seed}"
        + (f"; frozen parameters SHA-256 {card.encoder_sha256}" if card.encoder_sha256 else ""),
        "preprocessing": f"{recipe}; normalisation {_said(card.normalisation, *card.normalisation)}",
        "thresholds": f"the most probable class is called; {rule_of(card.target)} (margin {LEAST_MARGIN:g}, public)",
        "calibration": model.calibration,
        "privacy": card.statement,
        "ensemble": f"the mean of the probabilities of {', '.join(model.names)}" if model.names else "none",
        "caveats": f"probabilities are {model.calibration}; no score tells whether a picture is unlike those of "
        "training, only its kind, size, colours, modality and constancy are checked",
    }
    if study:
        known |= _of_study(study)
    if facts.environment:
        packages = facts.environment.get("packages", {})
        versions = ", ".join(f"{name} {version}" for name, version in packages.items())
        known["software"] = f"wardround {facts.environment.get('wardround')}, {versions}"
    if results:
        known |= _of_results(results)
    if facts.certificate:
        seeded = "seeded: reproducible, not private; " if facts.certificate.get("seeded") else ""
        known["privacy"] = f"{seeded}{facts.certificate.get('sentence', card.statement)}"
    return known


def _of_study(study: Mapping[str, Any]) -> dict[str, str]:
    about, data, site, federation, privacy = (
        study.get(name, {}) for name in ("study", "data", "site", "federation", "privacy")
    )
    varied = {key: value for key, value in study.get("training", {}).get("augment", {}).items() if value}
    varied = {} if varied == {"multiplicity": 1} else varied
    averaged = ", averaged over the last rounds" if federation.get("average_last") else ""
    partitions = _said(data, "test", "test_fraction", "validation_fraction")
    return {
        "title": str(about.get("description") or about.get("name")),
        "sources": f"{_said(site, 'layout')}; {_said(study.get('hospitals', {}), 'count', 'names')} hospitals",
        "training": f"{_said(federation, 'strategy', 'rounds', 'local_steps', 'learning_rate', 'momentum')}; "
        f"{_said(privacy, 'plan', 'clipping_norm', 'trust', 'sampling_prob')}; "
        f"augmentation {', '.join(f'{key} {value}' for key, value in varied.items()) or 'none'}",
        "partitions": f"{partitions}; each person's place follows from a hash of their own id",
        "selection": f"the model of the last round{averaged}; no model was chosen on test patients",
    }


def _said(table: Mapping[str, Any], *keys: str) -> str:
    return ", ".join(f"{key} {table[key]}" for key in keys if table.get(key) is not None)


def _of_results(results: Mapping[str, Any]) -> dict[str, str]:
    metrics, test = results.get("metrics") or {}, results.get("test") or {}
    shown = [(item["title"], metrics.get(item["key"]), metrics.get(f"{item['key']}_interval")) for item in
             metrics.get("shown", [])]  # fmt: skip
    said = [f"{title} {value:.3f}{_interval(around)}" for title, value, around in shown if value is not None]
    leaking = "; the published parts share patients" if test.get("leaking") else ""
    hospitals = results.get("hospitals") or []
    known = {
        "sample": f"{sum(one.get('patients', 0) for one in hospitals)} training patients in "
        f"{counted(len(hospitals), 'hospital')}, {test.get('patients')} test patients with {test.get('images')} images",
        "disjoint": f"patients{leaking}",
        "metric names": ", ".join(title for title, _, _ in shown),
        "intervals": "95 % percentile bootstrap over patients with all their images",
        "performance": f"{'; '.join(said)} on {test.get('patients')} test patients; nothing protects those patients",
    }
    if (shortcut := results.get("shortcut_auroc")) is not None:
        kappa = results.get("shortcut_kappa")
        graded = "" if kappa is None else f" and kappa {kappa:.3f}"
        known["robustness"] = (
            f"brightness and border numbers alone reach AUROC {shortcut:.3f}{graded} on the same test"
        )
    if subgroups := results.get("subgroups"):
        known["subgroups"] = f"by {', '.join(subgroups)}: see results.json and report.html of the run"
    return known


def _interval(around: Any) -> str:
    return f" ({around['low']:.3f} to {around['high']:.3f})" if isinstance(around, Mapping) else ""


MODEL_CARD = {
    "Model details: model, version, weights": "model",
    "Model details: person or organisation developing the model": "",
    "Model details: model date": "",
    "Model details: training algorithm, parameters, constraints": "training",
    "Model details: paper, citation, licence, contact": "",
    "Intended use: primary intended uses": "",
    "Intended use: primary intended users": "",
    "Intended use: out-of-scope uses": "",
    "Factors: relevant factors": "",
    "Factors: evaluation factors": "subgroups",
    "Metrics: performance measures": "metric names",
    "Metrics: decision thresholds": "thresholds",
    "Metrics: approaches to uncertainty and variability": "intervals",
    "Evaluation data: data sets": "partitions",
    "Evaluation data: preprocessing": "preprocessing",
    "Training data": "sources",
    "Quantitative analyses: unitary results": "performance",
    "Quantitative analyses: intersectional results": "",
    "Ethical considerations: privacy of training patients": "privacy",
    "Ethical considerations: risks and harms, use in care": "",
    "Caveats and recommendations": "caveats",
}
"""Fields of a model card, section 4 of the source, and the key of what a run knows for each; empty where it cannot."""

CLAIM = {
    "Title identifies the AI methodology": "title",
    "Structured summary": "",
    "Scientific and clinical background, intended use and clinical role": "",
    "Study objectives and hypotheses": "",
    "Prospective or retrospective study": "",
    "Study goal": "",
    "Data sources": "sources",
    "Eligibility criteria": "",
    "Data preprocessing steps": "preprocessing",
    "Selection of data subsets": "",
    "Definitions of data elements": "classes",
    "De-identification methods": "",
    "How missing data were handled": "",
    "Definition of ground truth reference standard": "",
    "Rationale for choosing the reference standard": "",
    "Source of ground truth annotations, qualifications of annotators": "",
    "Annotation tools": "",
    "Inter- and intrarater variability": "",
    "Intended sample size": "sample",
    "How data were assigned to partitions": "partitions",
    "Level at which partitions are disjoint": "disjoint",
    "Detailed description of the model": "layers",
    "Software libraries, frameworks and packages": "software",
    "Initialization of model parameters": "initialisation",
    "Details of training approach": "training",
    "Method of selecting the final model": "selection",
    "Ensembling techniques": "ensemble",
    "Metrics of model performance": "metric names",
    "Statistical measures of significance and uncertainty": "intervals",
    "Robustness or sensitivity analysis": "robustness",
    "Methods for explainability or interpretability": "",
    "Validation or testing on external data": "",
    "Flow of participants or cases": "",
    "Demographic and clinical characteristics of cases": "",
    "Performance metrics for optimal models on all partitions": "performance",
    "Estimates of diagnostic accuracy and their precision": "performance",
    "Failure analysis of incorrectly classified cases": "",
    "Study limitations": "caveats",
    "Implications for practice": "",
    "Registration number and name of registry": "",
    "Where the full study protocol can be accessed": "",
    "Sources of funding and other support": "",
}
"""The 42 items of the checklist in its order, and the key of what a run knows for each; empty where it cannot."""
