"""A value made in the process apart is the value made in this one, whatever becomes of that process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wardround.boundary import apart

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="no process apart is begun on this machine"
)

MADE = """
import json, os, sys, time
from wardround.boundary import apart
here = os.getpid()
{before}
apart.begin("os", "getpid")
{after}
try:
    found = apart.made({module!r}, {function!r}, *{values!r})
except Exception as error:
    found = type(error).__name__
there = apart._begun[0].pipe if apart._begun else None
print(json.dumps([found, found == here, there is not None]))
"""


def found_by(module, function, *values, before="", after=""):
    script = MADE.format(module=module, function=function, values=values, before=before, after=after)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_a_value_is_made_in_another_process():
    pid, is_here, is_there = found_by("os", "getpid")
    assert isinstance(pid, int)
    assert (is_here, is_there) == (False, True)
    assert found_by("json", "dumps", {"é": [1, 2.5]}) == ['{"\\u00e9": [1, 2.5]}', False, True]


ALONE: dict[str, dict[str, Any]] = {
    "torch is there": {"before": "sys.modules['torch'] = sys"},
    "a thread": {
        "before": "import threading; threading.Thread(target=time.sleep, args=(2,), daemon=True).start()"
    },
    "one core": {"before": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"},
    "no standard error": {"before": "os.close(2)"},
    "no room": {"before": "def none(): raise BlockingIOError\nos.fork = none"},
    "killed": {"after": "os.kill(int(open(f'/proc/{here}/task/{here}/children').read()), 9)"},
    "stopped": {
        "before": "apart._PATIENCE_S = 0.1",
        "after": "os.kill(apart.made('os', 'getpid'), 19)",
    },
    "another owner": {"after": "apart._begun[0] = apart._Apart(0, apart._begun[0].pipe)"},
}


@pytest.mark.parametrize("name", ALONE)
def test_a_value_is_made_here_where_there_is_no_process(name):
    assert found_by("os", "getpid", **ALONE[name])[1]


def test_an_error_is_the_function_s_own():
    assert found_by("operator", "truediv", 1, 0) == ["ZeroDivisionError", False, False]


def test_no_file_of_the_owner_is_open_there(tmp_path):
    kept = f"kept = open({str(tmp_path / 'ledger')!r}, 'w'); os.set_inheritable(kept.fileno(), True)"
    listed, _, _ = found_by("os", "listdir", "/proc/self/fd", before=kept)
    assert set(listed) >= {"0", "1", "2"}
    assert len(listed) <= 5  # the pipe, and the list itself


def test_it_ends_with_its_owner():
    pid, _, _ = found_by("os", "getpid")
    deadline = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_without_a_beginning_a_value_is_made_here():
    assert apart.made("os", "getpid") == os.getpid()
