"""FLARE without wardround, over the kits and the TLS of our courier; started by `benchmarks.federation`.

    python -m benchmarks.federation_averaging KIT FOLDER PARAMETERS ROUNDS SITES [DOWN:UP ...]

In the courier's environment, without torch and wardround. First an echo: in each round the server sends every site, at
once, a message of DOWN raw bytes and gets one of UP bytes back, exchange after exchange as they are named; a message is
one of FLARE's own, which FLARE streams in chunks. Then averaging: the server's workflow is FLARE's `FedAvg` with its
defaults, which sends a model of so many parameters to each site; a site answers with a vector of the same length and
computes nothing, so that a round is its exchange. `FOLDER/averaging.json` gets the seconds of each round after the
first, and of empty echoes.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message

from wardround_flare import courier, up, workspace
from wardround_flare.courier import SOCKETS
from wardround_flare.errors import CourierError
from wardround_flare.exchange import open_locked

_HERE = "benchmarks.federation_averaging"
_ECHO = {"channel": "echo", "topic": "echo"}
_EMPTY = 20
_PATIENCE_S = 600.0


class _Noise:
    """Bytes that no compression shortens, made once."""

    def __init__(self) -> None:
        self._made = b""

    def __call__(self, size: int) -> memoryview:
        if size > len(self._made):
            self._made = os.urandom(size)
        return memoryview(self._made)[:size]


noise = _Noise()


class Averaging(FedAvg):  # type: ignore[misc]
    """FLARE's workflow, which notes when a round has ended; behind echoes."""

    def __init__(self, parameters: int, rounds: int, clients: int, messages: list[list[int]]) -> None:
        weights = {"weights": np.zeros(parameters, dtype=np.float32)}
        super().__init__(num_clients=clients, num_rounds=rounds, persistor_id="", model=weights)
        self._ended: list[float] = []
        self._rounds, self._messages = rounds, messages

    def run(self) -> None:
        """Holds the lock by which `up` knows that its job runs, until the job is ended."""
        folder = Path(os.environ[SOCKETS])
        with open_locked(folder / "bridge.json") as file:
            sites = sorted(client.name for client in self.engine.get_clients())
            file.write(json.dumps({"pid": os.getpid(), "sites": sites}))
            file.flush()
            found = self._echoed()
            super().run()
            found["averaging"] = np.diff(self._ended).tolist()
            (folder / "averaging.tmp").write_text(json.dumps(found))
            (folder / "averaging.tmp").rename(folder / "averaging.json")
            while not self.abort_signal.triggered:
                time.sleep(0.5)

    def _echoed(self) -> dict[str, list[float]]:
        """Returns the seconds of the rounds of echoes, the first left out, and of the empty ones."""
        clients, job = self.engine.get_clients(), self.fl_ctx.get_job_id()
        targets = [FQCN.join([client.get_fqcn(), job]) for client in clients]
        for target in targets:  # its side of the job starts after this one
            while not self._echo(target, 0, 0, 2.0):
                time.sleep(0.2)
        with ThreadPoolExecutor(len(targets)) as pool:

            def round_of(messages: list[list[int]]) -> float:
                began = time.perf_counter()
                for down, up in messages:
                    if not all(pool.map(lambda target: self._echo(target, down, up, _PATIENCE_S), targets)):  # noqa: B023
                        raise RuntimeError("a site did not echo")
                return time.perf_counter() - began

            empty = [round_of([[0, 0]]) for _ in range(_EMPTY + 1)][1:]
            return {"empty": empty, "echo": [round_of(self._messages) for _ in range(self._rounds)][1:]}

    def _echo(self, target: str, down: int, up: int, timeout: float) -> bool:
        request = Message({"up": up}, noise(down))
        reply = self.engine.get_cell().send_request(
            **_ECHO, target=target, request=request, timeout=timeout, optional=True
        )
        return reply.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK and len(reply.payload or b"") == up

    def save_model(self, model: FLModel) -> None:
        """Ends a round, as FLARE does."""
        super().save_model(model)
        self._ended.append(time.perf_counter())


class Answering(Executor):  # type: ignore[misc]
    """A site that echoes, and answers with a vector."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Echoes from the start of the job."""
        if event_type == EventType.START_RUN:
            fl_ctx.get_engine().get_cell().register_request_cb(**_ECHO, cb=self._echoed)

    @staticmethod
    def _echoed(request: Message) -> Message:
        return Message({MessageHeaderKey.RETURN_CODE: ReturnCode.OK}, noise(request.get_header("up")))

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Returns what it was sent, plus one."""
        params = FLModelUtils.from_shareable(shareable).params
        changed = {name: value + np.float32(1) for name, value in params.items()}
        return FLModelUtils.to_shareable(FLModel(params=changed, params_type=ParamsType.FULL))


def main() -> None:
    kit, folder = map(Path, sys.argv[1:3])
    parameters, rounds, clients = map(int, sys.argv[3:6])
    messages = [[int(size) for size in message.split(":")] for message in sys.argv[6:]]

    def write_job(job: Path, sites: list[str]) -> None:
        if len(sites) < clients:
            raise CourierError("not all sites are there yet")
        courier.write_job(job, sites)
        config = job / "app" / "config"
        arguments = {"parameters": parameters, "rounds": rounds, "clients": clients, "messages": messages}
        change(config / "config_fed_server.json", "workflows", {"path": f"{_HERE}.Averaging", "args": arguments})
        executor = {"path": f"{_HERE}.Answering", "args": {}}
        change(config / "config_fed_client.json", "executors", {"tasks": ["train"], "executor": executor})

    vars(up)["write_job"] = write_job
    allowed = {"coordinator": f"{_HERE}.Averaging", "site": f"{_HERE}.Answering"}
    workspace.BRIDGE, workspace.FORWARD = allowed.values()
    workspace._ALLOWED = allowed
    if kit.name == "coordinator":
        up.up(kit, sockets=folder)
    else:
        up.up(kit, agent=folder / "none")


def change(path: Path, part: str, changed: dict[str, Any]) -> None:
    document = json.loads(path.read_text())
    document[part][0].update(changed)
    path.write_text(json.dumps(document))


if __name__ == "__main__":
    main()
    os._exit(0)  # FLARE's session leaves threads that do not end
