"""Kits: certificates and an address for each party, made by FLARE's own certificate builder.

    FOLDER/state/        the root's key, with which further kits can be made; not needed while a study runs
    FOLDER/coordinator/  server.crt server.key lead.crt lead.key rootCA.pem kit.json
    FOLDER/NAME/         client.crt client.key rootCA.pem kit.json

A kit holds keys and plain values only. FLARE's configuration, and a site's policy, are written by each party's own
copy of this program (`wardround_flare.workspace`), so that the party that makes the kits decides nothing at a hospital.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from nvflare.lighter.entity import Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner

from wardround_flare.errors import CourierError
from wardround_flare.kit import HOST, LEAD, NAME, ROOT, Kit, write_private

_ORG = "wardround"
_RESERVED = ("server", "coordinator", "state")


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
        if not NAME.fullmatch(name) or name in _RESERVED:
            raise CourierError(
                f"A site's name must have letters, digits, `_` and `-`, at most 63 of them, and not be one of "
                f"{', '.join(_RESERVED)}; got {name!r}. Choose another name for the hospital."
            )
    if not HOST.fullmatch(server) or not 0 < port < 65536:
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


class _Quiet:
    """Takes FLARE's messages of provisioning; errors are in its context as well."""

    def info(self, *_: object) -> None: ...

    debug = warning = error = info
