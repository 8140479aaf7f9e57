"""A record holds as its maker signed it, and is refused after any change, whoever signs the change."""

import hashlib
import json
import os
import re
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from tests.cases import family
from tests.simulation.test_resume import InterruptingRound, interrupted, resume_run, run_study

from wardround.accounting.statement import Statement
from wardround.errors import WardroundError
from wardround.ledger.entry import GENESIS, chained_hash
from wardround.records import folder as records
from wardround.records.added import write_page
from wardround.records.arrays import arrays_from_file, arrays_to_bytes
from wardround.records.folder import RunRecord
from wardround.records.signed import check_signed
from wardround.records.signer import PAGE, PURPOSE, RECORD, SIGNED, sha256_of_file, signed_text
from wardround.records.writing import write_whole
from wardround.report.write import write_report
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.verification import verify_run

# Mutations -----------------------------------------------------------------------------------------------


def edit_json(name, change):
    def mutate(run):
        content = json.loads((run / name).read_text())
        change(content)
        (run / name).write_text(json.dumps(content))

    return mutate


def less_noise(certificate):
    certificate["statement"]["noise_multiplier"] /= 2
    text = json.dumps(certificate["event"])
    halved = re.sub(
        r'"noise_multiplier": ([\d.]+)', lambda found: f'"noise_multiplier": {float(found[1]) / 2}', text
    )
    assert halved != text
    certificate["event"] = json.loads(halved)


def smaller_epsilon(certificate):
    certificate["statement"]["epsilon"] = 0.01
    for name in ("sentence", "short"):
        certificate[name] = certificate[name].replace("8.00", "0.0100")


def cunning(run):
    """A smaller epsilon wherever it is printed: statement, sentences and rounds."""
    path = run / "certificate.json"
    certificate = json.loads(path.read_text())
    statement = replace(Statement.from_json(certificate["statement"]), epsilon=7.0)
    certificate |= {"statement": statement.to_json(), "sentence": statement.sentence(), "short": statement.short()}
    path.write_text(json.dumps(certificate))
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"epsilon": min(7.0, line["epsilon"])} if "epsilon" in line else {}
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def fewer_releases(certificate):
    """A certificate of one round less, consistent in itself."""
    certificate["event"]["of"][1]["count"] -= 1
    certificate["statement"]["releases"] -= 1


def insider_forgotten(certificate):
    certificate["insiders"].pop()


def perfect_score(results):
    results["metrics"]["auroc"] = 1.0


def other_study(run):
    text = (run / "study.toml").read_text()
    (run / "study.toml").write_text(text.replace("clipping_norm = 0.5", "clipping_norm = 0.25"))


def added_round(run):
    last = json.loads((run / "rounds.jsonl").read_text().splitlines()[-1])
    with (run / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(last | {"round": last["round"] + 1}) + "\n")


def removed_round(run):
    lines = (run / "rounds.jsonl").read_text().splitlines(keepends=True)
    (run / "rounds.jsonl").write_text("".join([*lines[:1], *lines[2:]]))


def renamed_checkpoint(run):
    last = run / "checkpoints" / "round-000004.safetensors"
    last.rename(last.with_name("round-000005.safetensors"))


def other_checkpoint(run):
    path = run / "checkpoints" / "round-000004.safetensors"
    path.write_bytes(arrays_to_bytes({name: array + 1 for name, array in arrays_from_file(path).items()}))


def swapped_weights(run):
    path = run / "model.safetensors"
    path.write_bytes(arrays_to_bytes({name: -array for name, array in arrays_from_file(path).items()}))


def added_pictures(run):
    (run / "released.safetensors").write_bytes(arrays_to_bytes({}))


def edited_row(run):
    _edit_ledger(run, chain_anew=False)


def ledger_chained_anew(run):
    """The same edit by a person who knows how a ledger is written: every later hash and the mark are right again."""
    _edit_ledger(run, chain_anew=True)


def _edit_ledger(run, *, chain_anew):
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("DROP TRIGGER entries_never_updated")
        lines = ledger.execute("SELECT sequence, body FROM entries ORDER BY sequence").fetchall()
        charge = next(sequence for sequence, body in lines if '"kind":"charge"' in body)
        previous = GENESIS
        for sequence, body in lines:
            if sequence == charge:
                body = body.replace('"purpose":"', '"purpose":"a rehearsal of ')
                ledger.execute("UPDATE entries SET body = ? WHERE sequence = ?", (body, sequence))
            previous = chained_hash(previous, body)
            if chain_anew:
                ledger.execute("UPDATE entries SET hash = ? WHERE sequence = ?", (previous, sequence))
    if chain_anew:
        (run / "ledger.sqlite.mark").unlink()


def of_certificate(change):
    return edit_json("certificate.json", change), "record-edited-certificate-json", "record-certificate"


def other_version(environment):
    environment["wardround"] = "9"


def other_hash(card):
    card["weights"]["sha256"] = "0" * 64


MUTATIONS = {
    # name: change, code as it is, code when its maker signs it again (None where only the signature can tell)
    "edited ledger row": (edited_row, "ledger-edited", "ledger-edited"),
    "ledger chained anew": (ledger_chained_anew, "record-ledger", "record-ledger"),
    "added round": (added_round, "record-edited-rounds-jsonl", "record-checkpoint"),
    "removed round": (removed_round, "record-edited-rounds-jsonl", "record-rounds"),
    "renamed checkpoint": (renamed_checkpoint, "record-added-checkpoint", "record-checkpoint"),
    "other checkpoint": (other_checkpoint, "record-edited-checkpoint", None),
    "swapped weights": (swapped_weights, "record-edited-model-safetensors", "record-model"),
    "smaller noise": of_certificate(less_noise),
    "smaller epsilon": of_certificate(smaller_epsilon),
    "smaller epsilon everywhere": (cunning, "record-edited-rounds-jsonl", "record-certificate"),
    "fewer releases": of_certificate(fewer_releases),
    "insider forgotten": of_certificate(insider_forgotten),
    "another study": (other_study, "record-edited-study-toml", "record-study"),
    "edited results": (edit_json("results.json", perfect_score), "record-edited-results-json", None),
    "edited versions": (edit_json("environment.json", other_version), "record-edited-environment-json", None),
    "other model card": (edit_json("model.json", other_hash), "record-edited-model-json", "record-model"),
    "added file": (added_pictures, "record-added-released-safetensors", None),
}


def signed_again(run, key):
    """Names every file as it is now, and signs that."""
    body = json.loads((run / RECORD).read_text())
    history = (run / "rounds.jsonl").read_bytes()
    body |= {
        "files": {name: sha256_of_file(run / name) for name in SIGNED if (run / name).exists()},
        "checkpoints": {path.name: sha256_of_file(path) for path in (run / "checkpoints").iterdir()},
        "history": hashlib.sha256(history).hexdigest(),
        "rounds": history.count(b"\n"),
        "public_key": key.public.hex(),
    }
    body["signature"] = key.sign(PURPOSE, signed_text(body)).hex()
    (run / RECORD).write_text(json.dumps(body))


def verified(run, **options):
    return verify_run(run, own_pin(), key=own_key(), **options)


def code_of(check, *arguments, **options):
    """The code with which something is refused; None where it holds."""
    try:
        check(*arguments, **options)
    except WardroundError as error:
        return error.code
    return None


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_record_is_refused_by_its_name(run, name):
    change, code, _ = MUTATIONS[name]
    change(run)
    assert code_of(verified, run) == code


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_record_signed_by_another_key_is_refused(run, name):
    MUTATIONS[name][0](run)
    signed_again(run, SigningKey.new(os.urandom))
    assert code_of(verified, run) == "record-key"


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_its_own_maker_signs_must_hold_together(run, name):
    change, _, code = MUTATIONS[name]
    change(run)
    signed_again(run, own_key())
    assert code_of(verified, run) == code


@pytest.mark.parametrize("name", family(["smaller epsilon", "edited results", "added round", "another study"]))
@pytest.mark.parametrize("command", ["report", "resume", "verify"])
def test_no_command_prints_what_does_not_hold(run, wardround, name, command):
    MUTATIONS[name][0](run)
    page = run / PAGE
    if not page.exists():
        page.write_text("as it was")
    before = page.read_bytes()
    ended = wardround(command, run)
    assert (ended.code, ended.out) == (2, "")
    assert ended.error.code == MUTATIONS[name][1]
    assert page.read_bytes() == before
    signed_again(run, SigningKey.new(os.urandom))
    assert wardround(command, run).error.code == "record-key"


def test_an_unchanged_record_holds_signed_again_or_not(run):
    assert code_of(verified, run) is None
    signed_again(run, own_key())
    assert code_of(verified, run) is None


def test_an_edited_or_missing_signature_is_refused(run):
    body = json.loads((run / RECORD).read_text())
    for changed in ({"ledger": "0" * 64}, {"signature": "0" * 128}, {"format": "another"}, {"public_key": "beef"}):
        (run / RECORD).write_text(json.dumps(body | changed))
        assert code_of(verified, run) == "record-signature"
    (run / RECORD).write_text(json.dumps(body | {"rounds": "four"}))
    assert code_of(verified, run) == "record-signature"
    (run / RECORD).unlink()
    assert code_of(verified, run) == "record-unsigned"


# The page ------------------------------------------------------------------------------------------------


def test_the_page_is_signed_and_an_edited_one_is_refused(run):
    write_page(run, b"epsilon = 8.00", own_key())
    assert verified(run).unchecked == ()
    (run / PAGE).write_bytes(b"epsilon = 0.01")
    assert code_of(verified, run) == "record-edited-report-html"
    assert code_of(resume_run, run) == "record-edited-report-html"
    (run / PAGE).unlink()  # it can be drawn again
    verified(run)
    write_page(run, b"epsilon = 8.00, drawn anew", own_key())
    assert verified(run).unchecked == ()


def test_a_page_that_nobody_signed_is_said(run):
    signed_again(run, own_key())
    (run / PAGE).write_bytes(b"a page")
    [said] = verified(run).unchecked
    assert said.startswith("report.html: it is not signed")


def test_another_person_leaves_the_page_as_its_maker_signed_it(run):
    write_page(run, b"as signed", own_key())
    record = (run / RECORD).read_bytes()
    for key in (None, SigningKey.new(os.urandom)):
        write_page(run, b"drawn by another version", key)
        assert ((run / PAGE).read_bytes(), (run / RECORD).read_bytes()) == (b"as signed", record)
    (run / PAGE).unlink()
    write_page(run, b"as signed", None)
    assert verified(run).unchecked == ()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_page_killed_between_two_writes_leaves_a_record_that_holds(run, monkeypatch, moment, after):
    write_page(run, b"first", own_key())
    calls = 0

    def write(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == moment and not after:
            raise Killed
        write_whole(*arguments, **options)
        if calls == moment:
            raise Killed

    monkeypatch.setattr("wardround.records.added.write_whole", write)
    with pytest.raises(Killed):
        write_page(run, b"second", own_key())
    assert (run / PAGE).read_bytes() in (b"first", b"second")
    verified(run)


# Honest runs ---------------------------------------------------------------------------------------------

HONEST: dict[str, dict[str, dict[str, object]]] = {
    "seeded": {},
    "unseeded": {"study": {"seed": None}, "privacy": {"epsilon_limit": 20.0}},
    "masked": {"privacy": {"sum": "masked", "sampling_prob": 0.5}, "study": {"seed": None}},
    "public size": {"privacy": {"accountant": "pld", "num_patients": 32, "sampling_prob": 0.5}},
    "fedavg": {"federation": {"strategy": "fedavg", "local_steps": 2}, "privacy": {"trust": "nobody"}},
    "correlated": {"privacy": {"plan": "correlated-noise", "cohorts": 2}},
    "every round": {"performance": {"keep": "every-round"}},
    "not private": {"privacy": {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}},
}


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("kind", family(HONEST, keep=["unseeded"]))
def test_honest_runs_hold_when_interrupted_resumed_and_finished(tiny_study, tmp_path, kind):
    out = tmp_path / "run"
    interrupted(tiny_study(**HONEST[kind]), out, InterruptingRound(3))
    stopped = verified(out)
    assert not stopped.signed.is_finished
    assert stopped.signed.rounds == 2
    resume_run(out)
    done = verified(out)
    assert done.signed.is_finished
    assert done.unchecked == ()
    assert any("contains the line" in line for line in done.checks)


@pytest.mark.thorough
def test_a_run_that_stopped_before_its_first_round_holds(tiny_study, tmp_path, wardround):
    out = tmp_path / "run"
    interrupted(tiny_study(study={"seed": None}, federation={"rounds": 1}), out, InterruptingRound(1))
    assert verified(out).signed.rounds == 0
    assert wardround("resume", out).code == 0
    assert verified(out).signed.is_finished


class Killed(BaseException):
    """The end of a process."""


def killed_at(monkeypatch, study, out, moment, *, after):
    """Runs a study until so many files were written, and stops before or after the last of them; True if it stopped."""
    calls = 0

    def counting(original):
        def write(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == moment and not after:
                raise Killed
            original(*arguments, **options)
            if calls == moment:
                raise Killed

        return write

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_whole", counting(write_whole))
        patch.setattr(records.RunFolder, "append_round", counting(records.RunFolder.append_round))
        with suppress(Killed):
            run_study(study, out)
            return False
    return True


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("moment", family(range(1, 22), keep=[9]))
def test_a_run_killed_between_two_writes_holds_and_goes_on(tiny_study, tmp_path, monkeypatch, moment, after):
    """Each file in its turn: the record, a line, a checkpoint, the model, the certificate."""
    out = tmp_path / "run"
    study = tiny_study(federation={"rounds": 2}, performance={"keep": "every-round"})
    stopped = killed_at(monkeypatch, study, out, moment, after=after)
    if not (out / "study.toml").exists():
        return
    verified(out)
    if stopped:
        resume_run(out)
    assert verified(out).signed.is_finished


def test_a_history_that_was_cut_holds_at_every_moment(tiny_study, tmp_path, monkeypatch):
    """A run that goes back to an earlier checkpoint signs the shorter history before it cuts the longer one."""
    out = tmp_path / "run"
    study = tiny_study(federation={"rounds": 3}, performance={"keep": "every-round"})
    interrupted(study, out, InterruptingRound(3))
    newest = out / "checkpoints" / "round-000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-4])  # cut off by a power failure
    assert verified(out).signed.rounds == 2

    def killed(*_arguments, **_options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(records.RunFolder, "write_text", killed)
        with suppress(Killed):
            resume_run(out)
    assert verified(out).signed.rounds == 1
    resume_run(out)
    assert verified(out).signed.is_finished


def test_a_planted_checkpoint_is_not_gone_on_from(tiny_study, tmp_path):
    """One that is whole and was not signed: of this run's next round, or in the place of the last one."""
    out = tmp_path / "run"
    interrupted(tiny_study(), out, InterruptingRound(3))
    last = out / "checkpoints" / "round-000002.safetensors"
    content = last.read_bytes()
    planted = arrays_to_bytes({name: array + 1 for name, array in arrays_from_file(last).items()})
    last.with_name("round-000003.safetensors").write_bytes(planted)
    assert code_of(resume_run, out) == "record-added-checkpoint"
    last.with_name("round-000003.safetensors").unlink()
    last.write_bytes(planted)
    assert code_of(resume_run, out) == "record-edited-checkpoint"
    last.write_bytes(content)
    resume_run(out)


def test_a_run_that_lost_every_checkpoint_begins_anew(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(), out, InterruptingRound(3))
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    verified(out)
    record = resume_run(out)
    assert [line["round"] for line in record.rounds] == [1, 2, 3, 4]
    assert verified(out).signed.is_finished


# What is shared ------------------------------------------------------------------------------------------


def test_the_signed_files_alone_hold_on_another_machine(run, tmp_path, wardround, monkeypatch):
    """A reader has what the record names, and the maker's public key from elsewhere: no ledger, no patients."""
    names = json.loads((run / RECORD).read_text())
    shared = tmp_path / "shared"
    (shared / "checkpoints").mkdir(parents=True)
    for name in (RECORD, *names["files"], *(f"checkpoints/{name}" for name in names["checkpoints"])):
        shutil.copy(run / name, shared / name)
    Pins({"anna": own_key().public}).write(tmp_path / "pins.toml")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nobody"))
    assert wardround("verify", shared).error.code == "record-key"
    ended = wardround("verify", shared, "--pins", tmp_path / "pins.toml", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["signer"], found["finished"]) == ("anna", True)
    assert found["unchecked"] == ["charges: the ledger is not here (--ledger)"]
    assert wardround("report", shared, "--pins", tmp_path / "pins.toml").code == 0
    with_ledger = wardround("verify", shared, "--pins", tmp_path / "pins.toml", "--ledger", run / "ledger.sqlite")
    assert with_ledger.code == 0, with_ledger.err


@pytest.mark.usefixtures("without_charts")
def test_no_private_file_is_signed_and_no_time_and_no_open_head_is_shared(run):
    body = json.loads((run / RECORD).read_text())
    private = {"own.html", "patients.csv", "ledger.json", "ledger.sqlite", "hospitals.log"}
    assert private & {path.name for path in run.iterdir()} >= private - {"hospitals.log"}
    assert not private & body["files"].keys()
    assert all("seconds" not in line for line in (run / "rounds.jsonl").read_text().splitlines())
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger:
        heads = [head for (head,) in ledger.execute("SELECT hash FROM entries")]
    write_report(RunRecord.read(run))
    shared = b"".join((run / name).read_bytes() for name in (RECORD, *body["files"], "report.html"))
    assert not [head for head in heads if head.encode() in shared or head[:12].encode() in shared]


def test_the_key_is_its_owners_alone_and_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert own_pin() == {}
    first = own_key().public
    path = tmp_path / "wardround" / "record-key.pem"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert own_key().public == first


def test_checking_changes_nothing(run):
    def stamps():
        return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}

    before = stamps()
    check_signed(run, own_pin())
    assert stamps() == before
