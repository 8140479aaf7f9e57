"""Answers as rows: JSON objects, a CSV table, lines for a screen."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import assert_never

from wardround.inference.answers import Classified, Prediction, Segmented, Unanswered, rule_of
from wardround.inference.model import Model

_STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def json_of(model: Model, answers: Sequence[Prediction]) -> dict[str, object]:
    """Returns the model, the rule and every answer as JSON holds them; probabilities by class name."""
    card = model.card
    return {
        "model": {"study": card.study.name, "sha256": card.weights.sha256, "target": card.target},
        "classes": list(card.classes),
        "calibration": model.calibration,
        "rule": rule_of(card.target),
        "predictions": [_object(answer) for answer in answers],
    }


def csv_of(model: Model, answers: Sequence[Prediction]) -> str:
    """Returns a table with one row a picture.

    Columns: file, class, uncertain, calibration, one `probability: <class>` each (for masks `share: <class>`),
    findings, error. A text that a spreadsheet would take for a formula, such as the name of a file or of a class,
    has an apostrophe before it.
    """
    what = "share" if model.card.target == "masks" else "probability"
    header = ["file", "class", "uncertain", "calibration", *(f"{what}: {name}" for name in model.card.classes)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "findings", "error"])
    for answer in answers:
        name = answer.file
        row: list[object] = [name, "", "", "", *([""] * len(model.card.classes)), "", ""]
        match answer:
            case Classified(label=label, probabilities=numbers):
                row = [name, label, _word(answer.uncertain), model.calibration, *numbers.values()]
                row += ["; ".join(answer.findings), ""]
            case Segmented(shares=numbers):
                row = [name, "", _word(answer.uncertain), model.calibration, *numbers.values()]
                row += ["; ".join(answer.findings), ""]
            case Unanswered(reason=reason):
                row[-1] = reason
            case _:
                assert_never(answer)
        writer.writerow([_no_formula(cell) for cell in row])
    return text.getvalue()


def lines_of(model: Model, answers: Sequence[Prediction]) -> Iterator[str]:
    """Yields one line a picture, after two on the probabilities and the rule."""
    yield f"probabilities: {model.calibration}; {rule_of(model.card.target)}"
    yield f"model: {model.card.study.name}, {model.card.statement}"
    for answer in answers:
        yield f"{answer.file}: {_said(answer)}"


def _said(answer: Prediction) -> str:
    match answer:
        case Classified():
            words = f"{answer.label} {answer.probabilities[answer.label]:.3f}"
        case Segmented():
            words = ", ".join(f"{name} {share:.2%}" for name, share in answer.shares.items())
        case Unanswered():
            return f"not read: {answer.reason}"
        case _:
            assert_never(answer)
    words += " (uncertain)" if answer.uncertain else ""
    return "; ".join([words, *answer.findings])


def _object(answer: Prediction) -> dict[str, object]:
    match answer:
        case Classified():
            return {
                "file": answer.file, "class": answer.label, "probabilities": answer.probabilities,
                "uncertain": answer.uncertain, "findings": list(answer.findings), "logits": answer.logits.tolist(),
            }  # fmt: skip
        case Segmented():
            return {
                "file": answer.file, "shares": answer.shares, "uncertain": answer.uncertain,
                "findings": list(answer.findings),
            }  # fmt: skip
        case Unanswered():
            return {"file": answer.file, "error": answer.reason}
        case _:
            assert_never(answer)


def _no_formula(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_STARTS_FORMULA) else cell


def _word(flag: bool) -> str:
    return "yes" if flag else "no"
