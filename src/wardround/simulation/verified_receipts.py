"""Verifying the receipts of a run between hospitals: what their own ledgers were charged, under their own keys.

Released: nothing.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final, NoReturn

from wardround.accounting.events import NoEvent, from_json, leaves
from wardround.agreed.plans import plan_of
from wardround.boundary.text import counted
from wardround.config import Study
from wardround.errors import FederationError, RecordError
from wardround.federation.messages import Receipt
from wardround.federation.receipts import check_receipt
from wardround.noisers import dropouts_of
from wardround.privacy.plans.kinds import NothingTrained
from wardround.records.folder import RunRecord
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_json
from wardround.records.signer import RECEIPTS
from wardround.secure_aggregation.keys.pins import Pins
from wardround.types import HospitalName

EXACT: Final = 1e-9
"""Relative error of a number that was computed twice."""


def check_receipts(
    path: Path, study: Study, record: RunRecord, pinned: Mapping[str, bytes]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns what the hospitals' receipts were held against, and what could not be.

    A receipt says what a hospital's own ledger was charged. Its signature must hold under the key that it carries, and
    that key must be the hospital's pinned one, where one is pinned under its name.
    """
    root = (
        JsonObject(read_json(path / RECEIPTS), RECEIPTS)
        if (path / RECEIPTS).exists()
        else JsonObject({}, RECEIPTS)
    )
    plan, names = plan_of(study), set(study.hospitals.names or ())
    if not root.values.keys() <= names or len(names - root.values.keys()) > dropouts_of(plan.noiser):
        refuse(path, RECEIPTS, "receipt", "have one receipt of every hospital of the study, and no other")
    receipts = {name: _receipt(path, root.section(name)) for name in root.values}
    certificate = JsonObject(record.certificate, "certificate.json")
    stated = certificate.named_objects("ledgers")
    event = certificate.maybe_section("event")
    covered = {} if event is None else dict(leaves(from_json(event.values)))

    def covers(releases: int, counts: int) -> bool:
        """Returns whether the certificate has so many sums and so many counts: one does not stand for another."""
        owed = plan.event_after(releases, counts) if releases or plan.is_counted else NoEvent()
        return all(number <= covered.get(leaf, 0) for leaf, number in leaves(owed))

    if root.values.keys() != names and not covers(plan.releases, plan.counts):
        refuse(
            path, "certificate.json", "certificate", "count all that a hospital without a receipt may be charged"
        )
    for name, receipt in receipts.items():
        if (receipt.hospital, receipt.study) != (name, study.digest):
            refuse(path, RECEIPTS, "receipt", f"have of {name} its own receipt for this study")
        try:
            Pins({name: receipt.public_key})
            check_receipt(receipt, pinned.get(name, receipt.public_key))
        except FederationError as error:
            raise RecordError(f"{RECEIPTS} in {path} does not hold. {error}", code="record-receipt") from None
        if name not in stated or stated[name].number("epsilon_spent") != receipt.epsilon_spent:
            refuse(path, "certificate.json", "certificate", f"have the charges that {name} signed")
        if not covers(receipt.releases, max(1, receipt.counts)):
            refuse(path, "certificate.json", "certificate", f"count every release that {name} signed")
    _check_tested(path, study, record, receipts)
    if len({receipt.public_key for receipt in receipts.values()}) < len(receipts):
        refuse(path, RECEIPTS, "receipt", "be signed with another key for each hospital")
    strangers = sorted(receipts.keys() - pinned.keys())
    told = (
        f"{counted(len(receipts), 'hospital')} signed what their own ledgers were charged, and the "
        "certificate covers it"
    )
    unpinned = f"receipts: the keys of {', '.join(strangers)} are not pinned here (--pins), and may be anybody's"
    silent = sorted(names - receipts.keys())
    gone = f"charges of {', '.join(silent)}, without a receipt: all that the study lets it be charged is counted"
    return (told,), (*((gone,) if silent else ()), *((unpinned,) if strangers else ()))


def _check_tested(path: Path, study: Study, record: RunRecord, receipts: Mapping[str, Receipt]) -> None:
    """Refuses figures of test patients that a hospital was not charged for, or at a greater cost than was promised."""
    if study.evaluation.level != "noised" or isinstance((plan := plan_of(study)).training, NothingTrained):
        return  # where nobody is trained on, they are the releases of the statement
    row = JsonObject(record.results, "results.json").section("evaluation")
    missing = row.section("missing").values if row.values.get("figures") is not None else receipts
    for name, receipt in receipts.items():
        if receipt.evaluation_epsilon > plan.evaluation_epsilon * (1 + EXACT):
            refuse(
                path, RECEIPTS, "receipt", f"keep within the promise to test patients, and that of {name} does not"
            )
        if name not in missing and not receipt.evaluations:
            refuse(path, RECEIPTS, "receipt", f"have the charge of {name} for the figures of its test patients")


def _receipt(path: Path, values: JsonObject) -> Receipt:
    keys = {name: values.text(name) for name in ("public_key", "signature")}
    try:
        if values.values.keys() != {field.name for field in fields(Receipt)}:
            raise ValueError
        public_key, signature = (bytes.fromhex(key) for key in keys.values())
    except ValueError:
        refuse(path, RECEIPTS, "receipt", "have receipts with exactly their fields")
    return Receipt(
        study=values.text("study"), hospital=HospitalName(values.text("hospital")), releases=values.integer("releases"),
        counts=values.integer("counts"), epsilon_spent=values.number("epsilon_spent"), delta=values.number("delta"),
        ledger_head=values.text("ledger_head"), evaluations=values.integer("evaluations"),
        evaluation_epsilon=values.number("evaluation_epsilon"), public_key=public_key, signature=signature,
    )  # fmt: skip


def refuse(path: Path, name: str, kind: str, must: str) -> NoReturn:
    """Raises the error of a file that its maker signed and that does not hold; `kind` ends its code."""
    raise RecordError(
        f"{name} in {path} must {must}, and does not: its maker signed what does not hold. Ask for the record again.",
        code=f"record-{kind}",
    )
