"""Muon for batches of matrices.

torch.optim.Muon takes only 2-D parameters, one by one; here the experts are 3-D, and matrices of
one shape are orthogonalised together, which on a CPU is most of the optimizer's time.
"""
# pyright: reportMissingImports=false
# (torch is an optional extra)

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz step (Keller Jordan)


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly; g: [N, rows, columns]."""
    a, b, c = COEFFICIENTS
    tall = g.shape[1] > g.shape[2]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; parameters are 2-D or 3-D (a batch of matrices)."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[tuple(p.shape[-2:])].append(p)
            for (rows, columns), params in shapes.items():
                updates = []
                for p in params:
                    state, gradient = self.state[p], p.grad
                    if gradient is None:
                        continue
                    if not state:
                        state["momentum"] = torch.zeros_like(p)
                    state["momentum"].lerp_(gradient, 1 - group["momentum"])
                    nesterov = gradient.lerp(state["momentum"], group["momentum"])
                    updates.append(nesterov.view(-1, rows, columns))
                update = orthogonalise(torch.cat(updates)) * max(1.0, rows / columns) ** 0.5
                for p, part in zip(params, update.split([len(u) for u in updates]), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(part.view(p.shape), alpha=group["lr"])
