"""FLARE's workspace of one party, written anew at each start from its kit and from nothing else.

A site's own policy is in it: the one class `Forward`, no code from a job, no command of an administrator. FLARE reads
`local/` and `startup/`; a file that this module did not write is not in either, because the folder is made empty.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from wardround_flare.errors import CourierError
from wardround_flare.kit import LEAD, ROOT, Kit, write_private

BRIDGE = "wardround_flare.courier.Bridge"
FORWARD = "wardround_flare.courier.Forward"
HEARTBEAT_S = 5
"""Seconds between two signs of life of a site's FLARE client."""
DEAD_S = 30
"""Seconds without one after which FLARE's server takes a client for dead."""

_NOTHING = dict.fromkeys(
    ("submit_job", "clone_job", "manage_job", "download_job", "view", "operate", "shell_commands", "byoc"), "none"
)
_RIGHTS = {
    "coordinator": {"lead": _NOTHING | {"submit_job": "any", "manage_job": "any", "view": "any"}},
    "site": {"lead": _NOTHING | {"submit_job": "any"}},
}
_ALLOWED = {"coordinator": BRIDGE, "site": FORWARD}


def write_workspace(kit: Path, folder: Path) -> Kit:
    """Makes FLARE's workspace of a kit's party, mode 0700; what was in the folder is removed.

    Raises:
        CourierError: the kit lacks a file, or others may read its keys.
    """
    values = Kit.read(kit)
    names = ("server", "lead") if values.role == "coordinator" else ("client",)
    _check_keys(kit, [f"{name}.{end}" for name in names for end in ("crt", "key")] + [ROOT])
    if folder.exists():
        shutil.rmtree(folder)
    _make_folders(folder)
    _copy(kit, folder, {names[0]: names[0]})
    if values.role == "coordinator":
        _make_folders(folder / "lead")
        _copy(kit, folder / "lead", {"lead": "client"})
        _write(folder / "lead/startup/fed_admin.json", _admin(values))
        _write(folder / "startup/fed_server.json", _server(values))
        _write(folder / "local/resources.json", _server_resources(folder))
    else:
        _write(folder / "startup/fed_client.json", _client(values))
        _write(folder / "local/resources.json", _site_resources())
    _write(folder / "local/authorization.json", {"format_version": "1.0", "permissions": _RIGHTS[values.role]})
    _write(folder / "local/log_config.json", _logging())
    check_workspace(folder, values.role)
    return values


def check_workspace(folder: Path, role: str) -> None:
    """Checks the policy that FLARE will read.

    Raises:
        CourierError: it allows another class, code from a job, or an administrator's command.
    """
    resources = json.loads((folder / "local/resources.json").read_text())
    permissions = json.loads((folder / "local/authorization.json").read_text())["permissions"]
    only = resources.get("class_list_enforcement_mode") == "enforce" and resources.get("class_allow_list") == [
        _ALLOWED[role]
    ]
    unknown = {path.name for path in (folder / "local").iterdir()} - {
        "resources.json",
        "authorization.json",
        "log_config.json",
    }
    if not only or permissions != _RIGHTS[role] or unknown:
        raise CourierError(
            f"The policy in {folder / 'local'} must allow {_ALLOWED[role]} alone, no code of a job and no command, and "
            f"allows more{': ' + ', '.join(sorted(unknown)) if unknown else ''}. Start the courier again."
        )


def _check_keys(kit: Path, names: list[str]) -> None:
    for name in names:
        if not (kit / name).is_file():
            raise CourierError(f"A kit must have {', '.join(names)}, and {kit} has no {name}; ask for a new kit.")
    if os.stat(kit).st_mode & 0o077:
        raise CourierError(f"{kit} holds a private key and must have mode 0700; run chmod 700 {kit}.")


def _make_folders(folder: Path) -> None:
    for path in (folder, *(folder / part for part in ("startup", "local", "transfer"))):
        path.mkdir(mode=0o700)


def _copy(kit: Path, folder: Path, names: dict[str, str]) -> None:
    for old, new in names.items():
        for end in ("crt", "key"):
            write_private(folder / "startup" / f"{new}.{end}", (kit / f"{old}.{end}").read_text())
    write_private(folder / "startup" / ROOT, (kit / ROOT).read_text())


def _write(path: Path, document: Any) -> None:
    write_private(path, json.dumps(document, indent=2))


def _server(kit: Kit) -> Any:
    server = {
        "name": kit.project,
        "service": {"target": f"{kit.server}:{kit.port}", "scheme": "grpc"},
        "admin_server": kit.server,
        "admin_port": kit.port,
        "connection_security": "mtls",
    } | _keys("server")
    return {"format_version": 2, "servers": [server]}


def _client(kit: Kit) -> Any:
    target = {"target": f"{kit.server}:{kit.port}", "scheme": "grpc"}
    client = {"fqsn": kit.name, "is_leaf": True, "connection_security": "mtls"} | _keys("client")
    server = {"name": kit.project, "service": target, "identity": kit.server}
    return {"format_version": 2, "servers": [server], "client": client}


def _keys(name: str) -> dict[str, str]:
    return {"ssl_private_key": f"{name}.key", "ssl_cert": f"{name}.crt", "ssl_root_cert": ROOT}


def _admin(kit: Kit) -> Any:
    return {
        "format_version": 1,
        "admin": {
            "project_name": kit.project,
            "username": LEAD,
            "server_identity": kit.server,
            "scheme": "grpc",
            "host": kit.server,
            "port": kit.port,
            "connection_security": "mtls",
            "uid_source": "user_input",
            "with_file_transfer": True,
            "upload_dir": "transfer",
            "download_dir": "transfer",
            "client_key": "client.key",
            "client_cert": "client.crt",
            "ca_cert": ROOT,
        },
    }


def _server_resources(folder: Path) -> Any:
    """Returns the server's components; jobs and snapshots stay in its private folder."""
    storage = "nvflare.app_common.storages.filesystem_storage.FilesystemStorage"
    snapshots = {"path": storage, "args": {"root_dir": str(folder / "snapshots"), "uri_root": "/"}}
    jobs = {"uri_root": str(folder / "jobs"), "job_store_id": "job_store"}
    return {
        "format_version": 2,
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": [BRIDGE],
        "servers": [
            {
                "admin_storage": "transfer",
                "max_num_clients": 100,
                "heart_beat_timeout": DEAD_S,
                "admin_timeout": 5.0,
            }
        ],
        "snapshot_persistor": {
            "path": "nvflare.app_common.state_persistors.storage_state_persistor.StorageStatePersistor",
            "args": {"uri_root": "/", "storage": snapshots},
        },
        "components": [
            _part("job_scheduler", "job_schedulers.job_scheduler.DefaultJobScheduler", {"max_jobs": 4}),
            {"id": "job_manager", "path": "nvflare.apis.impl.job_def_manager.SimpleJobDefManager", "args": jobs},
            {"id": "job_store", "path": storage},
            _part("process_launcher", "job_launcher.server_process_launcher.ServerProcessJobLauncher", {}),
        ],
    }


def _site_resources() -> Any:
    none = {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 0}
    return {
        "format_version": 2,
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": [FORWARD],
        "allow_log_streaming": False,
        "client": {"retry_timeout": 30, "compression": "Gzip"},
        "components": [
            _part("resource_manager", "resource_managers.gpu_resource_manager.GPUResourceManager", none),
            _part("resource_consumer", "resource_consumers.gpu_resource_consumer.GPUResourceConsumer", {}),
            _part("process_launcher", "job_launcher.client_process_launcher.ClientProcessJobLauncher", {}),
        ],
    }


def _part(id: str, path: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"id": id, "path": f"nvflare.app_common.{path}", "args": args}


def _logging() -> Any:
    """Returns a log of at most 2 x 4 MiB beside each process; messages are not in it."""
    handler = {
        "class": "logging.handlers.RotatingFileHandler",
        "formatter": "plain",
        "filename": "log.txt",
        "maxBytes": 1 << 22,
        "backupCount": 1,
    }
    plain = {
        "()": "nvflare.fuel.utils.log_utils.BaseFormatter",
        "fmt": "%(asctime)s %(name)s %(levelname)s %(message)s",
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": plain},
        "handlers": {"file": handler},
        "loggers": {"root": {"level": "INFO", "handlers": ["file"]}},
    }
