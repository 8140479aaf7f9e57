"""A place in which a command could write nothing is refused before the work: nothing else that it was given is read."""

import socket

import pytest

STUDY = "no-study.toml"
COMMANDS = {
    "predict": ("predict", "no-run", "no.png", "--csv"),
    "audit": ("audit", STUDY, "--out"),
    "audit --broken": ("audit", "--broken", "--out"),
    "invert": ("audit", "invert", STUDY, "--out"),
    "data check, page": ("data", "check", "no-folder", "--page"),
    "data check, card": ("data", "check", "no-folder", "--card"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_cannot_be_written_is_found_first(wardround, tmp_path, name):
    (tmp_path / "file").touch()
    for place in (tmp_path / "missing" / "out", tmp_path, tmp_path / "file" / "out"):
        done = wardround(*COMMANDS[name], place)
        assert (done.code, done.error.code) == (2, "machine-path")
        assert str(place) in done.err
        assert done.err.count("\n") == 1, "one sentence"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_run_whose_folder_cannot_be_made_reads_no_picture(wardround, tiny_study, tmp_path, monkeypatch):
    monkeypatch.setattr("wardround.simulation.run.gather", lambda *_: pytest.fail("pictures are read"))
    (tmp_path / "study.toml").write_text(tiny_study().to_toml())
    (tmp_path / "file").touch()
    done = wardround("run", tmp_path / "study.toml", "--out", tmp_path / "file" / "run")
    assert (done.code, done.error.code) == (2, "machine-path")


def test_an_address_that_cannot_be_had_is_found_before_the_model(wardround):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in (("--port", port), ("--host", "192.0.2.1")):
            done = wardround("serve", "no-run", *options)
            assert (done.code, done.error.code) == (2, "study-address")
