"""The prose of docstrings: the first word says what a function does or a class is, and asks no question."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "wardround"
REFUSED = {"how", "of", "what", "when", "where", "whether", "who"}
"""A docstring that opens with one of these is a clause or a fragment, and an engineer who searches does not find it."""

# To be emptied: files whose docstrings are still to be rewritten.
TO_BE_REWRITTEN = frozenset(
    {
        "accounting/__init__.py",
        "accounting/accountants.py",
        "accounting/discrete.py",
        "accounting/events.py",
        "accounting/insiders.py",
        "accounting/planning.py",
        "accounting/search.py",
        "accounting/terms.py",
        "agreed/planning.py",
        "agreed/upload.py",
        "config/data.py",
        "config/study.py",
        "coordinator/observer.py",
        "coordinator/rounds.py",
        "federation/aggregators.py",
        "federation/local_training.py",
        "federation/messages.py",
        "federation/server.py",
        "federation/strategy.py",
        "federation/timetable.py",
        "hospital/correlated.py",
        "hospital/known_ledgers.py",
        "hospital/masked.py",
        "hospital/memory.py",
        "hospital/notes.py",
        "images/decode/raw.py",
        "images/dicom/codestream.py",
        "images/dicom/geometry.py",
        "images/dicom/headers.py",
        "images/dicom/labels.py",
        "images/dicom/parse.py",
        "images/dicom/pixels.py",
        "images/dicom/quiet.py",
        "images/dicom/reader.py",
        "images/dicom/series.py",
        "images/dicom/survey.py",
        "images/dicom/values.py",
        "images/entries.py",
        "images/findings.py",
        "images/group.py",
        "images/layouts/aptos.py",
        "images/layouts/decathlon.py",
        "images/layouts/manifest.py",
        "images/layouts/phantom.py",
        "images/layouts/readers.py",
        "images/load.py",
        "images/patients.py",
        "images/quality/balance.py",
        "images/quality/card.py",
        "images/quality/facts.py",
        "images/quality/found.py",
        "images/quality/inspection.py",
        "images/quality/lines.py",
        "images/quality/lookalikes.py",
        "images/quality/measure.py",
        "images/quality/notice.py",
        "images/quality/shortcut.py",
        "images/quality/wrong_reasons.py",
        "images/rows/fit.py",
        "images/rows/pixels.py",
        "images/rows/recipe.py",
        "images/store.py",
        "ledger/account.py",
        "ledger/entry.py",
        "ledger/file.py",
        "ledger/store.py",
        "privacy/adaptive.py",
        "privacy/correlated.py",
        "privacy/output_perturbation.py",
        "privacy/pictures/dp_pix.py",
        "privacy/pictures/labels.py",
        "privacy/pictures/mechanism.py",
        "privacy/pictures/per_pixel.py",
        "privacy/pictures/resemblance.py",
        "reproduce/mechanisms/sparse_vector/mechanism.py",
        "privacy/toeplitz.py",
        "privacy/updates.py",
        "records/folder.py",
        "reproduce/as_published/dopamine.py",
        "reproduce/as_published/plain.py",
        "reproduce/encrypted_sum/shared_key.py",
        "reproduce/loops.py",
        "reproduce/repaired.py",
        "reproduce/request.py",
        "reproduce/scale.py",
        "reproduce/table.py",
        "reproduce/terminal.py",
        "secure_aggregation/integers/grid.py",
        "secure_aggregation/integers/lazy_uniform.py",
        "secure_aggregation/integers/packing.py",
        "secure_aggregation/keys/key_files.py",
        "secure_aggregation/keys/pins.py",
        "secure_aggregation/keys/secret.py",
        "secure_aggregation/round/agreement.py",
        "secure_aggregation/round/cohort.py",
        "secure_aggregation/round/confirmation.py",
        "secure_aggregation/round/masks.py",
        "secure_aggregation/round/round_key.py",
        "secure_aggregation/round/transcript.py",
        "secure_aggregation/round/upload.py",
        "secure_aggregation/round/witness.py",
        "simulation/availability.py",
        "simulation/dealing.py",
        "simulation/estimate.py",
        "simulation/local_pictures.py",
        "simulation/materials.py",
        "simulation/results.py",
        "simulation/run.py",
        "simulation/sweeps/capacity.py",
        "simulation/sweeps/compare.py",
        "simulation/sweeps/many.py",
    }
)


def opening_words(text):
    """Line, name and first word of every docstring of a module, its classes, functions and properties."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = re.match(r"\W*(\w+)", ast.get_docstring(node) or "")
            if found:
                yield getattr(node, "lineno", 1), getattr(node, "name", "the module"), found[1].lower()


def violations(text):
    return [
        f"line {line}: {name} opens with {word!r}" for line, name, word in opening_words(text) if word in REFUSED
    ]


FOUND = {
    path.relative_to(SOURCE).as_posix(): violations(path.read_text(encoding="utf-8"))
    for path in sorted(SOURCE.rglob("*.py"))
}


@pytest.mark.parametrize("path", sorted(FOUND.keys() - TO_BE_REWRITTEN))
def test_no_docstring_opens_with_a_clause_or_a_fragment(path):
    assert FOUND[path] == []


def test_a_file_that_was_rewritten_leaves_the_list():
    rewritten = [path for path in sorted(TO_BE_REWRITTEN) if not FOUND.get(path)]
    assert rewritten == [], (
        "remove these from TO_BE_REWRITTEN: no docstring of theirs is refused, or they are gone"
    )


@pytest.mark.parametrize(
    "docstring", ["What a hospital sends.", "Whether it fits.", "Of the parameters, the norm.", "`who` is it?"]
)
@pytest.mark.parametrize(
    "place", ['"""{}"""', 'class A:\n    """{}"""', 'class A:\n    @property\n    def a(self):\n        """{}"""']
)
def test_the_lint_sees_modules_classes_and_properties(place, docstring):
    assert len(violations(place.format(docstring))) == 1
    assert violations(place.format("Returns what a hospital sends.")) == []
