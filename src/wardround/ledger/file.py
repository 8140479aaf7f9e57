"""The accounts of hospitals for each of their data sets, across all runs and studies: checked, then spent.

    LedgerFile          one SQLite file; `transaction` makes the charges of a whole round one write
      └── Ledger        one hospital's view of one data set; `charge` before every release

A charge is on disk before `charge` returns (or before the transaction around it ends), so a process killed
between charge and release has spent too much, never too little. What the chain of hashes cannot see is a
whole file put back to an earlier copy: keep `head()` elsewhere, in the run's record, and give it to `verify`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import LedgerError
from wardround.ledger.account import Ledger
from wardround.ledger.entry import LedgerEntry, Promise
from wardround.ledger.store import LedgerStore


class LedgerFile:
    """One file with the ledgers of one or more hospitals; created when missing.

    Args:
        path: the SQLite file, in a folder that exists.
        busy_timeout_s: how long to wait for another process that is writing.
        version: the version of Wardround, written into every entry.

    Raises:
        LedgerError: the file cannot be opened, is no ledger, or has another schema version.
    """

    def __init__(self, path: Path | str, *, busy_timeout_s: float = 30.0, version: str | None = None) -> None:
        self.path = Path(path)
        self._version = version
        self._store = LedgerStore(self.path, busy_timeout_s)

    def __enter__(self) -> "LedgerFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; what was charged stays charged."""
        self._store.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All charges inside are one durable write; if anything raises, none of them was made.

        Nothing may be released before the block has ended.
        """
        with self._store.transaction():
            yield

    def chains(self) -> list[tuple[str, str]]:
        """Returns hospital and data set digest of every ledger in the file, sorted."""
        return self._store.chains()

    def entries(self, hospital: str, dataset_digest: str) -> list[LedgerEntry]:
        """Returns all entries of one ledger, oldest first, without a promise to check them against."""
        return [entry for entry, _ in self._store.read((hospital, dataset_digest), 0)]

    def open(
        self,
        hospital: str,
        dataset_digest: str,
        *,
        epsilon_limit: float,
        delta: float,
        accountant: AccountantKind = AccountantKind.PLD,
        unit: PrivacyUnit = PrivacyUnit.PATIENT,
        relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
        new_dataset: bool = False,
    ) -> Ledger:
        """Returns the ledger of one hospital for one data set, its chain of hashes checked.

        Raises:
            LedgerError: the chain is broken; or the hospital has entries under other data sets only and
                `new_dataset` does not say that these are other patients; or its entries protect another unit, or
                under another neighbouring relation.
            PrivacyError: `epsilon_limit`, `delta` or `accountant` cannot hold a guarantee.
        """
        known = self._store.digests_of(hospital)
        if known and dataset_digest not in known and not new_dataset:
            raise LedgerError(
                f"The data set of hospital {hospital} must be one that its ledger knows, "
                f"got {dataset_digest} and not {' or '.join(sorted(known))}. A changed copy "
                "of the same patients must keep its ledger; "
                "only if these are other patients, open it with new_dataset."
            )
        promise = Promise(epsilon_limit, delta, AccountantKind(accountant), unit, relation)
        ledger = Ledger(self._store, hospital, dataset_digest, promise, self._version)
        ledger.verify()
        return ledger
