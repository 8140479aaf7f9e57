"""Plain training, prediction and weights in one row: what every published loop is made of. Nothing is clipped."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from wardround.types import Labels, Pictures, Scores

_AT_ONCE = 256


@dataclass(frozen=True)
class Labelled:
    """Some pictures as torch sees them: uint8 (picture, channel, height, width), and their classes."""

    pictures: Tensor
    labels: Tensor

    @classmethod
    def of(cls, pictures: Pictures, labels: Labels) -> "Labelled":
        """From arrays; the pictures are copied."""
        return cls(torch.from_numpy(np.array(pictures)), torch.from_numpy(np.array(labels)))

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.labels)

    def some(self, chosen: Tensor) -> "Labelled":
        """Those at some positions."""
        return Labelled(self.pictures[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Steps:
    """The steps of a loop: passes over all pictures, pictures in a step, and the optimizer, "sgd" or "adam"."""

    epochs: int
    batch: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer: str = "sgd"

    @classmethod
    def from_json(cls, settings: Mapping[str, object]) -> "Steps":
        """From settings that hold its fields, among others."""
        return cls(**{field.name: settings[field.name] for field in fields(cls) if field.name in settings})  # type: ignore[arg-type]


def weights_of(model: nn.Module) -> Tensor:
    """A copy of the trained parameters in one row."""
    return parameters_to_vector(trained(model)).detach()


def put_weights(model: nn.Module, weights: Tensor) -> None:
    """Writes a row of numbers into the trained parameters."""
    vector_to_parameters(weights.clone(), trained(model))  # parameters become views of what they are given


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def optimizer_of(parameters: list[nn.Parameter], steps: Steps) -> torch.optim.Optimizer:
    """A new optimizer from rest."""
    if steps.optimizer == "adam":
        return torch.optim.Adam(parameters, steps.learning_rate, weight_decay=steps.weight_decay)
    return torch.optim.SGD(parameters, steps.learning_rate, steps.momentum, weight_decay=steps.weight_decay)


def train(model: nn.Module, data: Labelled, steps: Steps, generator: torch.Generator) -> None:
    """Shuffled batches, cross-entropy, no clipping, no noise; the model is changed in place."""
    model.train()
    optimizer = optimizer_of(trained(model), steps)
    with drawing(generator):
        for batch in batches(data, steps, generator):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch.pictures), batch.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def batches(data: Labelled, steps: Steps, generator: torch.Generator) -> Iterator[Labelled]:
    """Every picture once an epoch, in a new order each time; the last batch may be smaller."""
    for _ in range(steps.epochs):
        order = torch.randperm(len(data), generator=generator)
        for start in range(0, len(data), steps.batch):
            yield data.some(order[start : start + steps.batch])


def record_gradients(model: nn.Module, data: Labelled, generator: torch.Generator) -> Tensor:
    """One gradient a record, (record, parameter), one backward pass each."""
    parameters = trained(model)
    model.train()
    rows = []
    with drawing(generator):
        for at in range(len(data)):
            loss = nn.functional.cross_entropy(model(data.pictures[at : at + 1]), data.labels[at : at + 1])
            rows.append(torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)]))
    return torch.stack(rows) if rows else torch.zeros(0, sum(p.numel() for p in parameters))


def predict(model: nn.Module, pictures: Tensor) -> Scores:
    """Class probabilities, (picture, class); not finite logits count as no opinion."""
    model.eval()
    with torch.no_grad():
        parts = [model(pictures[at : at + _AT_ONCE]).to(torch.float64) for at in range(0, len(pictures), _AT_ONCE)]
    logits = torch.nan_to_num(torch.cat(parts), nan=0.0, posinf=1e300, neginf=-1e300)
    scores: Scores = torch.softmax(logits, dim=1).numpy()
    return scores


@contextmanager
def drawing(generator: torch.Generator) -> Iterator[None]:
    """Dropout draws from this generator within the block, and leaves torch's own as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        yield
