"""AdamW for the rows of a stack: each row is its own trial, with its own rate, decay, clipping and step
count.

Loshchilov & Hutter 2019, algorithm 2, with Adam's bias correction (Kingma & Ba 2015, algorithm 1), in the
form and with the defaults of `torch.optim.AdamW`. A row whose gradient is not finite keeps its parameters,
moments and step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["RowAdamW"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class RowAdamW:
    """The optimiser of a stack's `rows` f[K, P]; all settings and state are one entry or one row a trial.

    `row_by_row`: torch's fused AdamW on one row after the other, on a CPU a fifth of the time of all rows at
    once (tests/bench/LOG.md); on a GPU the rows go at once, and nothing there waits for their numbers.
    """

    def __init__(self, rows: Tensor, row_by_row: bool | None = None) -> None:
        self.rows = rows
        self.row_by_row = rows.device.type == "cpu" if row_by_row is None else row_by_row
        self.first = torch.zeros_like(rows)  # running mean of the gradient
        self.second = torch.zeros_like(rows)  # running mean of its square
        self.steps = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)

    @torch.no_grad()
    def step(
        self, gradient: Tensor, *, lr: Tensor, weight_decay: Tensor, clip: Tensor, alive: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update every live row whose gradient is finite, in place.

        Args:
            gradient: f[K, P], summed over members (each row is that member's own); overwritten.
            lr, weight_decay, clip: f64[K]; `clip` is the largest gradient norm, as in `clip_grad_norm_`.
            alive: bool[K], False for empty slots and for members whose loss is not finite.

        Returns:
            the gradient norms before clipping, f[K]: not finite for a member that has diverged; and bool[K],
            the rows that were updated.
        """
        norms = torch.linalg.vector_norm(gradient, dim=1)
        moves = alive & torch.isfinite(norms)
        scale = torch.clamp(clip / (norms.double() + 1e-6), max=1.0)
        if self.row_by_row:
            self._step_row_by_row(gradient, moves, scale, lr, weight_decay)
        else:
            self._step_at_once(gradient, moves, scale, lr, weight_decay)
        return norms, moves

    def _step_row_by_row(
        self, gradient: Tensor, moves: Tensor, scale: Tensor, lr: Tensor, weight_decay: Tensor
    ) -> None:
        numbers = zip(moves.tolist(), scale.tolist(), lr.tolist(), weight_decay.tolist(), strict=True)
        for row, (move, factor, rate, decay) in enumerate(numbers):
            if not move:
                continue
            if factor < 1:
                gradient[row].mul_(factor)
            step = self.steps[row].to(torch.float32, copy=True)
            adamw(
                [self.rows[row]],
                [gradient[row]],
                [self.first[row]],
                [self.second[row]],
                [],
                [step],
                fused=True,
                amsgrad=False,
                beta1=BETA1,
                beta2=BETA2,
                lr=rate,
                weight_decay=decay,
                eps=EPSILON,
                maximize=False,
            )
            self.steps[row] += 1

    def _step_at_once(
        self, gradient: Tensor, moves: Tensor, scale: Tensor, lr: Tensor, weight_decay: Tensor
    ) -> None:
        steps = torch.where(moves, self.steps + 1, self.steps)
        dtype = gradient.dtype
        # A row that does not move: gradient 0, no decay, moments kept. Chosen by `where`, for 0 * NaN is NaN.
        zero, one = torch.zeros_like(steps), torch.ones_like(steps)
        decay = torch.where(moves, 1 - lr * weight_decay, one)
        keep1 = torch.where(moves, BETA1 * one, one)
        keep2 = torch.where(moves, BETA2 * one, one)
        correction1 = torch.where(moves, 1 - BETA1**steps, one)
        correction2 = torch.where(moves, (1 - BETA2**steps).sqrt(), one)
        rate = torch.where(moves, lr / correction1, zero)
        columns = [x.to(dtype).unsqueeze(1) for x in (scale, decay, keep1, keep2, correction2, rate)]
        _update(self.rows, gradient, self.first, self.second, moves.unsqueeze(1), *columns)
        self.steps = steps

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
    """One AdamW update of all rows f[K, P]; the row settings are f[K, 1]."""
    gradient = torch.where(
        moves, gradient * scale, torch.zeros((), dtype=gradient.dtype, device=gradient.device)
    )
    rows.mul_(decay)
    first.lerp_(gradient, 1 - keep1)
    second.mul_(keep2).addcmul_(gradient * (1 - keep2), gradient)
    rows.sub_(first.div(second.sqrt().div_(correction2).add_(EPSILON)).mul_(rate))
