"""Run by the courier's interpreter: a lead who tries to run code at a site, and an administrator's commands.

    python hostile_jobs.py LEAD_WORKSPACE SITE MARKERS

Each job would make a file in MARKERS. Prints a JSON object: by attempt, what came of it.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from wardround_flare.kit import LEAD

WAIT_S = 25


def jobs(folder, site, markers):
    """Jobs by name: each with another way to run a command at the site."""
    from wardround_flare.courier import write_job

    def touch(name):
        return ["touch", str(markers / name)]

    def job(name, component=None, forward=None, custom=None, meta=None):
        path = folder / name
        write_job(path, [site])
        config = path / "app/config/config_fed_client.json"
        client = json.loads(config.read_text())
        if component is not None:
            client["components"] = [{"id": "evil", **component}]
        if forward is not None:
            client["executors"][0]["executor"] = forward
        config.write_text(json.dumps(client))
        if custom is not None:
            (path / "app/custom").mkdir()
            (path / "app/custom/evil.py").write_text(custom)
        (path / "meta.json").write_text(json.dumps(json.loads((path / "meta.json").read_text()) | (meta or {})))
        return path

    popen = "subprocess.Popen"
    code = "import subprocess\nsubprocess.run({})\nclass Evil:\n    pass\n"
    nested = {"path": popen, "args": {"args": touch("nested")}}
    runner = "nvflare.app_common.executors.task_script_runner.TaskScriptRunner"
    return {
        "code": job("code", {"path": "evil.Evil", "args": {}}, custom=code.format(touch("code"))),
        "popen": job("popen", {"path": popen, "args": {"args": touch("popen")}}),
        "forged": job("forged", {"path": popen, "args": {"args": touch("forged")}}, meta={"byoc": True}),
        "nested": job("nested", forward={"path": "wardround_flare.courier.Forward", "args": {"a": nested}}),
        "runner": job("runner", {"path": runner, "args": {"site_name": "x", "script_path": "x"}}),
    }


def outcome(session, path):
    try:
        job = session.submit_job(str(path))
    except Exception as error:
        return f"refused at once: {error}"
    end = time.monotonic() + WAIT_S
    status = ""
    while time.monotonic() < end and not status.startswith("FINISHED"):
        time.sleep(1.0)
        status = str(session.get_job_meta(job).get("status"))
    if not status.startswith("FINISHED"):
        session.abort_job(job)
    return status


def main():
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    lead, site, markers = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    session = new_secure_session(LEAD, str(lead), timeout=20.0)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in jobs(Path(folder), site, markers).items():
            found[name] = outcome(session, path)
    for name, command in {
        "ls": lambda: session.ls_target(site),
        "restart": lambda: session.restart("client", [site]),
        "shutdown": lambda: session.shutdown("client", [site]),
    }.items():
        try:
            found[name] = f"answered: {command()}"
        except Exception as error:
            found[name] = f"refused: {error}"
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    import os

    main()
    os._exit(0)  # a session leaves threads that do not end
