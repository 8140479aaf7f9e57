"""Reference runs on a report's page."""

import pytest

from wardround.report.numbers import numbers_of
from wardround.report.page import render


@pytest.mark.usefixtures("without_charts")
def test_references_that_are_all_private_need_no_words_on_how_privacy_was_left_out(make_record):
    def bend(certificate, results):
        results["references"] = {"alone": results["references"]["alone"]}

    page = render(numbers_of(make_record(bend)))
    assert "Each hospital alone, with privacy" in page
    assert "“Without privacy” is" not in page
