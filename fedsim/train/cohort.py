"""The banks of one cohort as matrices: row k holds bank k's trainable values, flat, names in sorted order.

Banks of a smaller rank are padded with zeros to the cohort's largest rank. That is exact: where row i of A and column i
of B are both zero, both gradients are zero, so padding never moves; noise is drawn for the real entries only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.core.adapter import AdapterState, factor, flatten, pad, unflatten


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each trained tensor of padded shape lies in a row of P values."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> list[int]:
        return [torch.Size(shape).numel() for shape in self.shapes]

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def split(self, matrix: Tensor) -> dict[str, Tensor]:
        """(m, P) -> views of shape (m, *shape) by name."""
        parts = torch.split(matrix, self.sizes, dim=1)
        return {n: part.view(-1, *s) for n, part, s in zip(self.names, parts, self.shapes, strict=True)}


def cut_to_rank(name: str, tensor: Tensor, rank: int) -> Tensor:
    """The view of a padded tensor that belongs to a bank of this rank."""
    kind = factor(name)
    if kind == "A":
        return tensor[:rank]
    if kind == "B":
        return tensor[:, :rank]
    return tensor[:rank, :rank] if kind == "R" else tensor


class CohortState:
    """Parameters of a cohort during its local steps.

    ``params`` (banks, P) is trained; ``constant`` holds (banks, *shape) tensors that the method does not train.
    """

    def __init__(self, starts: Sequence[AdapterState], trained: Sequence[str], device: torch.device) -> None:
        self.ranks = [start.rank for start in starts]
        self.starts, self.device = list(starts), device
        self.rank = max(self.ranks)
        padded = [start.tensors if start.rank == self.rank else pad(start.tensors, self.rank) for start in starts]
        names = sorted(trained)
        self.layout = Layout(tuple(names), tuple(tuple(padded[0][name].shape) for name in names))
        rows = [flatten({name: tensors[name] for name in names}) for tensors in padded]
        self.params = torch.stack(rows).to(device)  # (banks, P)
        fixed = [name for name in padded[0] if name not in set(names)]
        self.constant = {name: torch.stack([tensors[name] for tensors in padded]).to(device) for name in fixed}
        self.scaling = torch.tensor([start.scaling for start in starts], device=device)

    def __len__(self) -> int:
        return len(self.ranks)

    def bank_views(self, matrix: Tensor, bank: int) -> dict[str, Tensor]:
        """One bank's slice of a (banks, P) matrix by name, at the bank's own rank; edits go through to the matrix."""
        views = self.layout.split(matrix[bank : bank + 1])
        return {name: cut_to_rank(name, view[0], self.ranks[bank]) for name, view in views.items()}

    def add_noise(self, grads: Tensor, bank: int, noise: Tensor) -> None:
        """Add a flat noise vector (in the bank's own layout) to row ``bank`` of ``grads``."""
        if self.ranks[bank] == self.rank:
            grads[bank] += noise.to(self.device)
            return
        views = self.bank_views(grads, bank)
        for name, part in unflatten(noise.to(self.device), views).items():
            views[name] += part

    def num_trained(self, bank: int) -> int:
        """Trainable values of one bank: what is clipped, noised and counted."""
        if self.ranks[bank] == self.rank:
            return self.layout.size
        return sum(view.numel() for view in self.bank_views(self.params, bank).values())

    def adapter(self, bank: int) -> AdapterState:
        """The bank's adapter as it stands, float32 on the CPU."""
        values = {name: view.detach().cpu().clone() for name, view in self.bank_views(self.params, bank).items()}
        return self.starts[bank].with_tensors(values)
