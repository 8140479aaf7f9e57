"""The folder of a run on disk: JSON, safetensors and SQLite; nothing is ever unpickled.

    runs/<study>/
        study.toml         the resolved study
        environment.json   versions, machine, what the run needs to be repeated
        rounds.jsonl       one line a round
        checkpoints/       released vectors of the last finished round, or of every round
        model.safetensors  the final model
        encoder.onnx       the user's own encoder, where it is an ONNX graph
        model.json         the model card
        results.json       metrics, baselines
        references/        reference runs, one file each, made after the certificate
        released.safetensors  noised pictures and labels, where the study releases them
        receipts.json      the receipts that real hospitals signed
        certificate.json   the statement, sealed ledger heads, the hash of the model
        record.json        SHA-256 of each of these, signed (`records.signer`)
        report.html        the page, made from them

Those above are the shared record. These below are for the person who simulates, and depend on single patients:

        own.html           test pictures that the model calls wrongly
        patients.csv       the place and number of images of each patient, under a hash whose key was forgotten
        ledger.json        the ledger of the run, its end, digests of pictures and places, the total of all studies
        ledger.sqlite      that ledger, of generated patients and of rehearsals; others outlive the run
        hospitals/         what the simulated hospitals keep for themselves, until the run has ended
        hospitals.log      the simulated hospitals' own log, if they had anything to say

Every file appears whole or not at all: it is written beside its place, synced, and renamed. The folder is its owner's
alone (mode 0700, files 0600, under any umask). No link in the place of a file that is appended to is followed.
"""

import csv
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.boundary.documents import MOST_TOML_BYTES, Unfit, parse_toml
from wardround.boundary.machine import machine_faults
from wardround.boundary.private import check_place, make_private_folder, open_private, write_whole
from wardround.errors import RecordError
from wardround.records.arrays import Arrays, arrays_from_file, arrays_to_bytes
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_json, read_lines, read_text
from wardround.records.signer import CERTIFICATE, ENCODER, HISTORY, RECORD, REFERENCES, SIGNED, Signer
from wardround.records.writing import locked, remove

JsonDict = dict[str, object]

_CHECKPOINT = "round-{:06d}.safetensors"
_IS_CHECKPOINT = re.compile(r"round-(\d{6,12})\.safetensors", re.ASCII)
_HALF_WRITTEN = ".*.tmp"
_FORGOTTEN = ".hospitals.tmp"
_SYNC_EVERY_S = 5.0
SHARED = (*SIGNED, RECORD, "report.html")
"""Files of the shared record, beside `checkpoints/` and `references/`."""
_FILES = (*SHARED, "own.html", "patients.csv", "ledger.json", "hospitals.log", "handed_out.json")
_OURS = {
    *_FILES, ".lock", "checkpoints", REFERENCES, "hospitals", "ledger.sqlite", "ledger.sqlite.mark",
    "ledger.sqlite-journal",
}  # fmt: skip


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
            remove(rest)  # of a process that was killed while writing
        self._synced_at = 0.0
        self._synced: Path | None = None
        self.keeps_every_round = False
        self.signer: Signer | None = None

    @classmethod
    def create(cls, path: Path, *, fresh: bool = False) -> "RunFolder":
        """Returns a new run folder. `fresh` first removes an earlier run's files from it, but never a ledger.

        Raises:
            RecordError: a run is already there, or the folder cannot be made.
        """
        cls.check_free(path, fresh=fresh)
        with machine_faults(path):
            make_private_folder(path / "checkpoints")
            folder = cls(path)
            folder._clear()
        return folder

    @staticmethod
    def check_free(path: Path, *, fresh: bool = False) -> None:
        """Refuses a folder in which `create` finds no room for a new run, or may not write; leaves nothing.

        Raises:
            MachineError: it cannot be made or written.
            RecordError: a run is already there, or something else is.
        """
        with machine_faults(path):
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
        check_place(path / "study.toml", makes_folders=True)

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
        """Writes study.toml, which makes the folder a run, after a signed record that names it."""
        self.signer = signer
        write_whole(self.path / RECORD, signer.begin(self.path, {"study.toml": study.encode()}))
        self.write_text("study.toml", study)

    def finish(self, certificate: object) -> None:
        """Writes the certificate, which ends the run, after a record that names it."""
        text = json.dumps(certificate, indent=2, allow_nan=False) + "\n"
        if self.signer is not None:
            write_whole(self.path / RECORD, self.signer.finish(self.path, text.encode()))
        self.write_text(CERTIFICATE, text)

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
        handle = open_private(self.path / HISTORY, os.O_WRONLY | os.O_APPEND)
        with machine_faults(self.path / HISTORY), os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            if self.signer is not None:
                os.fsync(handle)  # the record that names this line waits for the disk as well
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
        content = arrays_to_bytes(arrays, _about(round))
        if self.signer is not None:
            there = {other.name for other in path.parent.glob("round-*.safetensors")}
            write_whole(self.path / RECORD, self.signer.checkpoint(path.name, content, there))
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

        The place of the next checkpoint is there and can be written then: a round is charged before its checkpoint is.

        Raises:
            MachineError: the folder of checkpoints cannot be made or written.
            RecordError: there are checkpoints, and each of them is damaged; or one is that of another round than its
                name says.
        """
        folder = self.path / "checkpoints"
        make_private_folder(folder)  # a copy of a run may be without an empty one
        check_place(folder / _CHECKPOINT.format(0))
        named = {p: _IS_CHECKPOINT.fullmatch(p.name) for p in folder.glob("round-*.safetensors")}
        rounds = {path: int(found[1]) for path, found in named.items() if found is not None}
        paths = sorted(rounds, key=rounds.__getitem__, reverse=True)
        for path in paths:
            round = rounds[path]
            try:
                arrays = arrays_from_file(path, _about(round))
            except RecordError as error:
                if error.code == "record-renamed":
                    raise
                continue  # cut off by a power failure; the one before was synced
            if any(array.dtype != np.float32 for array in arrays.values()):
                raise RecordError(
                    f"{path} must hold numbers of type float32, got others; restore it or run again."
                )
            history = self.path / HISTORY
            lines = [line for line in read_lines(history) if _round_of(line, history) <= round]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            self._cut(round, text, {other.name: other.read_bytes() for other in paths if rounds[other] <= round})
            return round, arrays
        if paths:
            raise RecordError(
                f"One checkpoint in {paths[0].parent} must be whole, and all {len(paths)} are damaged; restore "
                "one from a copy, or start a new run."
            )
        self._cut(0, "", {})
        return None

    def _cut(self, round: int, history: str, checkpoints: Mapping[str, bytes]) -> None:
        """Ends the history at a round; a kill in between leaves lines more than the record names, which hold."""
        if self.signer is not None:
            write_whole(self.path / RECORD, self.signer.back_to(round, history.encode(), checkpoints))
        if (self.path / HISTORY).exists():
            self.write_text(HISTORY, history)

    def write_model(self, models: Arrays) -> str:
        """Writes model.safetensors; returns its SHA-256."""
        content = arrays_to_bytes(models)
        write_whole(self.path / "model.safetensors", content)
        return hashlib.sha256(content).hexdigest()

    def write_encoder(self, content: bytes) -> None:
        """Writes encoder.onnx, a user's public encoder."""
        write_whole(self.path / ENCODER, content)

    def forget_notes(self) -> None:
        """Removes what the hospitals kept for themselves, all of it at once: it may hold what no noise was added to."""
        with machine_faults(self.path):
            if (self.path / "hospitals").exists():
                # A hospital of which a part was removed could not go on.
                remove((self.path / "hospitals").rename(self.path / _FORGOTTEN))

    def _clear(self) -> None:
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        for path in (self.path / "checkpoints").glob("round-*.safetensors"):
            path.unlink()
        remove(self.path / REFERENCES)
        self.forget_notes()  # those of another run would be taken for this one's


@dataclass(frozen=True)
class RunRecord:
    """The reading side: a finished run.

    Attributes:
        path: the folder.
        study: the resolved study, TOML text.
        environment: versions and machine.
        rounds: one dictionary a round.
        results: metrics, baselines, and under `references` the reference runs that have ended.
        certificate: the statement and what it rests on.
        own: `ledger.json`, which is not shared; empty where the record came without it.
    """

    path: Path
    study: str
    environment: JsonDict
    rounds: tuple[JsonDict, ...]
    results: JsonDict
    certificate: JsonDict
    own: JsonDict

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
            study=read_text(path / "study.toml", MOST_TOML_BYTES),
            environment=read_json(path / "environment.json"),
            rounds=tuple(read_lines(path / "rounds.jsonl")),
            results={"references": {}} | read_json(path / "results.json") | _references(path),
            certificate=read_json(path / "certificate.json"),
            own=read_json(path / "ledger.json") if (path / "ledger.json").exists() else {},
        )

    @property
    def outstanding(self) -> tuple[str, ...]:
        """Names of reference runs that the study asks for and that have not ended."""
        results = JsonObject(self.results, "results.json")
        done = results.section("references").values
        return tuple(name for name in results.texts("compare") if name not in done)

    def tables(self) -> dict[str, Any]:
        """Returns the tables of the study.

        Raises:
            RecordError: the text is no TOML.
        """
        try:
            return parse_toml(self.study)
        except Unfit as error:
            raise RecordError(f"study.toml must be TOML ({error}); restore it or run again.") from None


def _references(path: Path) -> JsonDict:
    """Returns the signed rows of reference runs, by name, as they were signed; nothing where there are none."""
    there = {f"{REFERENCES}/{file.name}": file for file in (path / REFERENCES).glob("*.json")}
    if not there or not (path / RECORD).is_file():
        return {}
    signed = JsonObject(read_json(path / RECORD), RECORD).section("files").values
    return {"references": {there[name].stem: read_json(there[name]) for name in signed if name in there}}


def _about(round: int) -> str:
    """Returns the words that a checkpoint is sealed with."""
    return f"round {round}"


def _round_of(line: JsonDict, path: Path) -> int:
    round = line.get("round")
    if type(round) is not int:
        raise RecordError(f"Every line of {path} must name its round; restore it or run again.")
    return round
