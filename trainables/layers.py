"""Layers whose gradients are cheap in a stack."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Dense"]


class Dense(nn.Module):
    """x W + b: `nn.Linear` with its weight the other way round, [inputs, outputs], and its initialisation.

    Under vmap `nn.Linear` computes the gradient of the transposed weight, and copies it to turn it back: a
    sixth of a training step of beta_vae (tests/bench/LOG.md).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """f[..., inputs] -> f[..., outputs]."""
        return (x @ self.weight).add_(self.bias)  # in place: the product is needed nowhere else
