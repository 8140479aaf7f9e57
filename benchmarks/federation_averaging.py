"""FLARE's own federated averaging over the kits and the TLS of our courier; started by `benchmarks.federation`.

    python -m benchmarks.federation_averaging KIT FOLDER PARAMETERS ROUNDS SITES

In the courier's environment, without torch and wardround. The server's workflow is FLARE's `FedAvg` with its defaults,
which sends a model of so many parameters to each site; a site answers with a vector of the same length and computes
nothing, so that a round is its exchange. `FOLDER/averaging.json` gets the seconds of each round after the first.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.fedavg import FedAvg

from wardround_flare import courier, up, workspace
from wardround_flare.courier import SOCKETS
from wardround_flare.errors import CourierError
from wardround_flare.exchange import open_locked

_HERE = "benchmarks.federation_averaging"


class Averaging(FedAvg):  # type: ignore[misc]
    """FLARE's workflow, which notes when a round has ended."""

    def __init__(self, parameters: int, rounds: int, clients: int) -> None:
        weights = {"weights": np.zeros(parameters, dtype=np.float32)}
        super().__init__(num_clients=clients, num_rounds=rounds, persistor_id="", model=weights)
        self._ended: list[float] = []

    def run(self) -> None:
        """Holds the lock by which `up` knows that its job runs, until the job is ended."""
        folder = Path(os.environ[SOCKETS])
        with open_locked(folder / "bridge.json") as file:
            sites = sorted(client.name for client in self.engine.get_clients())
            file.write(json.dumps({"pid": os.getpid(), "sites": sites}))
            file.flush()
            super().run()
            seconds = np.diff(self._ended).tolist()
            (folder / "averaging.tmp").write_text(json.dumps(seconds))
            (folder / "averaging.tmp").rename(folder / "averaging.json")
            while not self.abort_signal.triggered:
                time.sleep(0.5)

    def save_model(self, model: FLModel) -> None:
        """Ends a round, as FLARE does."""
        super().save_model(model)
        self._ended.append(time.perf_counter())


class Answering(Executor):  # type: ignore[misc]
    """A site that answers with a vector."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Returns what it was sent, plus one."""
        params = FLModelUtils.from_shareable(shareable).params
        changed = {name: value + np.float32(1) for name, value in params.items()}
        return FLModelUtils.to_shareable(FLModel(params=changed, params_type=ParamsType.FULL))


def main() -> None:
    kit, folder = map(Path, sys.argv[1:3])
    parameters, rounds, clients = map(int, sys.argv[3:])

    def write_job(job: Path, sites: list[str]) -> None:
        if len(sites) < clients:
            raise CourierError("not all sites are there yet")
        courier.write_job(job, sites)
        config = job / "app" / "config"
        arguments = {"parameters": parameters, "rounds": rounds, "clients": clients}
        _change(config / "config_fed_server.json", "workflows", {"path": f"{_HERE}.Averaging", "args": arguments})
        executor = {"path": f"{_HERE}.Answering", "args": {}}
        _change(config / "config_fed_client.json", "executors", {"tasks": ["train"], "executor": executor})

    vars(up)["write_job"] = write_job
    allowed = {"coordinator": f"{_HERE}.Averaging", "site": f"{_HERE}.Answering"}
    workspace.BRIDGE, workspace.FORWARD = allowed.values()
    workspace._ALLOWED = allowed
    if kit.name == "coordinator":
        up.up(kit, sockets=folder)
    else:
        up.up(kit, agent=folder / "none")


def _change(path: Path, part: str, changed: dict[str, Any]) -> None:
    document = json.loads(path.read_text())
    document[part][0].update(changed)
    path.write_text(json.dumps(document))


if __name__ == "__main__":
    main()
    os._exit(0)  # FLARE's session leaves threads that do not end
