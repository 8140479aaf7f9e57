"""What a run leaves on disk, and reads back: JSON, safetensors and SQLite; nothing is ever unpickled.

    runs/<study>/
        study.toml         the resolved study
        environment.json   versions, machine, what the run needs to be repeated
        patients.csv       who was where, under hashes that a key nobody keeps has made meaningless outside
        rounds.jsonl       one line a round
        ledger.sqlite      the hospitals' privacy ledgers (or elsewhere, when the study says so)
        checkpoints/       the last finished round
        model.safetensors  the final model
        results.json       metrics, baselines, reference runs
        certificate.json   the statement, the ledger heads, the hash of the model
        report.html        the page
        hospitals.log      the simulated hospitals' own log, if they had anything to say

Every file appears whole or not at all: it is written beside its place, synced, and renamed.
"""

import csv
import fcntl
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from wardround.errors import RecordError

Arrays = Mapping[str, npt.NDArray[np.float32]]
JsonDict = dict[str, object]

_CHECKPOINT = "round-{:06d}.safetensors"
_SYNC_EVERY_S = 5.0
_FILES = (
    "study.toml", "environment.json", "patients.csv", "rounds.jsonl", "model.safetensors", "results.json",
    "certificate.json", "report.html", "hospitals.log",
)  # fmt: skip
_OURS = {*_FILES, ".lock", "checkpoints", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"}


class RunFolder:
    """The writing side of a run's folder; one process at a time.

    Args:
        path: the folder; `create` makes it, `open` finds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path / ".lock")
        self._synced_at = 0.0
        self._synced: Path | None = None

    @classmethod
    def create(cls, path: Path, *, fresh: bool = False, forget_ledger: bool = False) -> "RunFolder":
        """A new run folder. `fresh` first removes an earlier run's files from it, all but its ledger.

        `forget_ledger` removes that too: what was spent is forgotten, which is right for generated patients only.

        Raises:
            RecordError: a run is already there, or the folder cannot be made.
        """
        if (path / "study.toml").exists() and not fresh:
            raise RecordError(
                f"A new run needs an empty folder, but {path} holds a run; `wardround resume {path}` goes on "
                "with it. Choose another --out, or pass --fresh to replace it (its ledger is kept)."
            )
        if path.exists() and not path.is_dir():
            raise RecordError(f"A run folder must be a folder, got the file {path}; choose another --out.")
        strangers = {p.name for p in path.iterdir()} - _OURS if path.is_dir() else set()
        if strangers and not (path / "study.toml").exists():
            raise RecordError(
                f"A run folder must be empty or a run, got {path} with other files; choose another --out."
            )
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(
                f"The run folder {path} must be writable ({error.strerror}); choose another --out."
            ) from None
        folder = cls(path)
        folder._clear(forget_ledger=forget_ledger)
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run folder.

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

    def write_patients(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Writes patients.csv; the rows name patients by hashes only."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        self.write_text("patients.csv", text.getvalue())

    def append_round(self, entry: JsonDict) -> None:
        """Adds one line to rounds.jsonl."""
        try:
            with (self.path / "rounds.jsonl").open("a") as file:
                file.write(json.dumps(entry, allow_nan=False) + "\n")
                file.flush()
        except OSError as error:
            raise _disk_error(self.path / "rounds.jsonl", error) from None

    def write_checkpoint(self, round: int, arrays: Arrays) -> None:
        """Remembers everything needed to go on after `round`; earlier checkpoints are then removed.

        Survives a killed process at any moment. The disk is waited for every few seconds only, so after a
        power cut the run goes on from the last checkpoint that reached it.
        """
        path = self.path / "checkpoints" / _CHECKPOINT.format(round)
        durable = time.monotonic() - self._synced_at > _SYNC_EVERY_S
        write_whole(path, arrays_to_bytes(arrays), durable=durable)
        kept = {path, self._synced}
        if durable:
            self._synced_at, self._synced, kept = time.monotonic(), path, {path}
        for other in path.parent.glob("round-*.safetensors"):
            if other not in kept:
                other.unlink()

    def latest_checkpoint(self) -> tuple[int, dict[str, npt.NDArray[np.float32]]] | None:
        """The last finished round and its arrays; None before the first. Later lines of the history are cut."""
        for path in sorted((self.path / "checkpoints").glob("round-*.safetensors"), reverse=True):
            try:
                arrays = arrays_from_file(path)
            except RecordError:
                continue  # cut off by a power failure; the one before was synced
            round = int(path.stem.removeprefix("round-"))
            lines = [line for line in read_lines(self.path / "rounds.jsonl") if int(str(line["round"])) <= round]
            self.write_text("rounds.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
            return round, arrays
        return None

    def write_model(self, models: Arrays) -> str:
        """Writes model.safetensors; returns its SHA-256."""
        content = arrays_to_bytes(models)
        write_whole(self.path / "model.safetensors", content)
        return hashlib.sha256(content).hexdigest()

    def _clear(self, *, forget_ledger: bool) -> None:
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        for path in (self.path / "checkpoints").glob("round-*.safetensors"):
            path.unlink()
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
        """The record of a finished run.

        Raises:
            RecordError: there is no run there, it is not finished, or a file of it is damaged.
        """
        if not (path / "study.toml").is_file():
            raise RecordError(f"A run folder holds study.toml, got {path} without one; check the path.")
        if not (path / "certificate.json").is_file():
            raise RecordError(f"The run in {path} must be finished; go on with `wardround resume {path}`.")
        return cls(
            path=path,
            study=(path / "study.toml").read_text(),
            environment=read_json(path / "environment.json"),
            rounds=tuple(read_lines(path / "rounds.jsonl")),
            results=read_json(path / "results.json"),
            certificate=read_json(path / "certificate.json"),
        )


def read_json(path: Path) -> JsonDict:
    """One JSON object from a file.

    Raises:
        RecordError: the file is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise RecordError(f"The run folder must hold {path.name}, got none in {path.parent}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(f"{path} must hold one JSON object ({error}); restore it or run again.") from None
    if not isinstance(content, dict):
        raise RecordError(
            f"{path} must hold one JSON object, got {type(content).__name__}; restore it or run again."
        )
    return content


def read_lines(path: Path) -> list[JsonDict]:
    """One JSON object a line; a last line cut off by a crash is left out."""
    if not path.exists():
        return []
    lines: list[JsonDict] = []
    texts = path.read_text().splitlines()
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            if number < len(texts):
                raise RecordError(f"{path} is damaged at line {number}; restore it or run again.") from None
    return lines


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes beside the place, syncs when `durable`, and renames; on any failure the old file stands."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _disk_error(path, error) from None


def arrays_to_bytes(arrays: Arrays) -> bytes:
    """Named arrays as safetensors."""
    from safetensors.numpy import save

    content: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return content


def arrays_from_file(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Named arrays from a safetensors file.

    Raises:
        RecordError: the file is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, npt.NDArray[np.float32]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{path} must be a safetensors file ({error}); restore it or run again.") from None
    return arrays


def _lock(path: Path) -> IO[str]:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RecordError(
            f"One process at a time may write {path.parent}, and another one does; wait for it."
        ) from None
    return file


def _disk_error(path: Path, error: OSError) -> RecordError:
    return RecordError(f"{path} could not be written ({error.strerror}); what was there before still stands.")
