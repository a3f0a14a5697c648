"""What the network of panels is made of: an image encoder, the fusion of modalities, and masks of panels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainables.contrastive import FAR
from trainables.family import Batch
from trainables.layers import Dense

__all__ = ["fuse", "has_both", "image_encoder", "is_paired", "is_shown", "others_mean", "picked"]

PATCH, MERGES = 4, 2  # pixels of a patch's side; each merge joins 2 x 2 patches


class Patches(nn.Module):
    """f[..., H, W, C] -> f[..., H / side, W / side, side^2 C]: what a convolution with that stride sees."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        parts = image.unflatten(-2, (-1, self.side)).unflatten(-4, (-1, self.side))
        return parts.movedim(-4, -3).flatten(-3)


def image_encoder(side: int, width: int, dim: int) -> nn.Module:
    """Image f[..., S, S, 3] -> features f[..., E]: three convolutions of stride = kernel, then all places."""
    layers: list[nn.Module] = []
    channels = 3
    for number in range(MERGES + 1):
        patch, wider = (2 if number else PATCH), max(4, width // 2 ** (MERGES - number))
        layers += [Patches(patch), Dense(patch**2 * channels, wider), nn.LayerNorm(wider), nn.SiLU()]
        channels = wider
    places = (side // (PATCH * 2**MERGES)) ** 2
    return nn.Sequential(*layers, nn.Flatten(-3), Dense(places * channels, dim))


def fuse(parts: Tensor, there: Tensor, gate: nn.Module, mix: nn.Module) -> tuple[Tensor, Tensor]:
    """Modalities M of a panel as one embedding of length 1: mixed by the gate, plus their mean.

    Args:
        parts: f[B, P, M, E], of which bool[B, P, M] are `there`, one or more a panel.
        gate: f[..., M E] -> logits f[..., M or more], those beyond M ignored. mix: f[..., E] -> f[..., E].
    Returns:
        f[B, P, E] and the gate's weights f[B, P, M], 0 for what is absent.
    """
    present = torch.where(there.unsqueeze(-1), parts, torch.zeros_like(parts))
    logits = gate(present.flatten(-2))[..., : there.shape[-1]]
    weights = torch.where(there, logits, FAR).softmax(-1)
    residual = present.sum(-2) / there.sum(-1, keepdim=True)
    mixed = mix((weights.unsqueeze(-1) * present).sum(-2))
    return normalize(mixed + residual, dim=-1), weights


def others_mean(fused: Tensor, shown: Tensor) -> Tensor:
    """For each panel the mean of the others shown on its page, f[B, P, E]; 0 where there are none."""
    kept = torch.where(shown.unsqueeze(-1), fused, torch.zeros_like(fused))
    others = kept.sum(-2, keepdim=True) - kept
    number = (shown.sum(-1, keepdim=True) - shown.long()).clamp(min=1)
    return others / number.unsqueeze(-1)


def picked(shown: Tensor, uniform: Tensor | None) -> Tensor:
    """How much each panel of a page counts, [B, P]: the one that noise f[B] in [0, 1) picks among those shown
    alone, or without noise all of them alike.
    """
    number = shown.sum(-1, keepdim=True).clamp(min=1)
    if uniform is None:
        return shown / number
    # The k-th of those shown; noise is at most 1 - 2^-24, which times n stays below n in float32 too.
    place = (uniform.unsqueeze(-1) * number).long()
    return shown & (shown.cumsum(-1) - 1 == place)


def is_shown(batch: Batch) -> Tensor:
    """bool[B, P]: the panels that have something to show, an image or a text."""
    return batch["panel_mask"] & (batch["has_image"] | batch["has_text"])


def has_both(batch: Batch) -> Tensor:
    """bool[B, P]: those that have both."""
    return is_shown(batch) & batch["has_image"] & batch["has_text"]


def is_paired(shown: Tensor) -> Tensor:
    """bool[B, P]: the shown panels with another on their page."""
    return shown & (shown.sum(-1, keepdim=True) > 1)
