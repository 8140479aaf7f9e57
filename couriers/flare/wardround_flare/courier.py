"""The courier over NVIDIA FLARE: `Bridge` beside the coordinator, `Forward` beside each agent, and their job.

    coordinator -> FOLDER/NAME.sock -> Bridge == FLARE, mutual TLS ==> Forward -> the agent's socket

Messages are opaque bytes (`wardround_flare.exchange`). The courier has no data, no key of a study and no ledger, and it
decides nothing. Both places are the machine's own and come from its environment, never from the job:
`WARDROUND_SOCKETS` is the folder in which `Bridge` listens, `WARDROUND_AGENT` the socket that `Forward` connects to.

Released: to each hospital and to the coordinator, bytes that the other one sent. FLARE's server sees all of them, so
that what must be secret is masked, and what must be true is signed, before it comes here.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey
from nvflare.fuel.f3.cellnet.defs import ReturnCode as CellCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey

from wardround_flare.exchange import Ask, Hand, Line, Part, Parts, open_locked

SOCKETS = "WARDROUND_SOCKETS"
AGENT = "WARDROUND_AGENT"
GREETING_S = 45.0
"""Seconds in which sites must have joined a new job; those that have not are not served by it."""

_CHANNEL, _TOPIC = "wardround", "part"
_FIELDS = "wardround"


class Forward(Executor):  # type: ignore[misc]
    """Hands messages to this hospital's agent; the only class that the site's own policy allows.

    It takes no argument: a job chooses nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hand = Hand(os.environ.get(AGENT, ""))

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Listens from the start of the job to its end."""
        if event_type == EventType.START_RUN:
            cell = fl_ctx.get_engine().get_cell()
            cell.register_request_cb(channel=_CHANNEL, topic=_TOPIC, cb=self._requested)
        elif event_type == EventType.END_RUN:
            self._hand.drop()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Refuses every task: the courier has none."""
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def _requested(self, request: Message) -> Message:
        # FLARE lets one site write to another; it ties the origin to the sender's certificate.
        origin = FQCN.split(request.get_header(MessageHeaderKey.ORIGIN) or "-")[0]
        if origin != FQCN.ROOT_SERVER:
            return Message({MessageHeaderKey.RETURN_CODE: CellCode.INVALID_REQUEST})
        try:
            fields, parts = self._hand.answer(request.get_header(_FIELDS), request.payload or b"")
        except (LookupError, TypeError, ValueError):
            return Message({MessageHeaderKey.RETURN_CODE: CellCode.INVALID_REQUEST})
        return _message({MessageHeaderKey.RETURN_CODE: CellCode.OK, _FIELDS: fields}, parts)


class Bridge(Controller):  # type: ignore[misc]
    """Listens in a folder on one socket for each site of the job, until a site is silent or the job is ended.

    All sites are served in parallel. The folder's `bridge.json` is locked while the bridge is there and names the
    sites that it serves; the supervisor (`wardround_flare.up`) starts a new job where it is not.
    """

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Serves until the job ends; every socket is closed afterwards."""
        folder = Path(os.environ[SOCKETS])
        engine = fl_ctx.get_engine()
        cell, job = engine.get_cell(), fl_ctx.get_job_id()
        lines = [
            Line(
                client.name,
                folder / f"{client.name}.sock",
                _asking(cell, FQCN.join([client.get_fqcn(), job]), abort_signal),
            )
            for client in engine.get_clients()
        ]
        with open_locked(folder / "bridge.json") as file:
            try:
                self._greet(lines, abort_signal)
                lines = [line for line in lines if line.is_there]
                for line in lines:
                    line.listen()
                file.write(json.dumps({"pid": os.getpid(), "sites": sorted(line.name for line in lines)}))
                file.flush()
                while lines and not abort_signal.triggered and not any(line.is_silent for line in lines):
                    time.sleep(0.2)
                for line in lines:
                    if line.is_silent:
                        self.log_error(fl_ctx, f"{line.name} is silent; the job ends and is to be started again")
            finally:
                for line in lines:
                    line.close()

    @staticmethod
    def _greet(lines: list[Line], abort_signal: Signal) -> None:
        """Waits for the sites' side of the job, which starts after this one."""
        end = time.monotonic() + GREETING_S
        threads = [
            threading.Thread(target=line.greet, args=(end, lambda: bool(abort_signal.triggered)), daemon=True)
            for line in lines
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Needs nothing."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Needs nothing: `control_flow` closes what it opened."""

    def process_result_of_unknown_task(self, *_: Any, **__: Any) -> None:
        """Ignores it: the courier has no task."""


def _asking(cell: Any, target: str, abort_signal: Signal) -> Ask:
    """Returns the engine's way to ask one site's job: a message of raw bytes, its fields in the header.

    FLARE's auxiliary messages carry objects: these are encoded, copied more often, and printed whole into a line of a
    log that is not kept (2.9.0, `Adapter.call`), which takes half of the processor time.
    """

    def ask(fields: dict[str, Any], parts: Parts, timeout: float) -> tuple[Mapping[str, Any], Part] | None:
        try:
            reply = cell.send_request(
                channel=_CHANNEL,
                topic=_TOPIC,
                target=target,
                request=_message({_FIELDS: fields}, parts),
                timeout=timeout,
                optional=True,
                abort_signal=abort_signal,
            )
        except Exception:  # FLARE's errors have no common class; the part is sent again
            return None
        if reply.get_header(MessageHeaderKey.RETURN_CODE) != CellCode.OK:
            return None
        return reply.get_header(_FIELDS), reply.payload or b""

    return ask


def _message(headers: dict[str, Any], parts: Parts) -> Message:
    """Returns a message of raw bytes; FLARE streams several buffers as one, without a copy, where it is told so."""
    if len(parts) > 1:
        return Message(headers | {StreamHeaderKey.PAYLOAD_ENCODING: Encoding.BYTES}, list(parts))
    return Message(headers, parts[0] if parts else b"")


def write_job(folder: Path, sites: list[str]) -> None:
    """Writes FLARE's job of one bridge and the sites that are connected; the job has no code and no argument."""
    config = folder / "app" / "config"
    config.mkdir(parents=True, exist_ok=True)
    here = __name__
    common = {"format_version": 2, "task_data_filters": [], "task_result_filters": [], "components": []}
    server = common | {"workflows": [{"id": "bridge", "path": f"{here}.Bridge", "args": {}}]}
    executor = {"tasks": ["none"], "executor": {"path": f"{here}.Forward", "args": {}}}
    documents = {
        folder / "meta.json": {
            "name": "wardround",
            "deploy_map": {"app": ["server", *sites]},
            "resource_spec": {},
            "min_clients": 1,
        },
        config / "config_fed_server.json": server,
        config / "config_fed_client.json": common | {"executors": [executor]},
    }
    for path, document in documents.items():
        path.write_text(json.dumps(document, indent=2))
