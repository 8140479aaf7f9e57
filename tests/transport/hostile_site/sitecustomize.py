"""A site whose own program is another: it asks other sites, in its job, as the coordinator's bridge would.

Read by Python at the start of each process of the courier that has this folder in its path. `WARDROUND_HOSTILE` is a
folder: once it has `order.json`, a list of sites, each is asked, and `found.json` gets what came of it, by site.
"""

import json
import os
import threading
import time
from pathlib import Path


def change_the_program(folder):
    from nvflare.apis.event_type import EventType

    from wardround_flare import courier

    genuine = courier.Forward.handle_event

    def handle_event(self, event_type, fl_ctx):
        genuine(self, event_type, fl_ctx)
        if event_type == EventType.START_RUN:
            cell, job = fl_ctx.get_engine().get_cell(), fl_ctx.get_job_id()
            threading.Thread(target=ask_each, args=(folder, cell, job), daemon=True).start()

    courier.Forward.handle_event = handle_event  # type: ignore[method-assign]


def ask_each(folder, cell, job):
    from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
    from nvflare.fuel.f3.cellnet.fqcn import FQCN
    from nvflare.fuel.f3.message import Message

    from wardround_flare.courier import _CHANNEL, _FIELDS, _TOPIC

    while not (folder / "order.json").exists():
        time.sleep(0.2)
    found = {}
    for site in json.loads((folder / "order.json").read_text()):
        fields = {"id": "stolen", "size": 9, "offset": 0, "want": 0, "most": 1}
        reply = cell.send_request(
            channel=_CHANNEL,
            topic=_TOPIC,
            target=FQCN.join([site, job]),
            request=Message({_FIELDS: fields}, bytes(9)),
            timeout=30.0,
            optional=True,
        )
        code = reply.get_header(MessageHeaderKey.RETURN_CODE)
        found[site] = [code, reply.get_header(_FIELDS), len(reply.payload or b"")]
    (folder / "found.tmp").write_text(json.dumps(found))
    (folder / "found.tmp").rename(folder / "found.json")


if "WARDROUND_HOSTILE" in os.environ:
    change_the_program(Path(os.environ["WARDROUND_HOSTILE"]))
