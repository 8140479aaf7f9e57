"""A site whose own program is another: it asks other sites, in its job, as the coordinator's bridge would.

Read by Python at the start of each process of the courier that has this folder in its path. `WARDROUND_HOSTILE` is a
folder: where it has `order.json`, each of its `sites` is sent its `message`, under the name `origin` if one is given,
and after FLARE's server was told that this site leaves if it `quits`; `found.json` gets what came of it, by site.
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
    genuine = cell.core_cell.my_info.fqcn
    while True:
        while not (folder / "order.json").exists():
            time.sleep(0.2)
        order = json.loads((folder / "order.json").read_text())
        (folder / "order.json").unlink()
        if order.get("quits"):
            leave(cell)
        cell.core_cell.my_info.fqcn = order.get("origin", genuine)
        try:
            found = {site: asked(cell, site, job, order["message"].encode()) for site in order["sites"]}
        finally:
            cell.core_cell.my_info.fqcn = genuine
        (folder / "found.tmp").write_text(json.dumps(found))
        (folder / "found.tmp").rename(folder / "found.json")


def leave(cell):
    """FLARE's server forgets the token of this site; the job's process keeps it, and its connection."""
    from nvflare.apis.shareable import Shareable
    from nvflare.fuel.f3.cellnet.defs import CellChannel
    from nvflare.private.defs import CellChannelTopic, CellMessageHeaderKeys, new_cell_message

    quits = new_cell_message({CellMessageHeaderKeys.PROJECT_NAME: "wardround"}, Shareable())
    cell.send_request(
        channel=CellChannel.SERVER_MAIN, topic=CellChannelTopic.Quit, target="server", request=quits, timeout=5.0
    )


def asked(cell, site, job, message):
    from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
    from nvflare.fuel.f3.cellnet.fqcn import FQCN
    from nvflare.fuel.f3.message import Message

    from wardround_flare.courier import _CHANNEL, _FIELDS, _TOPIC

    fields = {"id": "stolen", "size": len(message), "offset": 0, "want": 0, "most": 1}
    reply = cell.send_request(
        channel=_CHANNEL,
        topic=_TOPIC,
        target=FQCN.join([site, job]),
        request=Message({_FIELDS: fields}, message),
        timeout=10.0,
        optional=True,
    )
    code = reply.get_header(MessageHeaderKey.RETURN_CODE)
    return [code, reply.get_header(_FIELDS), len(reply.payload or b"")]


if "WARDROUND_HOSTILE" in os.environ:
    change_the_program(Path(os.environ["WARDROUND_HOSTILE"]))
