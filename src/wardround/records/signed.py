"""Reading a signed record: every shared file held against the hash that a pinned key signed.

A finished run must have all files as they were signed, and no other shared file. Its page and its reference runs may be
missing: they can be made again. A run without a certificate was
interrupted: its rounds may end with lines that were not signed yet, checkpoints may be missing, or cut off by a power
failure, and what is written at the end may be there already; a resumed run makes all of these again, and pays again.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from wardround.boundary.documents import Unfit, read_regular
from wardround.errors import RecordError
from wardround.records.arrays import arrays_from_file
from wardround.records.folder import RunRecord
from wardround.records.json_object import JsonObject
from wardround.records.reading import MOST_LINES_BYTES, read_json
from wardround.records.signer import (
    BEGINNING,
    CERTIFICATE,
    FORMAT,
    HISTORY,
    PAGE,
    PURPOSE,
    RECORD,
    REFERENCES,
    SIGNED,
    sha256_of_file,
    signed_text,
)
from wardround.secure_aggregation.keys.identity import spoken_fingerprint
from wardround.secure_aggregation.keys.pins import verify


@dataclass(frozen=True)
class SignedRecord:
    """A record whose signature and files hold.

    Attributes:
        signer: name under which its key is pinned.
        public_key: of the signer, 32 bytes.
        study_digest: of the study.
        is_finished: the run has its certificate.
        rounds: signed lines of the history.
        checkpoints: names of those that are there.
        ledger: sealed head of the ledger at the end of the last round; empty between hospitals.
        names_page: report.html is signed.
    """

    signer: str
    public_key: bytes
    study_digest: str
    is_finished: bool
    rounds: int
    checkpoints: tuple[str, ...]
    ledger: str
    names_page: bool


def verified(path: Path, pinned: Mapping[str, bytes]) -> RunRecord:
    """Returns the record of a finished run, once its signature and every shared file hold.

    Raises:
        RecordError: there is no finished run, or see `check_signed`.
    """
    if (path / BEGINNING[0]).is_file() and (path / CERTIFICATE).is_file():
        check_signed(path, pinned)  # before a file of it is parsed
    return RunRecord.read(path)  # which says what is not there


def check_signed(path: Path, pinned: Mapping[str, bytes]) -> SignedRecord:
    """Checks the signature of a run's record and every shared file; changes nothing.

    Args:
        path: the run's folder.
        pinned: public keys by name, from outside the run.

    Raises:
        RecordError: with the code `record-unsigned`, `record-signature`, `record-key`, `record-missing-NAME`,
            `record-added-NAME` or `record-edited-NAME`, NAME being "checkpoint", "reference", or a file
            such as "results-json".
    """
    if not (path / RECORD).is_file():
        raise RecordError(
            f"A run must hold {RECORD}, which its maker signed, and {path} has none; restore it from a copy.",
            code="record-unsigned",
        )
    body = JsonObject(read_json(path / RECORD), RECORD)
    public, signature = _bytes(body, "public_key"), _bytes(body, "signature")
    if body.text("format") != FORMAT or not verify(public, signature, PURPOSE, signed_text(body.values)):
        raise RecordError(
            f"{RECORD} in {path} must carry the signature of the key that it names, and does not: it was edited after "
            "it was signed. Restore it from a copy.",
            code="record-signature",
        )
    signer = next((name for name, known in pinned.items() if known == public), None)
    if signer is None:
        raise RecordError(
            f"The run in {path} must be signed with a key that is pinned here, and is signed with another "
            f"({spoken_fingerprint(public)}). Of a run between hospitals pass `--pins FOLDER`, the coordinator's or a "
            "hospital's folder of `wardround consortium`; of another person's run have its maker read this fingerprint "
            "aloud, pin the key with `wardround keys pin`, and pass `--pins FILE`.",
            code="record-key",
        )
    files, checkpoints = (
        {name: section.text(name) for name in section.values}
        for section in (body.section("files"), body.section("checkpoints"))
    )
    is_finished = (path / CERTIFICATE).exists()
    if is_finished:
        if not body.flag("finished"):
            _refuse(path, CERTIFICATE, "added")
        for name in (*files, *SIGNED):
            if not (name == PAGE or name.startswith(f"{REFERENCES}/")) or (path / name).exists():
                _check_file(path, name, files.get(name))
        for reference in (path / REFERENCES).glob("*.json"):
            _check_file(path, f"{REFERENCES}/{reference.name}", files.get(f"{REFERENCES}/{reference.name}"))
    else:
        _check_file(path, BEGINNING[1], files.get(BEGINNING[1]))
    _check_history(path / HISTORY, body.integer("rounds"), body.text("history"), is_finished)
    there = _checked_checkpoints(path / "checkpoints", checkpoints, is_finished)
    return SignedRecord(
        signer,
        public,
        body.text("study_digest"),
        is_finished,
        body.integer("rounds"),
        there,
        body.text("ledger"),
        names_page=PAGE in files,
    )


def _check_file(folder: Path, name: str, expected: str | None) -> None:
    """Refuses a file that is not as it was signed; one that was not signed must not be there."""
    path = folder / name
    if expected is None:
        if path.exists():
            _refuse(folder, name, "added")
        return
    if not path.is_file():
        _refuse(folder, name, "missing")
    if _hash_of(path) != expected:
        _refuse(folder, name, "edited")


def _check_history(path: Path, rounds: int, expected: str, is_finished: bool) -> None:
    """Refuses lines other than those that were signed; an unfinished run may have more, which are cut on resume."""
    try:
        content = read_regular(path, MOST_LINES_BYTES) if path.exists() else b""
    except (OSError, Unfit) as error:
        raise RecordError(f"{path} must be readable text ({error}); restore it or run again.") from None
    lines = content.splitlines(keepends=True)
    signed = b"".join(lines[:rounds])
    if len(lines) < rounds or hashlib.sha256(signed).hexdigest() != expected:
        _refuse(path.parent, path.name, "edited")
    if is_finished and len(content) > len(signed):
        _refuse(path.parent, path.name, "edited")


def _checked_checkpoints(folder: Path, expected: Mapping[str, str], is_finished: bool) -> tuple[str, ...]:
    there = {path.name: path for path in folder.glob("*.safetensors")} if folder.is_dir() else {}
    for name, path in there.items():
        if expected.get(name) != _hash_of(path) and (is_finished or not _is_cut_off(path)):
            _refuse(folder.parent, f"checkpoints/{name}", "edited" if name in expected else "added")
    missing = expected.keys() - there.keys()
    if missing and is_finished:
        _refuse(folder.parent, f"checkpoints/{min(missing)}", "missing")
    return tuple(sorted(there))


def _is_cut_off(path: Path) -> bool:
    """Returns whether a checkpoint is no whole one, as after a power failure; a resumed run passes it over."""
    try:
        arrays_from_file(path)
    except RecordError:
        return True
    return False


def _hash_of(path: Path) -> str:
    reason: object = "it is no regular file"
    try:
        if path.is_file():
            return sha256_of_file(path)
    except OSError as error:
        reason = error
    raise RecordError(f"{path} must be a file that can be read ({reason}); restore it from a copy.")


def _refuse(path: Path, name: str, what: str) -> NoReturn:
    words = {
        "edited": f"{name} must be as it was signed, and is not",
        "added": f"{name} must be signed, as everything that is shared, and is not",
        "missing": f"{name} must be there, as it was signed, and is missing",
    }
    in_folder = {"checkpoints": "checkpoint", REFERENCES: "reference"}
    kind = in_folder.get(name.partition("/")[0], name.replace(".", "-"))
    raise RecordError(
        f"{words[what]} in {path}; restore the run from a copy.",
        code=f"record-{what}-{kind}",
    )


def _bytes(body: JsonObject, name: str) -> bytes:
    try:
        return bytes.fromhex(body.text(name))
    except ValueError:
        return b""
