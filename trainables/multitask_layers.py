"""What the network of multitask is made of: hidden layers, and the pooling of masked views."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.layers import Dense

__all__ = ["POOLINGS", "hidden", "pool_views"]

POOLINGS = ("mean", "max", "attention")


def hidden(inputs: int, width: int) -> list[nn.Module]:
    """One hidden layer, f[..., inputs] -> f[..., width]."""
    return [Dense(inputs, width), nn.LayerNorm(width), nn.SiLU()]


def pool_views(views: Tensor, mask: Tensor, pooling: str, score: Tensor | None = None) -> Tensor:
    """f[B, V, W] of which bool[B, V] are there -> f[B, W]; zeros, with a gradient of zero, where none is.

    pooling: one of `POOLINGS`; attention: the mean in shares softmax(views @ score), score f[W].
    """
    there = mask.unsqueeze(-1)
    least = torch.finfo(views.dtype).min  # not -inf, of which a row without views would make NaN
    if pooling == "max":
        highest = torch.where(there, views, torch.full_like(views, least)).amax(-2)
        return torch.where(mask.any(-1, keepdim=True), highest, torch.zeros_like(highest))
    if pooling == "attention":
        scores = (views @ score).unsqueeze(-1)
        shares = torch.where(there, scores, torch.full_like(scores, least)).softmax(-2)
    else:
        shares = 1 / there.to(views.dtype).sum(-2, keepdim=True).clamp(min=1)
    return (torch.where(there, views, torch.zeros_like(views)) * shares).sum(-2)
