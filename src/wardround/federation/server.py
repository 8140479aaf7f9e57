"""The server's step along the mean of the hospitals' updates. It reads nothing else, so it costs no epsilon.

Source: Reddi et al. 2020, Algorithm 2, https://arxiv.org/abs/2003.00295. `momentum` with beta 0 and rate 1 is plain
averaging.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wardround.federation.strategy import State
from wardround.types import Vector


@dataclass(frozen=True)
class ServerOptimizer:
    """A first-order step of the server, its state named arrays.

    Attributes:
        kind: `momentum` is heavy ball, `adam` and `yogi` scale each parameter by its own history.
        learning_rate: of the server.
        beta: of the first moment.
        beta2: of the second moment.
        epsilon: added to the root of the second moment ("tau" in the source).
    """

    kind: Literal["momentum", "adam", "yogi"] = "momentum"
    learning_rate: float = 1.0
    beta: float = 0.0
    beta2: float = 0.99
    epsilon: float = 1e-3

    def init(self, weights: Vector) -> State:
        """Returns the state at rest."""
        state = {"first_moment": np.zeros_like(weights)}
        if self.kind != "momentum":
            state["second_moment"] = np.full_like(weights, self.epsilon**2)
        return state

    def step(self, state: State, weights: Vector, update: Vector) -> tuple[Vector, State]:
        """Returns the weights after a step along `update`, and the state after it.

        Args:
            state: from `init` or an earlier step.
            weights: before the step, (parameter,).
            update: where to go: minus a gradient, or the mean of local updates, (parameter,).
        """
        beta, beta2, rate = np.float32(self.beta), np.float32(self.beta2), np.float32(self.learning_rate)
        if self.kind == "momentum":
            first = beta * state["first_moment"] + update
            return weights + rate * first, {"first_moment": first}
        first = beta * state["first_moment"] + (1 - beta) * update
        second, square = state["second_moment"], update * update
        if self.kind == "adam":
            second = beta2 * second + (1 - beta2) * square
        else:
            second = second - (1 - beta2) * square * np.sign(second - square)
        scale = np.sqrt(second, dtype=np.float32) + np.float32(self.epsilon)
        return weights + rate * first / scale, {"first_moment": first, "second_moment": second}


def own_part(state: State) -> State:
    """Returns the server optimizer's arrays of a strategy's state."""
    return {name: array for name, array in state.items() if name in ("first_moment", "second_moment")}
