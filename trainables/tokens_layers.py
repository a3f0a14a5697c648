"""What the network of tokens is made of: layers with and without messages, heads and masked means."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.family import Batch
from trainables.layers import Dense

__all__ = ["MessageRound", "TokenLayer", "decoder", "head", "real_tokens", "token_mean"]


class TokenLayer(nn.Module):
    """h f[B, T, W] -> f[B, T, W], each token by itself; a residual layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(Dense(width, width), nn.LayerNorm(width), nn.SiLU())

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        return hidden + self.inner(hidden)


class MessageRound(nn.Module):
    """One round on the complete graph of an event's tokens: each hears the mean of the others' messages.

    h_i <- h_i + f(h_i, mean over real j != i of m(h_j)), 0 for a token alone; Hamilton et al. 2017, alg. 1,
    with the mean aggregator. Padding sends nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message = nn.Sequential(Dense(width, width), nn.SiLU())
        self.inner = nn.Sequential(Dense(2 * width, width), nn.LayerNorm(width), nn.SiLU())

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        sent = self.message(hidden) * real.unsqueeze(-1)
        others = (real.sum(-1)[:, None] - real).clamp(min=1).unsqueeze(-1)
        heard = (sent.sum(-2, keepdim=True) - sent) / others
        return hidden + self.inner(torch.cat([hidden, heard], -1))


def decoder(inputs: int, width: int, outputs: int) -> nn.Module:
    """Latents f[..., inputs] -> f[..., outputs]."""
    return nn.Sequential(
        Dense(inputs, width),
        nn.LayerNorm(width),
        nn.SiLU(),
        Dense(width, width),
        nn.SiLU(),
        Dense(width, outputs),
    )


def head(inputs: int, width: int, outputs: int) -> nn.Module:
    """Pooled latents f[..., inputs] -> f[..., outputs]."""
    return nn.Sequential(
        Dense(inputs, width), nn.SiLU(), Dense(width, width), nn.SiLU(), Dense(width, outputs)
    )


def real_tokens(batch: Batch) -> Tensor:
    """1 for tokens and 0 for padding, f[B, T]."""
    return (batch["types"] >= 0).to(batch["features"].dtype)


def token_mean(values: Tensor, real: Tensor) -> Tensor:
    """Mean of `values` f[B, T, D] over an event's tokens, f[B, D]."""
    return (values * real.unsqueeze(-1)).sum(-2) / real.sum(-1, keepdim=True)
