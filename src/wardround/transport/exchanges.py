"""The numbers of a coordinator's exchanges, which ascend even where its clock goes back.

    exchange    the last number, beside the coordinator's key; on disk before the exchange begins

A number is the time in nanoseconds, or one more than the last where the clock is behind that. A hospital refuses an
exchange before the last one that it answered (`hospital.kept.replies`): without the file, a clock that ran ahead and
was corrected would have every request refused until the time came.

Released: the numbers, to hospitals.
"""

import fcntl
import time
from dataclasses import dataclass
from pathlib import Path

from wardround.boundary.documents import decoded, read_regular
from wardround.boundary.machine import machine_faults
from wardround.boundary.private import write_whole
from wardround.errors import FederationError

_MOST_BYTES = 20
_MOST = 1 << 63


@dataclass
class Exchanges:
    """Gives the number of each exchange.

    Attributes:
        path: of the file; None keeps the last number in this process.
    """

    path: Path | None = None
    _last: int = 0

    def next(self) -> int:
        """Returns a number after all that were given under this path, by other processes too.

        Raises:
            FederationError: the file is none of this program.
            MachineError: it cannot be written.
        """
        if self.path is None:
            self._last = max(self._last + 1, time.time_ns())
            return self._last
        with machine_faults(self.path), open(self.path.with_suffix(".lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._last = max(self._last + 1, self._noted(self.path) + 1, time.time_ns())
            write_whole(self.path, b"%d\n" % self._last)
        return self._last

    @staticmethod
    def _noted(path: Path) -> int:
        if not path.exists():
            return 0
        try:
            found = int(decoded(read_regular(path, _MOST_BYTES)))
            if 0 <= found < _MOST:
                return found
        except (OSError, ValueError):
            pass
        raise FederationError(
            f"{path} must hold the number of the coordinator's last exchange, and does not. Restore it; or remove "
            "it, where the clock of this machine has never run ahead.",
            code="federation-exchange-number",
        )
