import pytest


@pytest.fixture(autouse=True, scope="module")
def no_page():
    """Runs of these tests end at their record: the page has tests of its own, and drawing it takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "wardround.coordinator.recording.write_report", lambda record, key: record.path / "report.html"
        )
        yield
