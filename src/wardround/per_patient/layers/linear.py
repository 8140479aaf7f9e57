"""Linear layers, on any number of middle axes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.per_patient.layers.base import (
    LARGE_WEIGHT,
    Fold,
    Weighted,
    product,
    squared,
)
from wardround.per_patient.layers.products import onednn_product, products, takes_onednn


@dataclass
class Linear(Weighted):
    """Product x W^T + b, on any number of middle axes; `columns` says that W is stored transposed (x @ W)."""

    bias: Tensor | None
    trains: tuple[bool, bool]
    columns: bool = False

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        (x,) = inputs
        weight = self.weight.t() if self.columns else self.weight
        if torch.is_autocast_enabled(x.device.type):
            y = F.linear(x, weight, self.bias)
            return (y if x.ndim == 2 else y.clone()), (x,)
        # F.linear would return a view of a flat product, and a view may not be changed in place afterwards.
        rows = x.reshape(-1, x.shape[-1])
        if takes_onednn(x, *rows.shape, weight.shape[0]):
            return onednn_product(rows, weight, self.bias).resize_(*x.shape[:-1], weight.shape[0]), (x,)
        if x.ndim == 2:
            return F.linear(x, weight, self.bias), inputs
        y = x.new_empty(*x.shape[:-1], weight.shape[0])
        flat = y.view(-1, weight.shape[0])
        if self.bias is None:
            torch.mm(rows, weight.t(), out=flat)
        else:
            torch.addmm(self.bias, rows, weight.t(), out=flat)
        return y, (x,)

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        weight = (self.weight.t() if self.columns else self.weight).to(g.dtype)
        rows = g.reshape(-1, g.shape[-1])
        if takes_onednn(g, *rows.shape, weight.shape[1]):
            return (onednn_product(rows, weight.t()).view(*g.shape[:-1], weight.shape[1]),)
        return (g @ weight,)

    def _tokens(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns output gradient and input, (picture, token, feature), swapped if the weight is stored transposed."""
        g3, x3 = g.reshape(g.shape[0], -1, g.shape[-1]), x.reshape(x.shape[0], -1, x.shape[-1])
        return (x3, g3) if self.columns else (g3, x3)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        rows, columns = self._tokens(g, saved[0])
        out = []
        if self.trains[0]:
            out.append(products(rows.transpose(1, 2), columns, self.weight.shape, fold))
        return out + ([fold(g.reshape(g.shape[0], -1, g.shape[-1]).sum(1))] if self.trains[1] else [])

    def prefers_norms(self, g: Tensor, saved: Sequence[Tensor], *, single: bool) -> bool:
        """See `Use`: a Gram matrix of T tokens against a gradient of rows x columns entries."""
        tokens = g.numel() // max(1, g.shape[0] * g.shape[-1])
        if not self.trains[0]:
            return False
        if not single:
            return tokens == 1 and self.weight.numel() >= LARGE_WEIGHT
        return tokens == 1 or 2 * tokens * (g.shape[-1] + saved[0].shape[-1]) < self.weight.numel()

    def squared_norms(self, g: Tensor, saved: Sequence[Tensor], patient: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Use`: |sum_t g_t x_t^T|^2 = sum_{t,u} (g_t . g_u)(x_t . x_u)."""
        if patient is not None:
            return self._norms_of_several(g, saved[0], patient)
        rows, columns = self._tokens(g, saved[0])
        terms = product(squared(rows), squared(columns), rows, columns)
        norms = terms
        if rows.shape[1] > 1:
            gram = torch.bmm(rows, rows.transpose(1, 2)) * torch.bmm(columns, columns.transpose(1, 2))
            norms = gram.sum((1, 2), dtype=torch.float64).clamp(min=0)
        if self.trains[1]:
            each = g.reshape(g.shape[0], -1, g.shape[-1])
            norms, terms = norms + squared(each.sum(1)), terms + each.shape[1] * squared(each)
        return norms, terms

    def _norms_of_several(self, g: Tensor, x: Tensor, patient: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the norms of `squared_norms` with a patient's pictures in the place of tokens, one a picture.

        Products are in float64, so that only the sum is left to rounding. Those of two patients are selected away: a
        factor of zero would turn an infinite one into NaN.
        """
        g, x = (each.reshape(len(each), -1).to(torch.float64) for each in (g, x))
        gram, other = g @ g.t(), x @ x.t()
        lengths, others = gram.diagonal().sqrt(), other.diagonal().sqrt()
        if self.trains[1]:
            other, others = other + 1.0, (other.diagonal() + 1.0).sqrt()
        lengths = lengths * others
        together = patient[:, None] == patient
        norms, terms = (
            torch.where(together, pairs, 0.0).sum(1) for pairs in (gram * other, torch.outer(lengths, lengths))
        )
        return norms, terms

    def add_weighted_sum(self, g: Tensor, saved: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """See `Use`."""
        rows, columns = self._tokens(g, saved[0])
        if self.trains[0]:
            into[0].addmm_(rows.flatten(0, 1).t(), columns.flatten(0, 1))
        if self.trains[1]:
            into[-1].add_(g.reshape(-1, g.shape[-1]).sum(0))
