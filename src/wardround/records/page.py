"""The page of a finished run, under the signature of its record.

The record is signed without the page, then the page is written, then the record is signed with it: a process that is
killed in between leaves a page that is not signed, and none that the record does not hold for.
"""

from pathlib import Path

from wardround.records.folder import read_json
from wardround.records.json_object import JsonObject
from wardround.records.signer import PAGE, RECORD, sha256_of_bytes, signed_again
from wardround.records.writing import write_whole
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
