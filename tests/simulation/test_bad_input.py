"""Bad input through the real command line: one sentence on standard error, exit code 2, nothing half-written."""

import errno
import io
import json
import os
import shutil
import sqlite3
import struct
import zlib

import pytest
from PIL import Image
from tests.cases import family

from wardround.errors import BudgetExhausted, DataError, StudyError, WardroundError
from wardround.images.rows import cache as picture_cache
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_ledger
from wardround.ledger.store import LedgerStore
from wardround.records.folder import RunFolder

FOLDER = {"layout": "folder"}


def refusal(ended, kind=WardroundError, code=None):
    """The one sentence a refused command printed, after the stages it went through, for an error of this kind."""
    assert ended.code == 2, ended.err
    assert isinstance(ended.error, kind), repr(ended.error)
    assert code in (None, ended.error.code), ended.error.code
    assert "Traceback" not in ended.err
    assert "Error:" not in ended.err
    said = [line for line in ended.err.splitlines() if not line.startswith("·")]
    assert said[0].startswith("wardround: "), ended.err
    assert sum(line.startswith("wardround: ") for line in said) == 1, ended.err
    assert ended.out == ""
    message = "\n".join(said).removeprefix("wardround: ")
    sentence, _, command = message.partition(" Go on with: ")
    assert sentence.rstrip().endswith((".", ")", "?")), message
    assert command == "" or command.startswith("wardround resume "), message
    return message


def contents(folder):
    """Every file of a folder with its bytes; the lock file says nothing."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def refused(wardround, tmp_path):
    """Runs a study file that must be refused before anything is written; the sentence it was refused with."""
    out = tmp_path / "out"

    def run(path, *options, kind=WardroundError, code=None):
        message = refusal(wardround("run", path, "--out", out, *options), kind, code)
        assert not out.exists(), "a refused study leaves no folder"
        return message

    return run


@pytest.fixture
def pictures(make_pictures, tmp_path):
    return make_pictures(tmp_path / "pictures")


@pytest.fixture
def of_pictures(study_file, pictures):
    """A study file of the folder of pictures."""
    return lambda **sections: study_file(data={"layout": "folder", "path": str(pictures)}, **sections)


@pytest.fixture
def earlier(finished, tmp_path):
    """A finished run in the folder where commands are told to write."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def png_claiming(width, height):
    """A PNG whose header claims a size and which holds one row."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    row = zlib.compress(bytes(1 + width))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def half_a_jpeg():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]


def table(folder, header, rows):
    """A metadata.csv for the pictures of a folder."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    lines = [",".join(rows(number, file)) for number, file in enumerate(files)]
    (folder / "metadata.csv").write_text("\n".join([header, *lines]) + "\n")


# The study file ------------------------------------------------------------------------------------------


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


# The pictures --------------------------------------------------------------------------------------------


def test_a_missing_data_folder_is_refused(study_file, refused, tmp_path):
    refused(study_file(data=FOLDER), "--data", tmp_path / "none", kind=DataError, code="data")
    assert "must have a data folder" in refused(study_file(data=FOLDER))


def test_another_layout_is_refused_with_what_lies_there(study_file, refused, pictures):
    message = refused(study_file(data={"layout": "chest_xray", "path": str(pictures)}))
    assert "must look like" in message
    assert "ill/, well/" in message
    (pictures.parent / "empty").mkdir()
    assert "must look like" in refused(study_file(data=FOLDER), "--data", pictures.parent / "empty")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("letter.jpeg", b"Dear colleague,\n", "none of them"),
        ("half.jpeg", half_a_jpeg(), "damaged"),
        ("bomb.png", png_claiming(60_000, 60_000), "at most 50,000,000 pixels"),
        ("large.png", png_claiming(10_000, 10_000), "at most 50,000,000 pixels, got 10000 x 10000"),
        ("empty.png", b"", "none of them"),
    ],
)
def test_a_file_that_is_no_good_picture_is_refused_by_its_name(
    of_pictures, refused, pictures, name, content, part
):
    (pictures / "ill" / "p00" / name).write_bytes(content)
    message = refused(of_pictures())
    assert "1 of 25" in message
    assert f"ill/p00/{name}" in message
    assert part in message


def test_a_bad_picture_can_be_left_out(study_file, wardround, pictures, tmp_path):
    (pictures / "ill" / "p00" / "letter.jpeg").write_bytes(b"Dear colleague,\n")
    path = study_file(data={"layout": "folder", "path": str(pictures), "skip_unreadable": True})
    ended = wardround("run", path, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["findings"]["unreadable"] == 1


def test_a_table_without_a_column_is_refused_by_the_column(of_pictures, refused, pictures):
    table(pictures, "file,label", lambda _, file: [file, file.split("/")[0]])
    assert "missing: patient_id" in refused(of_pictures())


def test_a_patient_in_two_hospitals_is_refused(of_pictures, refused, pictures):
    table(
        pictures,
        "file,label,patient_id,site",
        lambda number, file: [file, file.split("/")[0], f"p{number // 2}", ("north", "south")[number == 1]],
    )
    message = refused(of_pictures(hospitals={"scheme": "site", "count": 2}))
    assert "a patient must be in exactly one hospital, but 1 have images from two sites" in message


def test_a_study_that_counts_the_sites_wrong_is_refused(of_pictures, refused, pictures):
    # Noise shares are sized by the study's number of hospitals: with fewer in fact, the noise would fall short.
    table(
        pictures,
        "file,label,patient_id,site",
        lambda number, file: [file, file.split("/")[0], f"p{number}", ("north", "south")[number % 2]],
    )
    message = refused(of_pictures(hospitals={"scheme": "site", "count": 3}))
    assert "hospitals.count must be the number of sites in the data, 2, got 3" in message


def test_a_data_set_of_one_class_is_refused(of_pictures, refused, pictures):
    shutil.rmtree(pictures / "well")
    assert "second class" in refused(of_pictures())


def test_a_class_without_patients_is_refused(study_file, refused, pictures, tmp_path):
    chest = tmp_path / "chest"
    for number, picture in enumerate(sorted(pictures.rglob("*.png"))):
        path = chest / "train" / "PNEUMONIA" / f"person{number}_bacteria_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, path)
    message = refused(study_file(data={"layout": "chest_xray", "path": str(chest)}))
    assert "got none of: normal" in message


# The weights ---------------------------------------------------------------------------------------------


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


# The run folder ------------------------------------------------------------------------------------------


def test_a_folder_with_a_run_is_refused_without_fresh(study_file, wardround, earlier):
    before = contents(earlier)
    ended = wardround("run", study_file(), "--out", earlier)
    message = refusal(ended)
    assert "reading pictures" not in ended.err, "what can be told at once is told at once"
    assert "--fresh" in message
    assert "wardround resume" in message
    assert contents(earlier) == before


def test_a_folder_with_other_files_is_refused(study_file, wardround, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "thesis.tex").write_text("chapter one")
    before = contents(out)
    assert "other files" in refusal(wardround("run", study_file(), "--out", out))
    assert contents(out) == before


def test_a_folder_that_cannot_be_written_is_refused(study_file, wardround, tmp_path, monkeypatch):
    # Tests may run as root, whom permissions do not stop: here the system refuses instead.
    def refuse(path, *_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    path = study_file()
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    message = refusal(wardround("run", path, "--out", tmp_path / "out"))
    assert "could not be read or written (Permission denied)" in message
    assert not (tmp_path / "out").exists()


def test_a_file_as_run_folder_is_refused(study_file, wardround, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert "in the place of a folder" in refusal(wardround("run", study_file(), "--out", tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("command", ["resume", "report"])
def test_a_folder_that_is_no_run_is_refused(wardround, tmp_path, command):
    (tmp_path / "notes.txt").write_text("")
    assert "study.toml" in refusal(wardround(command, tmp_path))
    assert "study.toml" in refusal(wardround(command, tmp_path / "none"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_report_of_an_unfinished_run_is_refused(wardround, earlier):
    (earlier / "certificate.json").unlink()
    before = contents(earlier)
    assert "must be finished" in refusal(wardround("report", earlier))
    assert contents(earlier) == before


@pytest.mark.parametrize("command", ["resume", "report"])
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
@pytest.mark.parametrize("name", ["certificate.json", "results.json"])
def test_a_damaged_record_is_refused_by_its_name(wardround, earlier, command, name, content):
    (earlier / name).write_text(content)
    assert name in refusal(wardround(command, earlier))


@pytest.mark.parametrize("content", ["{", "{}"])
def test_an_unfinished_run_whose_environment_is_damaged_is_refused(wardround, earlier, content):
    (earlier / "certificate.json").unlink()
    (earlier / "environment.json").write_text(content)
    refusal(wardround("resume", earlier))


def test_an_unfinished_run_whose_checkpoints_are_all_damaged_is_refused(wardround, earlier):
    (earlier / "certificate.json").unlink()
    for path in (earlier / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in refusal(wardround("resume", earlier))


# The ledger ----------------------------------------------------------------------------------------------


@pytest.fixture
def limited(own_state):
    """A lasting ledger in which a person may spend 8, just what the tiny study costs."""
    with LedgerFile(own_ledger()) as ledger:
        ledger.set_limit(8.0, 1e-3, by="a test", reason="one study")


def test_a_ledger_is_about_persons_and_not_about_a_data_set(study_file, wardround, refused, tmp_path):
    """Other pictures of the same persons are charged to the same accounts, of seeded studies as well."""
    path = tmp_path / "ledger.sqlite"
    with LedgerFile(path) as ledger:
        ledger.set_limit(8.0, 1e-3, by="a test", reason="one study")
    first = wardround("run", study_file(privacy={"ledger": str(path)}), "--out", tmp_path / "first")
    assert first.code == 0, first.err
    phantom = {"patients": 40, "max_images": 2, "sites": 2, "image_size": 32, "seed": 1}
    other = study_file(privacy={"ledger": str(path)}, data={"phantom": phantom})
    refused(other, kind=BudgetExhausted, code="budget-exhausted")


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("num_patients", family([None, 20]), ids=["counted", "public size"])
def test_an_exhausted_ledger_refuses_the_next_study(of_pictures, wardround, refused, tmp_path, num_patients):
    private = {"num_patients": num_patients}
    first = of_pictures(privacy=private, study={"seed": None})
    ended = wardround("run", first, "--out", tmp_path / "first")
    assert ended.code == 0, ended.err
    second = of_pictures(privacy=private, study={"seed": None, "name": "second"})
    refused(second, kind=BudgetExhausted, code="budget-exhausted")


@pytest.mark.usefixtures("limited")
def test_an_exhausted_ledger_leaves_the_earlier_run_as_it_was(of_pictures, wardround, tmp_path):
    path = of_pictures(study={"seed": None})
    out = tmp_path / "out"
    ended = wardround("run", path, "--out", out)
    assert ended.code == 0, ended.err
    before = contents(out)
    refusal(wardround("run", path, "--out", out, "--fresh"), BudgetExhausted, "budget-exhausted")
    assert contents(out) == before


@pytest.mark.usefixtures("limited")
def test_a_seeded_study_repeats_its_releases_on_an_exhausted_ledger_and_no_other_does(
    of_pictures, wardround, tmp_path
):
    path, out = of_pictures(), tmp_path / "out"
    for _ in range(2):
        ended = wardround("run", path, "--out", out, "--fresh")
        assert ended.code == 0, ended.err
    before = contents(out)
    other = of_pictures(study={"seed": 8})
    refusal(wardround("run", other, "--out", out, "--fresh"), BudgetExhausted, "budget-exhausted")
    assert contents(out) == before


@pytest.mark.usefixtures("limited")
def test_changed_pictures_are_the_same_persons_and_leave_the_earlier_run_as_it_was(
    of_pictures, wardround, pictures, tmp_path
):
    path, out = of_pictures(study={"seed": None}), tmp_path / "out"
    ended = wardround("run", path, "--out", out)
    assert ended.code == 0, ended.err
    before = contents(out)
    Image.new("L", (32, 32), 7).save(pictures / "ill" / "p00" / "view.png")
    refusal(wardround("run", path, "--out", out, "--fresh"), BudgetExhausted, "budget-exhausted")
    assert contents(out) == before


def test_a_cap_without_room_for_one_round_is_refused(study_file, refused):
    refused(study_file(privacy={"epsilon_limit": 0.5}), kind=BudgetExhausted, code="budget-exhausted")


def test_a_ledger_in_a_missing_folder_is_refused(study_file, refused, tmp_path):
    path = study_file(privacy={"ledger": str(tmp_path / "none" / "ledger.sqlite")})
    assert "must lie in a folder that exists" in refused(path)


def test_a_file_that_is_no_ledger_is_refused(study_file, refused, tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database, but long enough to look at" * 9)
    path = study_file(privacy={"ledger": str(tmp_path / "ledger.sqlite")})
    assert "must be an intact SQLite file" in refused(path)


# A full disk ---------------------------------------------------------------------------------------------


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def goes_on(wardround, study, out):
    """After a failure, resuming (or running once more, where nothing had begun) ends well."""
    again = ("resume", out) if (out / "study.toml").exists() else ("run", study, "--out", out)
    ended = wardround(*again)
    assert ended.code == 0, ended.err
    assert (out / "certificate.json").exists()


def test_a_disk_full_of_pictures_is_a_sentence(study_file, refused, tmp_path, monkeypatch):
    path = study_file(performance={"cache": str(tmp_path / "cache")})
    monkeypatch.setattr(picture_cache, "_write", full)
    message = refused(path)
    assert "No space left on device" in message
    assert list((tmp_path / "cache").iterdir()) == [], "no half picture cache"


@pytest.mark.parametrize(
    "name",
    family(
        [
            "environment.json",
            "patients.csv",
            "study.toml",
            "results.json",
            "certificate.json",
            "model.safetensors",
        ],
        keep=["study.toml", "certificate.json"],
    ),
)
def test_a_disk_full_at_any_file_of_the_record_is_a_sentence(study_file, wardround, tmp_path, monkeypatch, name):
    path, out = study_file(), tmp_path / "out"
    replace = type(out).replace

    def full_at(self, target):
        return full() if target.name == name else replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full_at)
        message = refusal(wardround("run", path, "--out", out))
    assert f"{name} could not be read or written (No space left on device)" in message
    assert not list(out.rglob("*.tmp"))
    goes_on(wardround, path, out)


@pytest.mark.parametrize("failing", family(["write_checkpoint", "append_round"]))
def test_a_disk_full_in_the_third_round_is_a_sentence(study_file, wardround, tmp_path, monkeypatch, failing):
    path, out = study_file(), tmp_path / "out"
    honest = getattr(RunFolder, failing)
    calls: list[None] = []

    def full_at_the_third(self, *args):
        calls.append(None)
        if len(calls) < 3:
            return honest(self, *args)
        with monkeypatch.context() as patch:
            patch.setattr("os.fdopen", full)
            return honest(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, failing, full_at_the_third)
        assert "No space left on device" in refusal(wardround("run", path, "--out", out))
    goes_on(wardround, path, out)


@pytest.mark.parametrize("statement", family(["INSERT", "COMMIT"], keep=["COMMIT"]))
def test_a_disk_full_under_the_ledger_is_a_sentence_and_releases_nothing(
    study_file, wardround, tmp_path, monkeypatch, statement
):
    path, out = study_file(), tmp_path / "out"
    prepare = LedgerStore._prepare

    class Full:
        """A connection on a disk that is full when a charge is written."""

        def __init__(self, connection):
            self._connection = connection

        def __getattr__(self, name):
            return getattr(self._connection, name)

        def execute(self, query, *parameters):
            if query.startswith(statement):
                raise sqlite3.OperationalError("database or disk is full")
            return self._connection.execute(query, *parameters)

    def prepared(self):
        prepare(self)
        self._connection = Full(self._connection)

    with monkeypatch.context() as patch:
        patch.setattr(LedgerStore, "_prepare", prepared)
        refusal(wardround("run", path, "--out", out))
    assert not (out / "rounds.jsonl").exists(), "nothing was released"
    goes_on(wardround, path, out)


# Options of commands -------------------------------------------------------------------------------------

ASKED = ("--patients", 1000, "--hospitals", 5, "--delta", 1e-5, "--rounds", 10)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (ASKED, "Exactly one of epsilon and noise_multiplier"),
        ((*ASKED, "--epsilon", 1, "--noise-multiplier", 1), "Exactly one of epsilon and noise_multiplier"),
        ((*ASKED, "--epsilon", 0), "epsilon must be"),
        ((*ASKED, "--epsilon", 1, "--delta", 1), "delta must"),
        ((*ASKED, "--epsilon", 1, "--sampling-prob", 1.5), "sampling_prob must"),
        ((*ASKED, "--epsilon", 1, "--trust", "everybody"), "--trust must be one of coordinator"),
        ((*ASKED, "--epsilon", 1, "--accountant", "abacus"), "--accountant must be one of pld"),
        ((*ASKED, "--epsilon", 1, "--colluders", 5), "honest"),
        ((*ASKED, "--epsilon", 1, "--rounds", 0), "rounds must be >= 1"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(wardround, options, part):
    assert part in refusal(wardround("plan", *options))


@pytest.mark.parametrize(
    "arguments",
    [("run",), ("plan", "--patients", "many"), ("plan",), ("no-such-command",), ("run", "--no-such-option")],
)
def test_a_command_used_wrongly_exits_with_2_and_its_usage(wardround, arguments):
    ended = wardround(*arguments)
    assert ended.code == 2
    assert "Usage:" in ended.err
    assert "Traceback" not in ended.err


def test_data_check_of_nothing_is_refused(wardround, tmp_path):
    refusal(wardround("data", "check", tmp_path / "none"), DataError, "data")
    assert "must look like" in refusal(wardround("data", "check", tmp_path))
    assert "layout must be one of" in refusal(wardround("data", "check", tmp_path, "--layout", "abacus"))


def test_data_check_names_what_is_odd(wardround, pictures):
    (pictures / "ill" / "p00" / "letter.jpeg").write_bytes(b"Dear colleague,\n")
    ended = wardround("data", "check", pictures, "--layout", "folder", "--json")
    assert ended.code == 0, ended.err
    assert "unreadable" in ended.out


# Diverging -----------------------------------------------------------------------------------------------


def test_a_training_that_diverges_is_a_sentence(study_file, wardround, tmp_path):
    path = study_file(
        federation={"learning_rate": 1e38},
        privacy={"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None},
    )
    message = refusal(wardround("run", path, "--out", tmp_path / "out"))
    assert "lower the learning rate" in message
