"""A FedAvg job of `benchmarks.simulation` in Flower's simulation and in pfl-research, each as its makers recommend.

    python -m benchmarks.simulation_peers flower|pfl PATH.npz SETTINGS

Runs in whatever Python has the peer; needs torch and numpy, and nothing of Wardround. Prints one line of JSON. No
privacy, telemetry off, one processor for each of Flower's clients and all of them for pfl-research, as
`OMP_NUM_THREADS` says, pictures already decoded and in memory.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module, metadata
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.engine_networks import resnet18


def small_cnn() -> nn.Module:
    """Wardround's small_cnn at 64 pixels and one channel, two classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 4, 2), nn.GroupNorm(8, 16), nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1), nn.GroupNorm(8, 32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1), nn.GroupNorm(8, 32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16, 2),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {"small_cnn": small_cnn, "resnet18": lambda: resnet18((1, 64, 64))}
"""Wardround's networks of the jobs, by name: as many parameters, and the same layers in the same order."""


@cache
def pictures(path: str) -> dict[str, Tensor]:
    """Training and test pictures, labels, and the hospital of each training picture; read once a process."""
    with np.load(path) as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    for part in ("train", "test"):
        found[f"{part}_x"] = (found[f"{part}_x"].float() / 255 - 0.5) / 0.25
    return found


def accuracy(model: nn.Module, path: str) -> float:
    """Share of the test pictures that are classified correctly."""
    data = pictures(path)
    model.eval()
    with torch.no_grad():
        return float((model(data["test_x"]).argmax(1) == data["test_y"]).float().mean())


def flower(path: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The message API: a ClientApp, a ServerApp with its FedAvg, and `run_simulation`."""
    app = import_module("flwr.app")
    client = import_module("flwr.clientapp").ClientApp()
    server = import_module("flwr.serverapp").ServerApp()
    strategies = import_module("flwr.serverapp.strategy")
    run_simulation = import_module("flwr.simulation").run_simulation
    ends: list[float] = []
    final: dict[str, Any] = {}
    build = NETWORKS[settings["network"]]

    def train(message: Any, context: Any) -> Any:
        data = pictures(path)
        mine = data["hospital"] == int(context.node_config["partition-id"])
        inputs, labels = data["train_x"][mine], data["train_y"][mine]
        model = build()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        _local_epoch(model, inputs, labels, settings)
        content = {
            "arrays": app.ArrayRecord(model.state_dict()),
            "metrics": app.MetricRecord({"num-examples": len(inputs)}),
        }
        return app.Message(content=app.RecordDict(content), reply_to=message)

    def timed(records: Any, weighted_by: str) -> Any:
        ends.append(time.perf_counter())
        return app.MetricRecord()

    def main(grid: Any, context: Any) -> None:
        strategy = strategies.FedAvg(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=settings["hospitals"],
            min_available_nodes=settings["hospitals"], train_metrics_aggr_fn=timed,
        )  # fmt: skip
        torch.manual_seed(0)
        ends.append(time.perf_counter())
        initial = app.ArrayRecord(build().state_dict())
        result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=settings["rounds"])
        final.update(result.arrays.to_torch_state_dict())

    client.train()(train)
    server.main()(main)
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=settings["hospitals"],
        backend_config={
            "init_args": {"num_cpus": settings["cores"], "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    model = build()
    model.load_state_dict(final)
    return _answer("flwr", ends, model, path)


def pfl(path: str, settings: dict[str, Any]) -> dict[str, Any]:
    """pfl-research: every hospital a user of the cohort, in one process."""
    fed = import_module("pfl.algorithm.federated_averaging")
    base = import_module("pfl.algorithm.base")
    backends = import_module("pfl.aggregate.simulate")
    federated = import_module("pfl.data.federated_dataset")
    sampling = import_module("pfl.data.sampling")
    datasets = import_module("pfl.data.pytorch")
    hyper = import_module("pfl.hyperparam.base")
    models = import_module("pfl.model.pytorch")
    callbacks = import_module("pfl.callback.base")
    ends: list[float] = []

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = NETWORKS[settings["network"]]()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.body(x)
            return logits

        def loss(self, x: Tensor, y: Tensor, **_: Any) -> Tensor:
            return F.cross_entropy(self(x), y)

        def metrics(self, x: Tensor, y: Tensor, **_: Any) -> dict[str, Any]:
            return {}

    class Timed(callbacks.TrainingProcessCallback):  # type: ignore[misc, name-defined]  # known at run time only
        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Any]:
            ends.append(time.perf_counter())
            return False, import_module("pfl.metrics").Metrics()

    data = pictures(path)

    def dataset_of(user: int) -> Any:
        mine = data["hospital"] == user
        return datasets.PyTorchTensorDataset((data["train_x"][mine], data["train_y"][mine]), user_id=str(user))

    torch.manual_seed(0)
    network = WithLoss()
    model = models.PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    users = federated.FederatedDataset(
        dataset_of, sampling.MinimizeReuseUserSampler(list(range(settings["hospitals"])))
    )
    algorithm = fed.FederatedAveraging()
    ends.append(time.perf_counter())
    algorithm.run(
        base.NNAlgorithmParams(
            central_num_iterations=settings["rounds"], evaluation_frequency=settings["rounds"] + 1,
            train_cohort_size=settings["hospitals"], val_cohort_size=0,
        ),
        backends.SimulatedBackend(training_data=users, val_data=None),
        model,
        model_train_params=hyper.NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=settings["learning_rate"],
            local_batch_size=settings["batch"],
        ),
        callbacks=[Timed()],
    )  # fmt: skip
    return _answer("pfl", ends, network, path)


def _local_epoch(model: nn.Module, inputs: Tensor, labels: Tensor, settings: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), settings["learning_rate"], settings["momentum"])
    model.train()
    for batch in torch.split(torch.randperm(len(inputs)), settings["batch"]):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(inputs[batch]), labels[batch]))
        optimizer.step()


def _answer(package: str, ends: list[float], model: nn.Module, path: str) -> dict[str, Any]:
    return {
        "version": metadata.version(package),
        "rounds": [after - before for before, after in pairwise(ends)],
        "accuracy": accuracy(model, path),
    }


if __name__ == "__main__":
    peer, path, given = sys.argv[1:]
    this = import_module("benchmarks.simulation_peers")  # under its name, for the processes that peers start
    print(json.dumps(getattr(this, peer)(path, json.loads(given))))
