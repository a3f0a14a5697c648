"""What an event autoencoder makes of its events: distributions over tokens, types, and MET."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from trainables.charts import new_figure, save_figure
from trainables.tokens_data import FEATURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_events"]

BINS = 30
TRUE, MADE = "#333333", "#d55e00"


def draw_events(
    batch: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    type_names: Sequence[str],
    path: Path,
    title: str,
) -> None:
    """Histograms of true and reconstructed tokens, counts of their types, and true against predicted MET.

    Args:
        batch: `types` i64[B, T] (-1 pads), `features` f[B, T, 5] and `globals` f[B, 3], as `tokens_data`
            gives them; at least one token.
        outputs: `features` f[B, T, 5], `logits` f[B, T, C] and `globals` f[B, 3] of the model.
        type_names: C names.
        path: the PNG; a file of that name is replaced. title: one line.
    """
    real = batch["types"] >= 0
    true, made = (side["features"][real].float() for side in (batch, outputs))
    figure = new_figure(10.0, 6.0)
    axes = figure.subplots(2, 3).ravel()
    for axis, number in zip(axes[:3], range(3), strict=True):
        _histograms(axis, true[:, number], made[:, number], f"{FEATURES[number]}, standardised")
    angles = (torch.atan2(side[:, 3], side[:, 4]) for side in (true, made))
    _histograms(axes[3], *angles, "phi, radians")
    _types(axes[4], batch["types"][real], outputs["logits"][real].argmax(-1), type_names)
    _scatter(axes[5], batch["globals"][:, 0].float(), outputs["globals"][:, 0].float())
    axes[0].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _histograms(axis: Axes, true: Tensor, made: Tensor, label: str) -> None:
    """Both on the bins of the true values; what lies outside is counted in the outermost bins."""
    low, high = float(true.min()), float(true.max())
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    axis.hist(true.numpy(), edges, histtype="stepfilled", color=TRUE, alpha=0.35, label="true")
    inside = made.nan_to_num().clamp(edges[0], edges[-1]).numpy()
    axis.hist(inside, edges, histtype="step", color=MADE, linewidth=1.5, label="reconstructed")
    axis.set_xlabel(label)
    axis.set_ylabel("tokens")


def _types(axis: Axes, true: Tensor, made: Tensor, type_names: Sequence[str]) -> None:
    place = np.arange(len(type_names))
    for values, shift, colour in ((true, -0.2, TRUE), (made, 0.2, MADE)):
        counts = torch.bincount(values, minlength=len(type_names)).numpy()
        axis.bar(place + shift, counts, 0.4, color=colour, alpha=0.6)
    axis.set_xticks(place, type_names, rotation=30)
    axis.set_yscale("symlog")
    axis.set_ylabel("tokens, log scale")


def _scatter(axis: Axes, true: Tensor, made: Tensor) -> None:
    axis.scatter(true.numpy(), made.numpy(), s=5, color=MADE, alpha=0.5, linewidths=0)
    ends = [float(true.min()), float(true.max())]
    axis.plot(ends, ends, color=TRUE, linewidth=1)
    axis.set_xlabel("MET, standardised, true")
    axis.set_ylabel("predicted")
