"""Vector quantisation with a codebook that gradients train, for use under `torch.func.vmap`.

    code     k = argmin over j of |z_e - e_j|^2                         van den Oord et al. 2017, eq. 1
    passed   z_e + sg[e_k - z_e]: e_k forwards, z_e's gradient backwards                      section 3.1
    losses   |sg[z_e] - e_k|^2 moves the code, |z_e - sg[e_k]|^2 the encoder                        eq. 3

The codebook is a parameter and not a moving average (the paper's appendix A.1): an average needs counts and
sums that are no parameters, and a stack holds no state but parameters. That also leaves no division by a
count near 0, which is how averaged codebooks explode. Codes that die are restarted between epochs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Quantised", "codebook_distance", "commitment_distance", "new_codebook", "perplexity"]
__all__ += ["quantise", "restarted"]


class Quantised(NamedTuple):
    """`codes` i64[...]; `chosen` f[..., D], the codes' vectors, whose gradient reaches the codebook alone;
    `passed` f[..., D], equal to them, whose gradient reaches the encoder alone.
    """

    codes: Tensor
    chosen: Tensor
    passed: Tensor


def new_codebook(num_codes: int, dim: int) -> nn.Parameter:
    """f[C, D], uniform within 1 / C of 0: no code begins far from where encoders begin."""
    return nn.Parameter(torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes))


def quantise(latent: Tensor, codebook: Tensor) -> Quantised:
    """The nearest code of every vector; of equally near ones the first.

    Args:
        latent: z_e, f[..., D], finite.
        codebook: e, f[C, D], finite.

    Source: van den Oord et al. 2017, "Neural discrete representation learning", eq. 1 and section 3.1.
    """
    # |z|^2 is the same for every code and left out.
    with torch.no_grad():
        codes = (latent @ codebook.mT).sub_(codebook.square().sum(-1) / 2).argmax(-1)
    # A product with one-hot rows, for the gradient of indexing adds in no fixed order on a GPU.
    one_hot = codes.unsqueeze(-1) == torch.arange(codebook.shape[0], device=codebook.device)
    chosen = one_hot.to(codebook.dtype) @ codebook
    return Quantised(codes, chosen, latent + (chosen - latent).detach())


def commitment_distance(latent: Tensor, chosen: Tensor) -> Tensor:
    """|z_e - sg[e]|^2 summed over the last axis, f[...]: draws encoders to their codes (eq. 3, end)."""
    return (latent - chosen.detach()).square().sum(-1)


def codebook_distance(latent: Tensor, chosen: Tensor) -> Tensor:
    """|sg[z_e] - e|^2 summed over the last axis, f[...]: draws codes to the encoder (eq. 3, second term)."""
    return (latent.detach() - chosen).square().sum(-1)


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of how codes are used, in [1, C]: the number of codes in even use. Outside of vmap.

    Args:
        counts: uses of each code, [C], not all 0.
    """
    shares = counts.double() / counts.sum()
    return float(torch.special.entr(shares).sum().exp())


def restarted(
    counts: Tensor, latents: Tensor, source: torch.Generator, *, below: float
) -> tuple[Tensor, Tensor]:
    """Which codes are dead, and encoder outputs to take their place. Outside of vmap; the rule is ours.

    Args:
        counts: uses of each code in an epoch, [C].
        latents: encoder outputs of that epoch, f[N, D], N >= 1, in an order that does not depend on workers.
        source: CPU generator that draws the replacements, each latent once before any is drawn again.
        below: a code is dead when its share of all uses is less than this part of an even share, 1 / C.

    Returns:
        bool[C], and f[C, D] of which the rows of living codes are to be ignored.
    """
    num_codes = len(counts)
    dead = counts.double() * num_codes < below * counts.sum()
    drawn = torch.randperm(len(latents), generator=source).to(latents.device)
    turn = (dead.long().cumsum(0) - 1).clamp(min=0) % len(latents)
    return dead, latents[drawn[turn]]
