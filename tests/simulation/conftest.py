import pytest


@pytest.fixture(autouse=True, scope="module")
def no_page():
    """Runs of these tests end at their record: the page has tests of its own, and drawing it takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "wardround.coordinator.recording.write_report", lambda record, key: record.path / "report.html"
        )
        yield


@pytest.fixture
def study_of(tiny_study, make_pictures, tmp_path):
    """A study of 24 tiny pictures of one patient each; unseeded, unless it says otherwise."""
    data = make_pictures(tmp_path / "pictures")

    def make(study=None, privacy=None, **sections):
        return tiny_study(
            study={"seed": None} | (study or {}), data={"layout": "folder", "path": str(data)},
            privacy={"epsilon": 3.0, "num_patients": 20} | (privacy or {}), **sections,
        )  # fmt: skip

    return make
