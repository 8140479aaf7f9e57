"""A site of the courier allows one class and nothing else, whatever its kit, a job or an administrator says."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.transport.consortium import NAMES

from wardround_flare.errors import CourierError
from wardround_flare.kit import Kit
from wardround_flare.workspace import FORWARD, check_workspace, write_workspace

VALUES = {"role": "site", "name": "north", "project": "wardround", "server": "localhost", "port": 8002}


@pytest.fixture
def kit(tmp_path):
    folder = tmp_path / "kit"
    folder.mkdir(mode=0o700)
    for name in ("client.crt", "client.key", "server.crt", "server.key", "lead.crt", "lead.key", "rootCA.pem"):
        (folder / name).write_text(name)
    (folder / "kit.json").write_text(json.dumps(VALUES))
    return folder


@pytest.mark.parametrize("role", ["site", "coordinator"])
def test_a_workspace_is_private_and_allows_nothing_else(kit, tmp_path, role):
    (kit / "kit.json").write_text(json.dumps(VALUES | {"role": role}))
    work = tmp_path / "work"
    write_workspace(kit, work)
    resources = json.loads((work / "local/resources.json").read_text())
    assert resources["class_list_enforcement_mode"] == "enforce"
    [allowed] = resources["class_allow_list"]
    assert allowed == ("wardround_flare.courier.Bridge" if role == "coordinator" else FORWARD)
    permissions = json.loads((work / "local/authorization.json").read_text())["permissions"]
    assert set(permissions) == {"lead"}
    assert {permissions["lead"][right] for right in ("byoc", "shell_commands", "operate", "download_job")} == {
        "none"
    }
    for path in work.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    for place in json.dumps(resources).split('"'):
        if place.startswith("/") and place != "/":
            assert Path(place).is_relative_to(work), "jobs and snapshots stay in the private folder"


def test_a_kit_cannot_bring_configuration_or_code(kit, tmp_path):
    for extra in ("local/custom/evil.py", "startup/resources.json", "local/privacy.json", "fed_client.json"):
        (kit / extra).parent.mkdir(parents=True, exist_ok=True)
        (kit / extra).write_text("{}")
    work = tmp_path / "work"
    (work / "local/custom").mkdir(parents=True)
    (work / "local/custom/evil.py").write_text("")
    write_workspace(kit, work)
    found = {path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()}
    startup = {"startup/client.crt", "startup/client.key", "startup/fed_client.json", "startup/rootCA.pem"}
    assert found == startup | {"local/resources.json", "local/authorization.json", "local/log_config.json"}


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("resources.json", {"class_list_enforcement_mode": "warn"}),
        ("resources.json", {"class_allow_list": ["*"]}),
        ("resources.json", {"class_allow_list": [FORWARD, "subprocess.Popen"]}),
        ("authorization.json", {"permissions": {"lead": {"byoc": "any"}}}),
        ("privacy.json", {}),
    ],
)
def test_a_policy_that_allows_more_is_found(kit, tmp_path, file, change):
    work = tmp_path / "work"
    write_workspace(kit, work)
    path = work / "local" / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | change))
    with pytest.raises(CourierError):
        check_workspace(work, "site")


@pytest.mark.parametrize(
    "change",
    [{"role": "admin"}, {"name": "../north"}, {"server": "a b"}, {"port": 0}, {"more": 1}, {"name": None}],
)
def test_values_of_a_kit_are_checked(kit, change):
    (kit / "kit.json").write_text(json.dumps(VALUES | change))
    with pytest.raises(CourierError):
        Kit.read(kit)


def test_a_kit_that_others_may_read_or_that_lacks_a_key_is_refused(kit, tmp_path):
    kit.chmod(0o750)
    with pytest.raises(CourierError):
        write_workspace(kit, tmp_path / "work")
    kit.chmod(0o700)
    (kit / "client.key").unlink()
    with pytest.raises(CourierError):
        write_workspace(kit, tmp_path / "work")


@pytest.mark.thorough
def test_a_lead_runs_nothing_at_a_site(flare, tmp_path):
    flare.wait()
    markers = tmp_path / "markers"
    markers.mkdir()
    script = Path(__file__).with_name("hostile_jobs.py")
    lead = flare.folder / "kits/coordinator/work/lead"
    done = subprocess.run(
        [flare.python, script, lead, NAMES[0], markers], env=flare.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not os.listdir(markers), found
    for command in ("ls", "restart", "shutdown"):
        assert found[command].startswith("refused"), found
    assert not any("COMPLETED" in found[job] for job in ("code", "popen", "forged", "runner")), found
    flare.wait()
