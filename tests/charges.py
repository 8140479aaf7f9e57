"""What ledgers were charged, for the tests of all rooms."""

import math

from wardround.accounting.events import GaussianEvent
from wardround.ledger.entry import Begun, Charge
from wardround.ledger.file import LedgerFile


def charges_of(account):
    """The charges of one hospital's account in one run, in order."""
    return [
        entry for entry in account._chain.entries() if isinstance(entry, Charge) and entry.begun == account.begun
    ]


def charges_in(path):
    """The charges of a ledger file by the hospital's name in its study, all runs together, in order."""
    found: dict[str, list[Charge]] = {}
    hospitals: dict[int, str] = {}
    with LedgerFile(path) as ledger:
        for number, entry in enumerate(ledger.entries(), start=1):
            if isinstance(entry, Begun):
                hospitals[number] = entry.hospital
                found.setdefault(entry.hospital, [])
            if isinstance(entry, Charge):
                found[hospitals[entry.begun]].append(entry)
    return found


def begun_in(path):
    """The lines that hospitals' parts in runs began with, in order."""
    with LedgerFile(path) as ledger:
        return [entry for entry in ledger.entries() if isinstance(entry, Begun)]


def another_run(ledger, hospital):
    """The account of another run, of another study, with a tiny federation's patients."""
    return ledger.begin(
        run="another run", study="another study", name="another study", hospital=hospital,
        persons=[f"{hospital}/{number}" for number in range(4)], foreseen=GaussianEvent(1.0), epsilon=math.inf,
        delta=1e-5,
    )  # fmt: skip


def charge_another_run(ledger, hospital, release="1"):
    """Charges that run once more; the first time adds the line that it begins with."""
    another_run(ledger, hospital).charge(GaussianEvent(1.0), release=release, purpose="gradient-sum")
