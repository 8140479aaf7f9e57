"""Nothing that a hospital sends depends on one person's account: only what that person's absence itself changes.

Two ledgers differ in one person's history, and leave the person out in one of them. Seeded, on phantoms, so that the
bytes can be compared.
"""

import math
import shutil
from dataclasses import replace
from typing import Any

import pytest
from tests.cases import family
from tests.hospital.deployed import make_folders, open_from, study_of
from tests.hospital.outside import HONEST, STUDIES

from wardround.accounting.events import GaussianEvent
from wardround.federation.messages import Answer, Receipt, Request
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.hospital.pictures import read_images
from wardround.ledger.file import LedgerFile
from wardround.work import CountPatients, GiveReceipt, SayHello

NAME = "north"
ROUNDS = {"selective": (1, 4), "head": (1,)}
POLICY = "[policy]\nepsilon_limit = 50.0\ndelta = 1e-3\nnew_patients = true\n"


@pytest.fixture
def messages(tmp_path, monkeypatch):
    """All bytes that one hospital sends in a study, and its receipt, for histories and pictures of some persons."""
    folders, _ = make_folders(tmp_path)
    patients: list[Any] = []

    def read_some(study):
        images = read_images(study)
        patients[:] = images.patients
        return replace(images, patients=tuple(p for p in images.patients if p.id not in absent))

    absent: set[str] = set()
    monkeypatch.setattr("wardround.hospital.opening.read_images", read_some)

    def run(kind, spent_by, without):
        absent.clear()
        absent.update(without)
        tables = STUDIES[kind]
        study = study_of(tables["privacy"], tables["federation"], seed=7)
        folder = folders[NAME]
        (folder / "policy.toml").write_text(POLICY)
        shutil.rmtree(folder / "memory", ignore_errors=True)  # replies that it would send again
        for path in folder.glob("ledger.sqlite*"):
            path.unlink()
        with LedgerFile(folder / "ledger.sqlite") as ledger:
            earlier = ledger.begin(
                run="earlier", study="earlier", name="earlier", hospital=NAME, persons=spent_by,
                foreseen=GaussianEvent(0.1), epsilon=math.inf, delta=1e-3,
            )  # fmt: skip
            earlier.charge(GaussianEvent(0.1), release="1", purpose="gradient-sum")
            earlier.end()
            ledger.set_limit(50.0, 1e-3, by="a test", reason="enough")
        works: list[tuple[int, Any]] = [(0, SayHello()), *((0, CountPatients()) for _ in range(kind == "counted"))]
        works += [(round, HONEST[kind]) for round in ROUNDS.get(kind, (1, 2, 3))]
        with open_from(folder, study) as hospital:
            sent = [
                hospital.answer(encode_request(Request(study.digest, round, 1, work))) for round, work in works
            ]
            receipt = decode_reply(
                hospital.answer(encode_request(Request(study.digest, 0, 1, GiveReceipt()))), Limits()
            )
        assert isinstance(receipt, Receipt)
        return sent, replace(receipt, ledger_head="", signature=b"")

    run.patients = patients  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize("left_out", ["one", "all"])
@pytest.mark.parametrize("kind", family(STUDIES, keep=["gradients", "counted"]))
def test_a_person_who_is_left_out_is_as_absent_as_one_who_never_came(messages, kind, left_out):
    """Every byte equals that of a hospital without the persons, and its receipt is that of one where they take part."""
    present, receipt = messages(kind, [], [])
    out = [patient.id for patient in messages.patients][: 1 if left_out == "one" else None]
    spent, spent_receipt = messages(kind, out, [])
    absent, absent_receipt = messages(kind, [], out)
    assert spent == absent
    assert spent_receipt == absent_receipt == receipt
    assert spent[0] == present[0], "its greeting"
    for mine, theirs in zip(spent[1:], present[1:], strict=True):
        one, other = (decode_reply(message, Limits()) for message in (mine, theirs))
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        assert (len(mine), one.event) == (len(theirs), other.event)
    if left_out == "all":
        assert spent[1:] != present[1:], "the patients are in the sum"
