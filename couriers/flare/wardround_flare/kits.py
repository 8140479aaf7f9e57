"""Kits: certificates and an address for each party, made by FLARE's own certificate builder.

    FOLDER/state/        the root's key, with which further kits can be made; not needed while a study runs
    FOLDER/coordinator/  server.crt server.key lead.crt lead.key rootCA.pem kit.json
    FOLDER/NAME/         client.crt client.key rootCA.pem kit.json

A kit holds keys and plain values only. FLARE's configuration, and a site's policy, are written by each party's own
copy of this program (`wardround_flare.workspace`), so that the party that makes the kits decides nothing at a hospital.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nvflare.lighter.entity import Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner

from wardround_flare.errors import CourierError

ROOT = "rootCA.pem"
LEAD = "lead@courier.local"
_ORG = "wardround"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9.-]{1,63}")
_RESERVED = ("server", "coordinator", "state")


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
                and _NAME.fullmatch(kit.name)
                and _NAME.fullmatch(kit.project)
                and _HOST.fullmatch(kit.server)
                and 0 < kit.port < 65536
            )
        except (OSError, ValueError, TypeError) as error:
            raise CourierError(f"A kit must have a readable kit.json, and {path} is none ({error}).") from None
        if not sound:
            raise CourierError(
                f"The values in {path} must be a role, names, a server and a port; ask for a new kit."
            )
        return kit


def make_kits(
    folder: Path, server: str, port: int, sites: Sequence[str], project: str = "wardround"
) -> list[Path]:
    """Makes the kits of a coordinator and of sites; a kit that is there already is left as it is.

    Returns:
        The kits' folders, mode 0700, the coordinator's first. Nothing else has a party's key.

    Raises:
        CourierError: a name cannot be used, or FLARE cannot make the certificates.
    """
    for name in sites:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise CourierError(
                f"A site's name must have letters, digits, `_` and `-`, at most 63 of them, and not be one of "
                f"{', '.join(_RESERVED)}; got {name!r}. Choose another name for the hospital."
            )
    if not _HOST.fullmatch(server) or not 0 < port < 65536:
        raise CourierError(
            f"`--server` and `--port` must name the coordinator's machine, got {server!r} and {port}."
        )
    described = Project(project, "", props={"name": project, "api_version": 3})
    described.set_server(server, _ORG, {"fed_learn_port": port, "admin_port": port})
    described.add_admin(LEAD, _ORG, {"role": "lead"})
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kits = [folder / "coordinator", *(folder / name for name in sites)]
    new = [name for name in sites if not (folder / name).exists()]
    for name in new:
        described.add_client(name, _ORG, {})
    with TemporaryDirectory(dir=folder) as temporary:
        made = _provisioned(described, Path(temporary), folder / "state")
        if not kits[0].exists():
            with _new_kit(kits[0], Kit("coordinator", "coordinator", project, server, port)):
                _take(made / server, "server", kits[0], "server")
                _take(made / LEAD, "client", kits[0], "lead")
        for name in new:
            with _new_kit(folder / name, Kit("site", name, project, server, port)):
                _take(made / name, "client", folder / name, "client")
    return kits


def _provisioned(described: Project, temporary: Path, state: Path) -> Path:
    """Returns the folder in which FLARE made its certificates; the root's key is kept in `state`."""
    kept = temporary / described.name / "state" / "cert.json"
    kept.parent.mkdir(mode=0o700, parents=True)
    if (state / "root.json").exists():
        shutil.copyfile(state / "root.json", kept)
    context = Provisioner(str(temporary), [WorkspaceBuilder(), CertBuilder()]).provision(
        described, logger=_Quiet()
    )
    if context.get("build_error"):
        raise CourierError(f"FLARE must make the kits, and does not: {'; '.join(context.get('errors', []))}.")
    root = {key: value for key, value in json.loads(kept.read_text()).items() if key.startswith("root_")}
    state.mkdir(mode=0o700, exist_ok=True)
    write_private(state / "root.json", json.dumps(root))
    return Path(context["current_prod_dir"])


@contextmanager
def _new_kit(kit: Path, values: Kit) -> Iterator[None]:
    kit.mkdir(mode=0o700)
    yield
    write_private(kit / "kit.json", json.dumps(asdict(values), indent=2) + "\n")


def _take(made: Path, made_as: str, kit: Path, name: str) -> None:
    for source, target in ((f"{made_as}.crt", f"{name}.crt"), (f"{made_as}.key", f"{name}.key"), (ROOT, ROOT)):
        write_private(kit / target, (made / "startup" / source).read_text())


def write_private(path: Path, text: str) -> None:
    """Writes a file of mode 0600, whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


class _Quiet:
    """Takes FLARE's messages of provisioning; errors are in its context as well."""

    def info(self, *_: object) -> None: ...

    debug = warning = error = info
