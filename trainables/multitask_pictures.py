"""Confusion matrices, one a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from trainables.charts import new_figure, save_figure

__all__ = ["draw_confusions"]

MOST_WRITTEN = 16  # classes; with more the counts would not be readable
MOST_LETTERS = 16  # of a class's name
SIDE_INCHES = 4.6


def draw_confusions(
    counts: Mapping[str, Tensor], class_names: Mapping[str, Sequence[str]], path: Path, title: str
) -> None:
    """One matrix a task, coloured by recall (each row sums to 1), with the counts written into it, as a PNG.

    Args:
        counts: by task, examples [C, C], [true class, predicted class]; a class without one is a row of 0.
        class_names: by task, C names.
        path: the PNG; a reader never meets half of it. title: one line above.

    Raises:
        ValueError: there is no task.
    """
    if not counts:
        raise ValueError("no confusion matrix to draw")
    figure = new_figure(SIDE_INCHES * len(counts), SIDE_INCHES + 0.6)
    axes = figure.subplots(1, len(counts), squeeze=False)[0]
    for axis, (task, matrix) in zip(axes, counts.items(), strict=True):
        matrix = matrix.double().cpu()
        shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
        axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        axis.set_title(task.replace("_", " "), fontsize=10)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        names = [name.replace("_", " ")[:MOST_LETTERS] for name in class_names[task]]
        axis.set_xticks(range(len(matrix)), names, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(matrix)), names)
        axis.tick_params(labelsize=7)
        if len(matrix) <= MOST_WRITTEN:
            _write_counts(axis, matrix, shares)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _write_counts(axis, matrix: Tensor, shares: Tensor) -> None:
    size = 9 if len(matrix) <= 8 else 6
    for row, column in matrix.nonzero().tolist():
        ink = "white" if shares[row, column] > 0.6 else "black"
        axis.text(column, row, int(matrix[row, column]), color=ink, ha="center", va="center", fontsize=size)
