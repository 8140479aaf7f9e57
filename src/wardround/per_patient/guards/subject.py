"""A network under study, and the made-up pictures on which it is run before it is trusted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wardround.per_patient.batch import Loss, PatientBatch, losses_of
from wardround.per_patient.guards.draws import Draws, drawing, made_up_keys
from wardround.per_patient.layout import Layout
from wardround.per_patient.slow_path import gradients_of


class Alone(NamedTuple):
    """Findings about one made-up picture in a batch of its own."""

    loss: Tensor
    output: Tensor | None
    """None where the network returns several tensors."""
    gradient: list[Tensor | None]
    """One for each trained parameter, None where the loss does not depend on it."""
    has_drawn: bool


@dataclass(frozen=True)
class Subject:
    """A network with its trained parameters, its loss, and examples whose shapes made-up pictures and labels take."""

    model: nn.Module
    layout: Layout
    loss: Loss
    inputs: Tensor
    labels: Tensor

    def made_up(self, size: int, only: int | None = None) -> PatientBatch:
        """Returns pictures of noise, one each patient; integers are the example's in another order; or `only` one."""
        generator = torch.Generator().manual_seed(size)  # on the processor, wherever the pictures are
        targets = self.labels[:1].expand(size, *self.labels.shape[1:])
        shape, device = self.inputs.shape[1:], self.inputs.device
        if self.inputs.is_floating_point():
            pictures = torch.randn((size, *shape), dtype=self.inputs.dtype, generator=generator).to(device)
        else:
            values = self.inputs[0].reshape(-1)
            orders = [torch.randperm(len(values), generator=generator).to(device) for _ in range(size)]
            pictures = torch.stack([values[order].view(shape) for order in orders])
        if only is not None:
            return PatientBatch(pictures[only : only + 1], targets[:1], torch.zeros(1, dtype=torch.int64), 1)
        return PatientBatch(pictures, targets, torch.arange(size, device=device), size)

    @contextmanager
    def drawing(self, places: Sequence[int]) -> Iterator[Draws]:
        """Keys draws by the number of each made-up picture of a batch."""
        keys = made_up_keys(max(places) + 1)
        with drawing([keys[place] for place in places], self.layout.device) as mode:
            assert isinstance(mode, Draws), "keys were given"
            yield mode

    def losses(self, batch: PatientBatch) -> Tensor:
        """Returns the loss of each picture, (picture,)."""
        return losses_of(self.loss, self.model(batch.inputs), batch.labels, len(batch.inputs))

    def alone(self, size: int, place: int) -> Alone:
        """Runs picture `place` of `size` made-up ones in a batch of its own."""
        trained, one = list(self.layout.parameters.values()), self.made_up(size, place)
        with torch.enable_grad(), self.drawing([place]) as mode:
            output = self.model(one.inputs)
            loss = losses_of(self.loss, output, one.labels, 1)[0]
            kept = output.detach() if isinstance(output, Tensor) and output.is_floating_point() else None
            return Alone(loss.detach(), kept, gradients_of(loss, trained), mode.count > 0)
