"""A study file that does not hold: one sentence on standard error, exit code 2, nothing half-written."""

import pytest
from tests.simulation.bad_input.refusals import refusal

from wardround.errors import StudyError


@pytest.mark.parametrize(
    ("before", "after", "code", "part"),
    [
        ("epsilon = 8.0", "epsilon = 0", "study-value", "privacy.epsilon"),
        ("epsilon = 8.0", "epsilon = -3", "study-value", "privacy.epsilon"),
        ("delta = 0.001", "delta = 1.0", "study-value", "privacy.delta"),
        ("sampling_prob = 1.0", "sampling_prob = 1.5", "study-value", "privacy.sampling_prob"),
        ("clipping_norm", "cliping_norm", "study-unknown-key", "clipping_norm?"),
        ("[privacy]", "[privacy", "study-no-toml", ""),
        ('layout = "phantom"', 'layout = "x-ray"', "study-value", "site.layout"),
        # An approximation bounds nothing.
        ('accountant = "rdp"', 'accountant = "gdp"', "study-value", "privacy.accountant"),
    ],
)
def test_a_study_file_that_does_not_hold_is_refused(study_file, refused, before, after, code, part):
    path = study_file()
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    message = refused(path, kind=StudyError, code=code)
    assert part in message
    assert str(path) in message


def test_a_missing_study_file_is_refused(refused, tmp_path):
    refused(tmp_path / "none.toml", kind=StudyError, code="study-no-file")


def test_more_hospitals_than_patients_are_refused(study_file, refused):
    assert "patients enough" in refused(study_file(hospitals={"count": 2, "scheme": "sizes", "sizes": [30, 30]}))


def test_weights_that_are_missing_or_pickled_or_of_another_network_are_refused(study_file, refused, tmp_path):
    from safetensors.numpy import save_file

    for name, content, part in (
        ("none.safetensors", None, "must be a readable file"),
        ("start.pt", b"PK", "a pickle that can run code"),
        ("torn.safetensors", b"\x08", "must be in the safetensors format"),
        ("notes.txt", b"weights", "must be a .safetensors file"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        assert part in refused(study_file(model={"name": "small_cnn", "weights": str(path)}))
    save_file({}, tmp_path / "empty.safetensors")
    path = study_file(model={"name": "small_cnn", "weights": str(tmp_path / "empty.safetensors")})
    assert "missing" in refused(path)


def test_a_training_that_diverges_is_a_sentence(study_file, wardround, tmp_path):
    path = study_file(
        federation={"learning_rate": 1e38},
        privacy={"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None},
    )
    message = refusal(wardround("run", path, "--out", tmp_path / "out"))
    assert "lower the learning rate" in message
