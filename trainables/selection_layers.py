"""What the networks of selection are made of: grids as rows of patches, and an encoder of such rows."""

from __future__ import annotations

from torch import Tensor, nn

from trainables.grids import COLOURS
from trainables.layers import Dense

__all__ = ["FEATURES", "PATCH", "encoder", "patchified", "unpatchified"]

PATCH = 5  # cells: height and width of a patch; divides every data.side
FEATURES = 32  # of a patch


def patchified(cells: Tensor) -> Tensor:
    """Cells [B, S, S] -> [B, patches, PATCH^2], patches and their cells row by row."""
    parts = cells.unflatten(-2, (-1, PATCH)).unflatten(-1, (-1, PATCH))  # [B, rows, PATCH, columns, PATCH]
    return parts.transpose(-3, -2).flatten(-2).flatten(-3, -2)


def unpatchified(cells: Tensor, side: int) -> Tensor:
    """The inverse of `patchified`, from [B, S^2] or [B, patches, PATCH^2]."""
    rows = side // PATCH
    return cells.reshape(-1, rows, rows, PATCH, PATCH).transpose(-3, -2).reshape(-1, side, side)


def encoder(patches: int, width: int) -> nn.Module:
    """One-hot cells of patches f[B, patches, PATCH^2 11] -> features f[B, width]."""
    return nn.Sequential(
        Dense(PATCH * PATCH * (COLOURS + 1), FEATURES),
        nn.SiLU(),
        nn.Flatten(1),
        Dense(patches * FEATURES, width),
        nn.LayerNorm(width),
        nn.SiLU(),
    )
