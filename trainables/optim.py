"""AdamW for the rows of a stack: each row is its own trial, with its own rate, decay, clipping and step
count.

Loshchilov & Hutter 2019, algorithm 2, with Adam's bias correction (Kingma & Ba 2015, algorithm 1), in the
form and with the defaults of `torch.optim.AdamW`. A row whose gradient is not finite keeps its parameters,
moments and step.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["RowAdamW"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
CPU_BLOCK = 65_536  # numbers of all rows: five blocks of float32 stay in a core's cache (tests/bench/LOG.md)


class RowAdamW:
    """The optimiser of a stack's `rows` f[K, P]; all settings and state are one entry or one row a trial."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.first = torch.zeros_like(rows)  # running mean of the gradient
        self.second = torch.zeros_like(rows)  # running mean of its square
        self.steps = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)

    @torch.no_grad()
    def step(
        self, gradient: Tensor, *, lr: Tensor, weight_decay: Tensor, clip: Tensor, alive: Tensor
    ) -> Tensor:
        """Update every live row whose gradient is finite, in place; returns the gradient norms before
        clipping.

        Args:
            gradient: f[K, P], summed over members (each row is that member's own); overwritten.
            lr, weight_decay, clip: f64[K]; `clip` is the largest gradient norm, as in `clip_grad_norm_`.
            alive: bool[K], False for empty slots and for members whose loss is not finite.

        Returns:
            norms f[K]: not finite for a member that has diverged.
        """
        norms = torch.linalg.vector_norm(gradient, dim=1)
        moves = alive & torch.isfinite(norms)
        steps = torch.where(moves, self.steps + 1, self.steps)
        dtype = gradient.dtype
        scale = torch.clamp(clip / (norms.double() + 1e-6), max=1.0)
        # A row that does not move: gradient 0, no decay, moments kept. Chosen by `where`, for 0 * NaN is NaN.
        zero, one = torch.zeros_like(steps), torch.ones_like(steps)
        decay = torch.where(moves, 1 - lr * weight_decay, one)
        keep1 = torch.where(moves, BETA1 * one, one)
        keep2 = torch.where(moves, BETA2 * one, one)
        correction1 = torch.where(moves, 1 - BETA1**steps, one)
        correction2 = torch.where(moves, (1 - BETA2**steps).sqrt(), one)
        rate = torch.where(moves, lr / correction1, zero)
        columns = [x.to(dtype).unsqueeze(1) for x in (scale, decay, keep1, keep2, correction2, rate)]
        moves_column = moves.unsqueeze(1)
        on_cpu = gradient.device.type == "cpu"
        block = max(CPU_BLOCK // gradient.shape[0], 1024) if on_cpu else gradient.shape[1]
        for start in range(0, gradient.shape[1], block):
            span = slice(start, start + block)
            _update(
                self.rows[:, span],
                gradient[:, span],
                self.first[:, span],
                self.second[:, span],
                moves_column,
                *columns,
            )
        self.steps = steps
        return norms

    @torch.no_grad()
    def reset_row(self, slot: int) -> None:
        """Forget row `slot`'s moments and step."""
        self.first[slot].zero_()
        self.second[slot].zero_()
        self.steps[slot] = 0

    def read_row(self, slot: int) -> dict[str, Tensor]:
        """Row `slot`'s moments f[P] and step, copied to the CPU."""
        return {
            "first": self.first[slot].cpu().clone(),
            "second": self.second[slot].cpu().clone(),
            "step": self.steps[slot].cpu().clone(),
        }

    @torch.no_grad()
    def write_row(self, slot: int, state: dict[str, Tensor]) -> None:
        """Restore what `read_row` returned, in any slot."""
        self.first[slot].copy_(state["first"])
        self.second[slot].copy_(state["second"])
        self.steps[slot] = state["step"]


def _update(
    rows: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    moves: Tensor,
    scale: Tensor,
    decay: Tensor,
    keep1: Tensor,
    keep2: Tensor,
    correction2: Tensor,
    rate: Tensor,
) -> None:
    """One AdamW update of blocks f[K, b]; the row settings are f[K, 1]."""
    gradient = torch.where(
        moves, gradient * scale, torch.zeros((), dtype=gradient.dtype, device=gradient.device)
    )
    rows.mul_(decay)
    first.lerp_(gradient, 1 - keep1)
    second.mul_(keep2).addcmul_(gradient * (1 - keep2), gradient)
    rows.sub_(first.div(second.sqrt().div_(correction2).add_(EPSILON)).mul_(rate))
