"""A hospital's own notes between two rounds; they are never sent.

Some strategies need it: selective sharing trains a replica of which only parts are uploaded, and correlated noise
is made of earlier noise. A note belongs to the round that wrote it, and the notes of the round before stay
beside it: a round that is asked for again after an interruption finds what it found the first time.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from wardround.boundary.documents import Unfit, read_regular
from wardround.boundary.private import make_private_folder
from wardround.errors import RecordError
from wardround.secure_aggregation.keys.key_files import write_key_file

Arrays = Mapping[str, npt.NDArray[np.floating]]

_MOST_BYTES = 1 << 36
_KEPT = 2
"""Rounds whose notes are kept: the last one, and the one before it."""
_FORGOTTEN = "forgotten"
"""Says that there were notes before those that are kept."""


class Memory:
    """A hospital's notes, by round.

    Args:
        folder: of the notes; None keeps them in this process, for runs that are not resumed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._notes: dict[int, dict[str, npt.NDArray[np.floating]]] = {}
        self._forgot = False

    def before(self, round: int) -> dict[str, npt.NDArray[np.floating]]:
        """Returns the last notes that a round before this one wrote; empty if none did.

        Raises:
            RecordError: the notes on disk cannot be read, or were forgotten since.
        """
        earlier = [known for known in self._rounds() if known < round]
        if not earlier and self._has_forgotten():
            raise RecordError(
                f"A hospital must have its notes from before round {round}, and keeps later ones only; "
                "start a new run."
            )
        return self._read(max(earlier)) if earlier else {}

    def of(self, round: int) -> dict[str, npt.NDArray[np.floating]]:
        """Returns the notes that this round itself wrote, if it was answered before; else empty."""
        return self._read(round) if round in self._rounds() else {}

    def write(self, round: int, arrays: Arrays) -> None:
        """Keeps a round's notes, on disk before this returns; forgets what no repetition can ask for."""
        if self._folder is None:
            self._notes[round] = dict(arrays)
        else:
            make_private_folder(self._folder)
            content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
            write_key_file(self._path(round), content, replace=True)
        for old in sorted(self._rounds())[:-_KEPT]:
            self._forget(old)

    def _rounds(self) -> set[int]:
        if self._folder is None:
            return set(self._notes)
        return {int(path.stem) for path in self._folder.glob("*.safetensors") if path.stem.isdigit()}

    def _path(self, round: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{round:08d}.safetensors"

    def _read(self, round: int) -> dict[str, npt.NDArray[np.floating]]:
        if self._folder is None:
            return dict(self._notes[round])
        try:
            return dict(load(read_regular(self._path(round), _MOST_BYTES)))
        except (OSError, Unfit, SafetensorError) as error:
            raise RecordError(
                f"A hospital's notes of round {round} must be readable, and are not ({error}); start a new run."
            ) from None

    def _has_forgotten(self) -> bool:
        return self._forgot or (self._folder is not None and (self._folder / _FORGOTTEN).exists())

    def _forget(self, round: int) -> None:
        self._forgot = True
        if self._folder is None:
            del self._notes[round]
        else:
            (self._folder / _FORGOTTEN).touch()
            self._path(round).unlink(missing_ok=True)
