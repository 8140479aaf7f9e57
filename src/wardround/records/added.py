"""Files that are added to a finished run, under the signature of its record: its page, and its reference runs.

The record is signed without the page, then the page is written, then the record is signed with it: a process that is
killed in between leaves a page that is not signed, and none that the record does not hold for. A reference run is
signed before its file comes into its place: a process that is killed in between leaves one that is made again.
"""

import json
from pathlib import Path

from wardround.boundary.private import make_private_folder, write_whole
from wardround.records.folder import JsonDict
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_json
from wardround.records.signer import PAGE, RECORD, REFERENCES, sha256_of_bytes, signed_again
from wardround.secure_aggregation.keys.identity import SigningKey


def write_page(run: Path, page: bytes, key: SigningKey | None) -> None:
    """Writes report.html into the folder of a finished run, whole or not at all.

    With the key that signed the run, the record names the page. A page that another person's record names is left as
    that person signed it.
    """
    body = JsonObject(read_json(run / RECORD), RECORD) if (run / RECORD).exists() else JsonObject({}, RECORD)
    files, digest = dict(body.section("files").values), sha256_of_bytes(page)
    is_named = files.pop(PAGE, None)
    if key is None or body.values.get("public_key") != key.public.hex():
        if is_named in (None, digest):
            write_whole(run / PAGE, page)
        return
    if is_named not in (None, digest):
        write_whole(run / RECORD, signed_again(body.values, files, key))
    write_whole(run / PAGE, page)
    if is_named != digest:
        write_whole(run / RECORD, signed_again(body.values, files | {PAGE: digest}, key))


def write_reference(run: Path, name: str, row: JsonDict, key: SigningKey) -> None:
    """Writes references/NAME.json into the folder of a finished run, whole or not at all, and signs it.

    Args:
        run: its folder.
        name: of the reference.
        row: its figures, as JSON.
        key: private, which signed the run.
    """
    body = JsonObject(read_json(run / RECORD), RECORD)
    content = (json.dumps(row, indent=2, allow_nan=False) + "\n").encode()
    place = f"{REFERENCES}/{name}.json"
    files = {**body.section("files").values, place: sha256_of_bytes(content)}
    make_private_folder(run / REFERENCES)
    write_whole(run / RECORD, signed_again(body.values, files, key))
    write_whole(run / place, content)
