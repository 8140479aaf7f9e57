"""The promise of a report in words, by the relation between neighbours."""

import pytest

from wardround.report.numbers import numbers_of
from wardround.report.page import render


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize(
    ("relation", "said", "unsaid"),
    [
        (
            "add-or-remove-one",
            ("had stayed away", "whether one particular"),
            ("taken part instead", "which of two"),
        ),
        ("replace-one", ("taken part instead", "which of two"), ("had stayed away", "whether one particular")),
    ],
)
def test_only_a_promise_on_adding_or_removing_hides_that_somebody_took_part(make_record, relation, said, unsaid):
    """Where a neighbour is replaced, presence is known: an attacker guesses which of two it was."""

    def bend(certificate, results):
        certificate["statement"]["relation"] = relation

    page = render(numbers_of(make_record(bend)))
    assert [words in page for words in (*said, *unsaid)] == [True, True, False, False]
