"""The folder of a run on disk: JSON, safetensors and SQLite; nothing is ever unpickled.

    runs/<study>/
        study.toml         the resolved study
        environment.json   versions, machine, what the run needs to be repeated
        rounds.jsonl       one line a round
        checkpoints/       released vectors of the last finished round, or of every round
        model.safetensors  the final model
        model.json         the model card
        results.json       metrics, baselines, reference runs
        released.safetensors  noised pictures and labels, where the study releases them
        certificate.json   the statement, sealed ledger heads, the hash of the model
        record.json        SHA-256 of each of these, signed (`records.signer`)
        report.html        the page, made from them

These are shared. What follows stays with the person who simulates, or with the hospital:

        patients.csv       the place of each patient, under a hash whose key was forgotten
        ledger.json        the ledger of the run, and how far it was
        ledger.sqlite      that ledger, of generated patients and of rehearsals; others outlive the run
        hospitals/         what the simulated hospitals keep for themselves, until the run has ended
        hospitals.log      the simulated hospitals' own log, if they had anything to say

Every file appears whole or not at all: it is written beside its place, synced, and renamed.
"""

import csv
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wardround.errors import RecordError
from wardround.records.arrays import Arrays, arrays_from_file, arrays_to_bytes
from wardround.records.signer import CERTIFICATE, HISTORY, RECORD, Signer
from wardround.records.writing import disk_error, explained, locked, write_whole

JsonDict = dict[str, object]

_CHECKPOINT = "round-{:06d}.safetensors"
_HALF_WRITTEN = ".*.tmp"
_SYNC_EVERY_S = 5.0
_FILES = (
    "study.toml", "environment.json", "patients.csv", "rounds.jsonl", "model.safetensors", "model.json",
    "results.json", "certificate.json", "ledger.json", "report.html", "hospitals.log", "released.safetensors",
    "record.json",
)  # fmt: skip
_OURS = {
    *_FILES,
    ".lock",
    "checkpoints",
    "hospitals",
    "ledger.sqlite",
    "ledger.sqlite.mark",
    "ledger.sqlite-journal",
}


class RunFolder:
    """The writing side of a run's folder; one process at a time.

    Args:
        path: the folder; `create` makes it, `open` finds it.

    Attributes:
        keeps_every_round: checkpoints of earlier rounds stay.
        signer: signs the record of the run; None where none is signed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = locked(path / ".lock")
        for rest in [*path.glob(_HALF_WRITTEN), *(path / "checkpoints").glob(_HALF_WRITTEN)]:
            rest.unlink(missing_ok=True)  # of a process that was killed while writing
        self._synced_at = 0.0
        self._synced: Path | None = None
        self.keeps_every_round = False
        self.signer: Signer | None = None

    @classmethod
    def create(cls, path: Path, *, fresh: bool = False, forget_ledger: bool = False) -> "RunFolder":
        """Returns a new run folder. `fresh` first removes an earlier run's files from it, all but its ledger.

        `forget_ledger` removes that too: what was spent is forgotten, which is right for generated patients only.

        Raises:
            RecordError: a run is already there, or the folder cannot be made.
        """
        cls.check_free(path, fresh=fresh)
        with explained(path):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            folder = cls(path)
            folder._clear(forget_ledger=forget_ledger)
        return folder

    @staticmethod
    def check_free(path: Path, *, fresh: bool = False) -> None:
        """Refuses a folder in which `create` finds no room for a new run; touches nothing.

        Raises:
            RecordError: a run is already there, or something else is.
        """
        with explained(path):
            holds_run = (path / "study.toml").exists()
            names = {p.name for p in path.iterdir()} if path.exists() else set()
        if holds_run and not fresh:
            raise RecordError(
                f"A new run needs an empty folder, but {path} holds a run; `wardround resume {path}` goes on "
                "with it. Choose another --out, or pass --fresh to replace it (its ledger is kept)."
            )
        strangers = {name for name in names - _OURS if not fnmatch(name, _HALF_WRITTEN)}
        if strangers and not holds_run:
            raise RecordError(
                f"A run folder must be empty or a run, got {path} with other files; choose another --out."
            )

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Returns an existing run folder.

        Raises:
            RecordError: there is no run there, or another process is writing it.
        """
        if not (path / "study.toml").is_file():
            raise RecordError(f"A run folder holds study.toml, got {path} without one; check the path.")
        return cls(path)

    def close(self) -> None:
        """Lets another process write here."""
        self._lock.close()

    def write_text(self, name: str, text: str) -> None:
        """Writes one file whole or not at all."""
        write_whole(self.path / name, text.encode())

    def write_json(self, name: str, content: object) -> None:
        """Writes one JSON file whole or not at all."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def begin(self, signer: Signer, study: str) -> None:
        """Writes study.toml, which makes the folder a run, after a record that names it; all later ones are signed."""
        self.signer = signer
        self._write_record(signer.begin(self.path, {"study.toml": study.encode()}))
        self.write_text("study.toml", study)

    def finish(self, certificate: object) -> None:
        """Writes the certificate, which ends the run, after a record that names it."""
        text = json.dumps(certificate, indent=2, allow_nan=False) + "\n"
        if self.signer is not None:
            self._write_record(self.signer.finish(self.path, text.encode()))
        self.write_text(CERTIFICATE, text)

    def _write_record(self, content: bytes) -> None:
        write_whole(self.path / RECORD, content)

    def write_patients(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Writes patients.csv; the rows name patients by hashes only."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        self.write_text("patients.csv", text.getvalue())

    def append_round(self, entry: JsonDict) -> None:
        """Adds one line to rounds.jsonl."""
        line = json.dumps(entry, allow_nan=False) + "\n"
        try:
            with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                if self.signer is not None:
                    os.fsync(file.fileno())  # the record that names this line waits for the disk as well
        except OSError as error:
            raise disk_error(self.path / "rounds.jsonl", error) from None
        if self.signer is not None:
            self.signer.add_round(line.encode())

    def write_checkpoint(self, round: int, arrays: Arrays) -> None:
        """Remembers everything needed to go on after `round`; earlier checkpoints are then removed, or kept.

        Survives a killed process at any moment. The disk is waited for every few seconds only, so after a
        power cut the run goes on from the last checkpoint that reached it. Checkpoints that are kept are all waited
        for: the round after them repairs none.
        """
        path = self.path / "checkpoints" / _CHECKPOINT.format(round)
        durable = self.keeps_every_round or time.monotonic() - self._synced_at > _SYNC_EVERY_S
        content = arrays_to_bytes(arrays)
        if self.signer is not None:
            there = {other.name for other in path.parent.glob("round-*.safetensors")}
            self._write_record(self.signer.checkpoint(path.name, content, there))
        write_whole(path, content, durable=durable)
        if self.keeps_every_round:
            return
        kept = {path, self._synced}
        if durable:
            self._synced_at, self._synced, kept = time.monotonic(), path, {path}
        for other in path.parent.glob("round-*.safetensors"):
            if other not in kept:
                other.unlink()

    def latest_checkpoint(self) -> tuple[int, dict[str, npt.NDArray[np.float32]]] | None:
        """Returns the last finished round and its arrays; None before the first. Later lines of the history are cut.

        Raises:
            RecordError: there are checkpoints, and each of them is damaged.
        """
        paths = sorted((self.path / "checkpoints").glob("round-*.safetensors"), reverse=True)
        for path in paths:
            try:
                arrays = arrays_from_file(path)
            except RecordError:
                continue  # cut off by a power failure; the one before was synced
            round = int(path.stem.removeprefix("round-"))
            lines = [line for line in read_lines(self.path / "rounds.jsonl") if int(str(line["round"])) <= round]
            history = "".join(json.dumps(line) + "\n" for line in lines)
            if self.signer is not None:
                kept = {other.name: other.read_bytes() for other in paths if other.name <= path.name}
                self._write_record(self.signer.back_to(round, history.encode(), kept))
            self.write_text(HISTORY, history)
            return round, arrays
        if paths:
            raise RecordError(
                f"One checkpoint in {paths[0].parent} must be whole, and all {len(paths)} are damaged; restore "
                "one from a copy, or start a new run."
            )
        return None

    def write_model(self, models: Arrays) -> str:
        """Writes model.safetensors; returns its SHA-256."""
        content = arrays_to_bytes(models)
        write_whole(self.path / "model.safetensors", content)
        return hashlib.sha256(content).hexdigest()

    def forget_notes(self) -> None:
        """Removes what the hospitals kept for themselves: it may hold what no noise was added to."""
        with explained(self.path):
            if (self.path / "hospitals").exists():
                shutil.rmtree(self.path / "hospitals")

    def _clear(self, *, forget_ledger: bool) -> None:
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        for path in (self.path / "checkpoints").glob("round-*.safetensors"):
            path.unlink()
        self.forget_notes()  # those of another run would be taken for this one's
        for path in self.path.glob("ledger.sqlite*") if forget_ledger else ():
            path.unlink()


@dataclass(frozen=True)
class RunRecord:
    """The reading side: a finished run.

    Attributes:
        path: the folder.
        study: the resolved study, TOML text.
        environment: versions and machine.
        rounds: one dictionary a round.
        results: metrics, baselines, reference runs.
        certificate: the statement and what it rests on.
    """

    path: Path
    study: str
    environment: JsonDict
    rounds: tuple[JsonDict, ...]
    results: JsonDict
    certificate: JsonDict

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Returns the record of a finished run.

        Raises:
            RecordError: there is no run there, it is not finished, or a file of it is damaged.
        """
        if not (path / "study.toml").is_file():
            raise RecordError(f"A run folder holds study.toml, got {path} without one; check the path.")
        if not (path / "certificate.json").is_file():
            raise RecordError(f"The run in {path} must be finished; go on with `wardround resume {path}`.")
        return cls(
            path=path,
            study=_text(path / "study.toml"),
            environment=read_json(path / "environment.json"),
            rounds=tuple(read_lines(path / "rounds.jsonl")),
            results=read_json(path / "results.json"),
            certificate=read_json(path / "certificate.json"),
        )


def read_json(path: Path) -> JsonDict:
    """Returns the JSON object of a file.

    Raises:
        RecordError: the file is missing or holds no JSON object.
    """
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} must hold one JSON object ({error}); restore it or run again.") from None
    if not isinstance(content, dict):
        raise RecordError(
            f"{path} must hold one JSON object, got {type(content).__name__}; restore it or run again."
        )
    return content


def read_lines(path: Path) -> list[JsonDict]:
    """Returns the JSON objects of a file, one a line; a last line cut off by a crash is left out.

    Raises:
        RecordError: any other line holds something else.
    """
    if not path.exists():
        return []
    lines: list[JsonDict] = []
    texts = _text(path).split("\n")
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            line = None
        if isinstance(line, dict):
            lines.append(line)
        elif number < len(texts):  # what follows the last line's end is nothing, or a line that was cut off
            raise RecordError(f"{path} is damaged at line {number}; restore it or run again.")
    return lines


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecordError(
            f"The run folder must hold {path.name}, got none in {path.parent}; restore it from a copy."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} must be readable text ({error}); restore it or run again.") from None
