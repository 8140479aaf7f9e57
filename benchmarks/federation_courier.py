"""Our courier, whose processes echo as well: FLARE alone and a round over it in turn; started by `federation_in_turn`.

    python -m benchmarks.federation_courier KIT FOLDER [AGENT]

In the courier's environment, without torch and wardround. The coordinator's side listens on `FOLDER/echo.ctl`: a line
is a JSON list of messages, bytes there and back. Each is echoed by all sites at once, one message after the other, and
their seconds together come back.
"""

import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message

from benchmarks.federation_averaging import change, noise
from wardround_flare import courier, up, workspace
from wardround_flare.courier import SOCKETS, Bridge, Forward

_HERE = "benchmarks.federation_courier"
_ECHO = {"channel": "echo", "topic": "echo"}


class EchoingForward(Forward):
    """A site of our courier that echoes."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Echoes from the start of the job."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.START_RUN:
            fl_ctx.get_engine().get_cell().register_request_cb(**_ECHO, cb=self._echoed)

    @staticmethod
    def _echoed(request: Message) -> Message:
        return Message({MessageHeaderKey.RETURN_CODE: ReturnCode.OK}, noise(request.get_header("up")))


class EchoingBridge(Bridge):
    """Our courier's bridge, which has messages echoed."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Serves as our courier does, and echoes where it is asked to."""
        threading.Thread(
            target=self._echo_each, args=(fl_ctx.get_engine(), fl_ctx.get_job_id()), daemon=True
        ).start()
        super().control_flow(abort_signal, fl_ctx)

    @staticmethod
    def _echo_each(engine: Any, job: str) -> None:
        targets = [FQCN.join([client.get_fqcn(), job]) for client in engine.get_clients()]
        path = Path(os.environ[SOCKETS]) / "echo.ctl"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def echo(target: str, down: int, up: int) -> bool:
            reply = engine.get_cell().send_request(
                **_ECHO, target=target, request=Message({"up": up}, noise(down)), timeout=600.0, optional=True
            )
            return bool(reply.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK)

        with ThreadPoolExecutor(len(targets)) as pool:
            while True:
                link, _ = listener.accept()
                for line in link.makefile():
                    began = time.perf_counter()
                    for down, up in json.loads(line):
                        if not all(pool.map(lambda target: echo(target, down, up), targets)):  # noqa: B023
                            raise RuntimeError("a site did not echo")
                    link.sendall(b"%r\n" % (time.perf_counter() - began))


def main() -> None:
    kit, folder = map(Path, sys.argv[1:3])

    def write_job(job: Path, sites: list[str]) -> None:
        courier.write_job(job, sites)
        config = job / "app" / "config"
        change(config / "config_fed_server.json", "workflows", {"path": f"{_HERE}.EchoingBridge"})
        executor = {"path": f"{_HERE}.EchoingForward", "args": {}}
        change(config / "config_fed_client.json", "executors", {"executor": executor})

    vars(up)["write_job"] = write_job
    allowed = {"coordinator": f"{_HERE}.EchoingBridge", "site": f"{_HERE}.EchoingForward"}
    workspace.BRIDGE, workspace.FORWARD = allowed.values()
    workspace._ALLOWED = allowed
    if len(sys.argv) == 3:
        up.up(kit, sockets=folder)
    else:
        up.up(kit, agent=Path(sys.argv[3]))


if __name__ == "__main__":
    main()
    os._exit(0)  # FLARE's session leaves threads that do not end
