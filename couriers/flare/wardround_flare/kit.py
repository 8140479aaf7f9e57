"""One party's kit: plain values and keys, and nothing that FLARE would read as configuration."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from wardround_flare.errors import CourierError

ROOT = "rootCA.pem"
LEAD = "lead@courier.local"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
HOST = re.compile(r"[A-Za-z0-9.-]{1,63}")


@dataclass(frozen=True)
class Kit:
    """The plain values of a kit.

    Attributes:
        role: `coordinator` or `site`.
        name: of the party; a site's is its hospital's in the study.
        project: the same for all parties.
        server: name of the coordinator's machine, as hospitals reach it.
        port: of that machine, the only one that is opened.
    """

    role: str
    name: str
    project: str
    server: str
    port: int

    @classmethod
    def read(cls, folder: Path) -> "Kit":
        """Reads `kit.json`.

        Raises:
            CourierError: it is missing, or is none.
        """
        path = folder / "kit.json"
        try:
            values = json.loads(path.read_text())
            kit = cls(**values)
            sound = (
                kit.role in ("coordinator", "site")
                and NAME.fullmatch(kit.name)
                and NAME.fullmatch(kit.project)
                and HOST.fullmatch(kit.server)
                and 0 < kit.port < 65536
            )
        except (OSError, ValueError, TypeError) as error:
            raise CourierError(f"A kit must have a readable kit.json, and {path} is none ({error}).") from None
        if not sound:
            raise CourierError(
                f"The values in {path} must be a role, names, a server and a port; ask for a new kit."
            )
        return kit


def write_private(path: Path, text: str) -> None:
    """Writes a file of mode 0600, whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
