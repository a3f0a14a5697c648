"""Discrete messages with a gradient: the Gumbel-softmax, its noise passed in, and a speaker that uses it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.layers import Dense

__all__ = ["Speaker", "chosen", "gumbel_softmax"]


def gumbel_softmax(
    logits: Tensor, uniform: Tensor, *, temperature: float | Tensor, straight_through: bool
) -> Tensor:
    """A random symbol from each distribution, or a relaxed one, with a gradient for the logits.

        y = softmax((logits + g) / temperature),    g = -log(-log u),  u uniform

    The largest entry of y is a sample of softmax(logits), whatever the temperature. Straight-through, the
    value is that symbol, one-hot, and the gradient that of y: what reads the symbols never sees a mixture.
    Otherwise the value is y itself.

    Args:
        logits: f[..., V], finite.
        uniform: u, f[..., V] in [0, 1).
        temperature: > 0; a number or a scalar tensor. The lower, the nearer y is to one-hot, and the larger
            the variance of its gradient.
        straight_through: one-hot values instead of y.

    Returns:
        f[..., V], >= 0, with sum 1.

    Source: Jang et al. 2017, "Categorical reparameterization with Gumbel-softmax", eq. 2 and section 2.2, the
    second for straight-through; Maddison et al. 2017, "The concrete distribution", for the relaxed form.
    """
    # At u = 0 and, rounded to float32, at u = 1 a logarithm is infinite; ties of infinities make NaN.
    tiny, below_one = torch.finfo(uniform.dtype).tiny, 1 - torch.finfo(torch.float32).eps / 2
    gumbel = -(-uniform.clamp(tiny, below_one).log()).log()
    soft = ((logits + gumbel) / temperature).softmax(-1)
    # In this order the value is exactly 0 or 1: the difference is exactly 0.
    return chosen(soft) + (soft - soft.detach()) if straight_through else soft


def chosen(scores: Tensor) -> Tensor:
    """One-hot vectors of the largest of f[..., V], without gradient; of equals the first."""
    symbols = torch.arange(scores.shape[-1], device=scores.device)
    return (symbols == scores.argmax(-1, keepdim=True)).to(scores.dtype)


class Speaker(nn.Module):
    """Says L symbols one after the other: a gated recurrent unit (Cho et al. 2014) that hears each symbol.

    forward: features f[B, W], uniform noise f[B, L, V] or None -> message f[B, L, V], one-hot or relaxed.
    """

    def __init__(self, width: int, vocab: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.start = nn.Parameter(torch.zeros(vocab))
        self.gates = Dense(vocab + width, 2 * width)
        self.proposal = Dense(vocab + width, width)
        self.symbol = Dense(width, vocab)

    def forward(
        self, features: Tensor, uniform: Tensor | None, temperature: Tensor, straight_through: bool
    ) -> Tensor:
        state, heard, said = features, self.start.expand(len(features), -1), []
        for place in range(self.length):
            keep, recall = self.gates(torch.cat([heard, state], -1)).sigmoid().chunk(2, -1)
            proposal = self.proposal(torch.cat([heard, recall * state], -1)).tanh()
            state = keep * state + (1 - keep) * proposal
            logits = self.symbol(state)
            if uniform is None:
                heard = chosen(logits)
            else:
                heard = gumbel_softmax(
                    logits, uniform[:, place], temperature=temperature, straight_through=straight_through
                )
            said.append(heard)
        return torch.stack(said, 1)
