"""The place of the ledger of the person who runs simulations: that person's own state, which outlives every run."""

import os
from pathlib import Path

from wardround.boundary.private import make_private_folder
from wardround.errors import MachineError


def own_state() -> Path:
    """Returns the folder of this person's state, `$XDG_STATE_HOME/wardround`, whether or not it is there."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if Path(state).is_absolute() else Path("~/.local/state").expanduser()) / "wardround"


def own_ledger() -> Path:
    """Returns the path of this person's ledger, its folder made: `$XDG_STATE_HOME/wardround/ledger.sqlite`.

    Without the variable it lies below `~/.local/state`. It is no cache: nothing can make it again.

    Raises:
        MachineError: the folder cannot be made.
    """
    folder = own_state()
    try:
        make_private_folder(folder)
    except MachineError as error:
        raise MachineError(
            f"{error} The ledger of simulations lies there: or set XDG_STATE_HOME, `[privacy] ledger`, or pass "
            "--rehearsal.",
            code=error.code,
        ) from None
    return folder / "ledger.sqlite"
