"""Changes of a finished record, and the codes with which each is refused."""

import hashlib
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace

from wardround.accounting.events import canonical_json
from wardround.accounting.statement import Statement
from wardround.errors import WardroundError
from wardround.ledger.entry import GENESIS, chained_hash
from wardround.records.arrays import arrays_from_file, arrays_to_bytes
from wardround.records.signer import PURPOSE, RECORD, SIGNED, sha256_of_file, signed_text
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.verification import verify_run


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
    edit_ledger(run, _another_purpose, chain_anew=False)


def ledger_chained_anew(run):
    """The same edit by a person who knows how a ledger is written: every later hash and the mark are right again."""
    edit_ledger(run, _another_purpose)


def _another_purpose(line):
    return line | {"purpose": f"a rehearsal of {line['purpose']}"} if line["kind"] == "charge" else line


def edit_ledger(run, change, *, chain_anew=True):
    """Writes every line of a run's ledger as `change` has it, without those of which it makes None."""
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger, ledger:
        for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            ledger.execute(f"DROP TRIGGER {name}")
        before = ledger.execute("SELECT hash, body FROM entries ORDER BY sequence").fetchall()
        made = [(old, change(json.loads(body))) for old, body in before]
        ledger.execute("DELETE FROM entries")
        previous, kept = GENESIS, [(old, canonical_json(line)) for old, line in made if line is not None]
        for sequence, (old, body) in enumerate(kept, start=1):
            previous = chained_hash(previous, body) if chain_anew else old
            ledger.execute("INSERT INTO entries VALUES (?, ?, ?)", (sequence, previous, body))
        ledger.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'entries'", (len(kept),))
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
