"""Strategies of local steps as a study file has them, and a plan without privacy."""

LOCAL: dict[str, dict[str, object]] = {
    "fedavg": {"strategy": "fedavg", "local_steps": 2},
    "fraction": {"strategy": "fedavg", "local_steps": 2, "fraction": 0.6},
    "server adam": {"strategy": "fedavg", "server_optimizer": "adam", "server_learning_rate": 0.1},
    "weighted hospitals": {"strategy": "fedavg", "hospital_weights": [1.0, 2.0, 3.0]},
    "fedprox": {"strategy": "fedprox", "local_steps": 2, "optimizer_state": "travels"},
    "scaffold": {"strategy": "scaffold", "local_steps": 2},
    "round-robin": {"strategy": "round-robin", "local_steps": 2, "optimizer_state": "travels"},
    "cycles": {"strategy": "random-order", "cycles": 2, "rounds": None},
    "single-pass": {"strategy": "single-pass", "local_steps": 2, "rounds": None},
    "proportional": {"strategy": "random-order", "local_steps": 3, "repair": "proportional"},
    "weighted-loss": {"strategy": "round-robin", "repair": "weighted-loss"},
    "weighted-sampling": {"strategy": "fedavg", "repair": "weighted-sampling"},
    "stochastic": {"strategy": "stochastic", "local_steps": 2},
    "asynchronous": {"strategy": "asynchronous", "local_steps": 2, "staleness": 1},
    "selective": {"strategy": "selective", "local_steps": 2, "turns": "random", "selection": "random"},
}
NOT_PRIVATE = {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}
