"""A site whose own program is another: it asks other sites, in its job, as the coordinator's bridge would.

Read by Python at the start of each process of the courier that has this folder in its path. `WARDROUND_HOSTILE` is a
folder: once it has `order.json`, a list of sites, each is asked, and `found.json` gets what came of it, by site.
"""

import json
import os
import threading
import time
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message

from wardround_flare import courier

_genuine = courier.Forward.handle_event


def _handle_event(self, event_type, fl_ctx):
    _genuine(self, event_type, fl_ctx)
    if event_type == EventType.START_RUN:
        cell, job = fl_ctx.get_engine().get_cell(), fl_ctx.get_job_id()
        threading.Thread(target=_ask_each, args=(cell, job), daemon=True).start()


def _ask_each(cell, job):
    folder = Path(os.environ["WARDROUND_HOSTILE"])
    while not (folder / "order.json").exists():
        time.sleep(0.2)
    found = {}
    for site in json.loads((folder / "order.json").read_text()):
        message = Message(
            {courier._FIELDS: {"id": "stolen", "size": 9, "offset": 0, "want": 0, "most": 1}}, bytes(9)
        )
        reply = cell.send_request(
            channel=courier._CHANNEL,
            topic=courier._TOPIC,
            target=FQCN.join([site, job]),
            request=message,
            timeout=30.0,
            optional=True,
        )
        code = reply.get_header(MessageHeaderKey.RETURN_CODE)
        found[site] = [code, reply.get_header(courier._FIELDS), len(reply.payload or b"")]
    (folder / "found.tmp").write_text(json.dumps(found))
    (folder / "found.tmp").rename(folder / "found.json")


courier.Forward.handle_event = _handle_event  # type: ignore[method-assign]
