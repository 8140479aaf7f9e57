"""Private files: closed to others whatever the umask, whole or not there, and no link is followed."""

import os
import shutil
import stat

import pytest
from tests.cases import family
from tests.errors import raises_code

from wardround.boundary.private import appears_whole, make_private_folder, open_private
from wardround.errors import MachineError
from wardround.records.folder import RunFolder


@pytest.fixture
def open_to_all():
    """The umask of a careless account."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(root):
    """Every file and folder that is open to others."""
    return {
        str(path.relative_to(root)): oct(path.lstat().st_mode)
        for path in [root, *root.rglob("*")]
        if stat.S_IMODE(path.lstat().st_mode) != (0o700 if path.is_dir() else 0o600)
    }


MASKED = {"sum": "masked", "colluders": 1}
SELECTIVE = {"trust": "nobody"}


@pytest.mark.usefixtures("open_to_all", "without_charts")
@pytest.mark.parametrize(("privacy", "strategy"), family([(SELECTIVE, "selective"), (MASKED, "fedsgd")]))
def test_a_run_folder_is_its_owners_alone_whatever_the_umask(tiny_study, tmp_path, privacy, strategy):
    from wardround.coordinator.observer import Silent
    from wardround.simulation.run import run_study

    study = tiny_study(
        study={"seed": None}, privacy=privacy, federation={"rounds": 3, "strategy": strategy},
        performance={"cache": str(tmp_path / "cache")},
    )  # fmt: skip
    kept = tmp_path / "kept"

    class Looking(Silent):
        def progress(self, done, total, detail=""):
            if not kept.exists() and (tmp_path / "out" / "hospitals").exists():
                shutil.copytree(tmp_path / "out", kept)

    run_study(study, tmp_path / "out", Looking())
    assert modes(tmp_path / "out") == {}
    assert modes(tmp_path / "cache") == {}
    assert kept.exists()
    assert modes(kept) == {}, "while it goes on, keys and notes of hospitals included"


@pytest.mark.usefixtures("open_to_all")
def test_private_folders_are_made_with_those_above_and_others_stay(tmp_path):
    (tmp_path / "there").mkdir(mode=0o755)
    make_private_folder(tmp_path / "there" / "a" / "b")
    make_private_folder(tmp_path / "there" / "a" / "b")
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o755
    assert modes(tmp_path / "there" / "a") == {}
    (tmp_path / "file").touch()
    with raises_code(MachineError, "machine-path"):
        make_private_folder(tmp_path / "file" / "c")


@pytest.mark.parametrize("name", [".lock", "rounds.jsonl"])
def test_a_link_in_the_place_of_a_lock_or_a_log_is_refused_and_its_target_left(tmp_path, name):
    precious = tmp_path / "precious"
    precious.write_text("the only copy")
    run = tmp_path / "run"
    folder = RunFolder.create(run)
    if name == ".lock":
        folder.close()
        (run / ".lock").unlink()
    (run / name).symlink_to(precious)
    with pytest.raises(MachineError, match="it is a link"):
        RunFolder.create(run) if name == ".lock" else folder.append_round({"round": 1})
    assert precious.read_text() == "the only copy"
    folder.close()


def test_a_lock_keeps_its_content(tmp_path):
    RunFolder.create(tmp_path / "run").close()
    (tmp_path / "run" / ".lock").write_text("a note")
    RunFolder.create(tmp_path / "run").close()
    assert (tmp_path / "run" / ".lock").read_text() == "a note"


def test_a_pipe_in_the_place_of_a_log_is_refused(tmp_path):
    os.mkfifo(tmp_path / "log")
    with pytest.raises(MachineError, match=r"no regular file|No such device"):
        open_private(tmp_path / "log", os.O_WRONLY | os.O_APPEND)


def test_a_file_is_there_whole_or_not_at_all_and_a_link_is_replaced(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_bytes(b"other")
    path.symlink_to(other)
    with appears_whole(path) as file:
        file.write(b"new")
    assert (path.read_bytes(), other.read_bytes(), path.is_symlink()) == (b"new", b"other", False)

    def interrupted():
        with appears_whole(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(FileExistsError), appears_whole(path, replace=False) as file:
        file.write(b"newer")
    assert path.read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other"]
