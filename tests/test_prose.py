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
        "accounting/hospital_ledger.py",
        "accounting/insiders.py",
        "accounting/ledger.py",
        "accounting/ledger_entry.py",
        "accounting/ledger_store.py",
        "accounting/planning.py",
        "accounting/search.py",
        "accounting/terms.py",
        "agent/agent.py",
        "agent/correlated.py",
        "agent/known_ledgers.py",
        "agent/masked.py",
        "agent/memory.py",
        "agent/notes.py",
        "agent/policy.py",
        "reproduce/mechanisms/selective/hospital.py",
        "config/data.py",
        "config/privacy.py",
        "config/section.py",
        "config/study.py",
        "federation/aggregators.py",
        "federation/availability.py",
        "federation/channel.py",
        "federation/coordinator.py",
        "federation/local_training.py",
        "federation/masked.py",
        "federation/messages.py",
        "federation/server.py",
        "federation/strategy.py",
        "federation/timetable.py",
        "hospitals.py",
        "images/aptos.py",
        "images/decathlon.py",
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
        "images/fit.py",
        "images/group.py",
        "images/load.py",
        "images/manifest.py",
        "images/patients.py",
        "images/phantom.py",
        "images/pixels.py",
        "images/quality/balance.py",
        "images/quality/card.py",
        "images/quality/facts.py",
        "images/quality/found.py",
        "images/quality/inspection.py",
        "images/quality/lines.py",
        "images/quality/lookalikes.py",
        "images/quality/measure.py",
        "images/quality/notice.py",
        "images/quality/wrong_reasons.py",
        "images/raw.py",
        "images/readers.py",
        "images/recipe.py",
        "images/shortcut.py",
        "images/store.py",
        "models/catalogue.py",
        "models/form.py",
        "models/initialise.py",
        "models/network.py",
        "models/stages.py",
        "models/voxel_features.py",
        "models/weights.py",
        "privacy/adaptive.py",
        "privacy/clips.py",
        "privacy/correlated.py",
        "privacy/engine.py",
        "privacy/layout.py",
        "privacy/output_perturbation.py",
        "reproduce/mechanisms/pictures/dp_pix.py",
        "reproduce/mechanisms/pictures/labels.py",
        "reproduce/mechanisms/pictures/noise.py",
        "reproduce/mechanisms/pictures/per_pixel.py",
        "reproduce/mechanisms/pictures/resemblance.py",
        "privacy/plan.py",
        "privacy/promise.py",
        "privacy/randomness.py",
        "privacy/rows.py",
        "privacy/rules.py",
        "privacy/slots.py",
        "reproduce/mechanisms/sparse_vector/mechanism.py",
        "privacy/sums.py",
        "privacy/surgery.py",
        "privacy/toeplitz.py",
        "privacy/updates.py",
        "privacy/uses/__init__.py",
        "privacy/uses/base.py",
        "privacy/uses/convolution.py",
        "privacy/uses/elementwise.py",
        "privacy/validation.py",
        "privacy/watch.py",
        "records.py",
        "report/canvas.py",
        "report/charts.py",
        "report/comparison_charts.py",
        "report/comparison_lines.py",
        "report/comparison_page.py",
        "report/guarantee.py",
        "report/masked.py",
        "report/numbers.py",
        "report/side_by_side.py",
        "report/together.py",
        "reproduce/as_published/dopamine.py",
        "reproduce/as_published/plain.py",
        "reproduce/loops.py",
        "reproduce/repaired.py",
        "reproduce/request.py",
        "reproduce/scale.py",
        "reproduce/table.py",
        "reproduce/terminal.py",
        "run/assemble.py",
        "run/availability.py",
        "run/capacity.py",
        "run/charged.py",
        "run/compare.py",
        "run/environment.py",
        "run/estimate.py",
        "reproduce/mechanisms/pictures/simulation.py",
        "run/many.py",
        "run/materials.py",
        "run/observer.py",
        "run/outputs.py",
        "run/planning.py",
        "run/plans.py",
        "run/stages.py",
        "run/strategies.py",
        "run/upload.py",
        "secure_aggregation/agreement.py",
        "secure_aggregation/cohort.py",
        "secure_aggregation/confirmation.py",
        "secure_aggregation/grid.py",
        "secure_aggregation/hidden_sum.py",
        "secure_aggregation/joint_key.py",
        "secure_aggregation/key_files.py",
        "secure_aggregation/lazy_uniform.py",
        "secure_aggregation/masks.py",
        "secure_aggregation/packing.py",
        "secure_aggregation/pins.py",
        "secure_aggregation/round_key.py",
        "secure_aggregation/secret.py",
        "secure_aggregation/signed_parts.py",
        "secure_aggregation/transcript.py",
        "secure_aggregation/upload.py",
        "secure_aggregation/witness.py",
        "training/augment/augmentation.py",
        "training/augment/axes.py",
        "training/augment/draws.py",
        "training/augment/warp.py",
        "training/local.py",
        "training/metrics/__init__.py",
        "training/metrics/bootstrap.py",
        "training/metrics/calibration.py",
        "training/metrics/classification.py",
        "training/metrics/confusion.py",
        "training/metrics/groups.py",
        "training/metrics/ranking.py",
        "training/metrics/segmentation.py",
        "training/metrics/surfaces.py",
        "training/workbench.py",
        "types.py",
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
