"""Rows of 92 columns from HDF5 or npz become a file that the family tokens reads."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from search.cli import main
from trainables.convert.events import event_arrays
from trainables.data import split_by_group
from trainables.errors import BadData


def rows(count: int = 400) -> np.ndarray:
    """f64[count, 92]: event n has 1 + n % 3 objects of types 1, 2, ..., of energy n + 1 and half that pT."""
    made = np.zeros((count, 92))
    for n in range(count):
        objects = 1 + n % 3
        made[n, :objects] = 1 + np.arange(objects)
        made[n, 18:20] = n, 3.0
        made[n, 20 : 20 + 4 * objects] = np.tile([n + 1, (n + 1) / 2, -1.5, 1.0], objects)
    return made


def hdf5(name: str, **arrays: object) -> Path:
    with h5py.File(name, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return Path(name)


def test_the_only_array_of_92_columns_is_taken_from_hdf5_and_npz_alike(here: Path) -> None:
    made = rows()
    hdf5("e.h5", **{"group/events": made, "weights": np.ones(400), "other": np.ones((400, 91))})
    np.savez("e.npz", X=made.astype(np.float32), w=np.ones(400), other=np.ones((400, 91)))
    for name in ("e.h5", "e.npz"):
        arrays, notes = event_arrays(Path(name))
        assert sorted(arrays) == ["X", "split"]
        assert arrays["X"].dtype == np.float32 and np.array_equal(arrays["X"], made.astype(np.float32))
        # 400 rows: blocks of 4, which lie in one split each.
        assert arrays["split"].tolist() == split_by_group([f"block {n // 4}" for n in range(400)])
        assert notes == ["blocks of 4 rows are hashed into train, val, test"]


def test_several_fitting_arrays_need_a_name(here: Path) -> None:
    hdf5("e.h5", **{"a/X": rows(), "b": rows() * 0 + 7})
    np.savez("e.npz", a=rows(), b=rows())
    for name in ("e.h5", "e.npz"):
        with pytest.raises(BadData, match=r"arrays a.*, b all have 92 columns; name one with --dataset"):
            event_arrays(Path(name))
    assert len(event_arrays(Path("e.h5"), dataset="/a/X").arrays["X"]) == 400
    assert len(event_arrays(Path("e.npz"), dataset="a").arrays["X"]) == 400


@pytest.mark.parametrize(
    "split", [np.arange(400) % 3, np.array(["train", "val", "test"])[np.arange(400) % 3].astype("S5")]
)
def test_the_files_own_split_and_labels_are_kept(here: Path, split: np.ndarray) -> None:
    hdf5("e.h5", X=rows(), s=split, y=np.arange(400, dtype="u2"))
    np.savez("e.npz", X=rows(), s=split.astype("U5") if split.dtype.kind == "S" else split, y=np.arange(400))
    for name in ("e.h5", "e.npz"):
        arrays, notes = event_arrays(Path(name), split_key="s", label_key="y")
        assert arrays["split"].tolist() == [n % 3 for n in range(400)]
        assert arrays["y"].tolist() == list(range(400)) and notes == []


def test_events_without_an_object_are_left_out_with_their_labels(here: Path) -> None:
    made = rows()
    made[[5, 17], :18] = 0
    made[[5, 17], 20:] = 0
    np.savez("e.npz", X=made, y=np.arange(400))
    arrays, notes = event_arrays(Path("e.npz"), label_key="y")
    kept = [n for n in range(400) if n not in (5, 17)]
    assert arrays["y"].tolist() == kept and np.array_equal(arrays["X"], made[kept].astype(np.float32))
    assert arrays["split"].tolist() == [split_by_group([f"block {n // 4}"])[0] for n in kept]
    assert "2 events without an object were left out" in notes


def test_the_converted_file_is_read_by_the_family(here: Path, capsys) -> None:
    hdf5("e.h5", X=rows())
    assert main(["data", "convert", "events", "e.h5", "events.npz"]) == 0
    assert "loss-search data check tokens events.npz" in capsys.readouterr().out
    tokens = pytest.importorskip("trainables.tokens").TOKENS
    defaults = {name: setting.default for name, setting in tokens.data_settings.items()}
    loaded = tokens.load({"source": "file", "path": "events.npz", **defaults})
    counts = tokens.label_counts(loaded)["type (tokens)"]
    # 400 events of 1, 2, 3, 1, 2, 3, ... objects: type 1 in all, 2 in 266, 3 in 133.
    assert [sum(split) for split in counts.values()] == [400, 266, 133]


def _with(column: int, value: float, row: int = 7) -> np.ndarray:
    made = rows()
    made[row, column] = value
    return made


BAD_ROWS = {  # what the message says of row 7, which has two objects: the rows
    "holds a number that is not finite": _with(60, np.nan),
    "has an id among columns 0 to 17 that is no whole number from 0 to 255": _with(0, 1.5),
    "has an id among columns 0 to 17 that is no whole": _with(1, -1),
    "has an object after an empty place": _with(3, 2),
    "has E, pT, eta or phi of an object whose id is 0": _with(20 + 4 * 2 + 2, 0.5),
    "has an angle (METphi or phi) beyond 2 pi": _with(19, 180),
    "has an angle (METphi or phi)": _with(23, -90),
    "has a negative MET": _with(18, -1),
    "has an object whose E or pT is not above 0": _with(21, 0),
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_rows_of_another_layout_are_refused_by_number(here: Path, capsys, message: str) -> None:
    np.savez("e.npz", X=np.nan_to_num(BAD_ROWS[message], nan=1e39))  # not finite as float32
    hdf5("e.h5", X=BAD_ROWS[message])
    for name in ("e.npz", "e.h5"):
        assert main(["data", "convert", "events", name, "out.npz"]) == 2
        captured = capsys.readouterr()
        assert f"{name}: row 7 {message}" in captured.err and captured.err.count("\n") == 1
    assert not Path("out.npz").exists()


def test_files_that_are_none_or_lack_what_is_asked_for_are_refused(here: Path) -> None:
    Path("text.h5").write_text("events")
    hdf5("whole.h5", X=rows())
    hdf5("words.h5", X=np.full((3, 92), b"a"))
    hdf5("none.h5", X=rows()[:, :91])
    hdf5("empty.h5", X=rows()[:0])
    hdf5("zero.h5", X=np.zeros((5, 92)))
    hdf5("s.h5", X=rows(), s=np.arange(400), short=np.arange(9), f=np.zeros(400))
    Path("torn.h5").write_bytes(Path("whole.h5").read_bytes()[:3000])
    np.savez("plain.npz", a=np.zeros(3))
    np.savez("pickled.npz", X=np.full((3, 92), None))
    for name, keys, message in (
        ("absent.h5", {}, "does not exist"),
        ("text.h5", {}, "is no readable npz file"),
        ("torn.h5", {}, "is no readable HDF5 file"),
        ("words.h5", {}, "must be numbers"),
        ("none.h5", {}, r"no array of two axes has \(it has X \[400, 91\]\) 92 columns"),
        ("empty.h5", {}, "'X' has 0 rows"),
        ("zero.h5", {}, "no row has an object"),
        ("whole.h5", {"dataset": "Y"}, r"has no array 'Y'; it has X \[400, 92\]"),
        ("whole.h5", {"split_key": "s"}, "has no dataset 's'"),
        ("s.h5", {"split_key": "s"}, "'s' row 3 holds '3'; allowed are 0, 1, 2 or train, val, test"),
        ("s.h5", {"split_key": "short"}, r"'short' has the shape \[9\], but must be \[400\]"),
        ("s.h5", {"label_key": "f"}, "'f' is float64, but must be whole numbers"),
        ("s.h5", {"dataset": "s"}, r"'s' has the shape \[400\], but must be \[N, 92\]"),
        ("plain.npz", {}, r"no array of two axes has \(it has a \[3\]\)"),
        ("plain.npz", {"dataset": "X"}, "has no array 'X'"),
        ("pickled.npz", {}, "pickled Python objects, which are never loaded"),
    ):
        with pytest.raises(BadData, match=message):
            event_arrays(Path(name), **keys)


def test_a_dataset_that_lies_in_another_file_is_never_read(here: Path) -> None:
    Path("secret").write_bytes(bytes(400 * 92 * 8))
    with h5py.File("external.h5", "w") as file:
        file.create_dataset("X", (400, 92), "f8", external=[("secret", 0, 400 * 92 * 8)])
    hdf5("whole.h5", X=rows())
    layout = h5py.VirtualLayout((400, 92), "f8")
    layout[:] = h5py.VirtualSource("whole.h5", "X", (400, 92))
    with h5py.File("virtual.h5", "w") as file:
        file.create_virtual_dataset("X", layout)
    for name in ("external.h5", "virtual.h5"):
        with pytest.raises(BadData, match="is stored in other files, which are never read"):
            event_arrays(Path(name))
    with h5py.File("linked.h5", "w") as file:
        file["X"] = h5py.ExternalLink("whole.h5", "X")
    for dataset in (None, "X"):
        with pytest.raises(BadData, match="linked.h5: "):
            event_arrays(Path("linked.h5"), dataset=dataset)


def test_a_file_of_many_rows_is_checked_to_its_end(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.convert.events.CHUNK", 64)
    hdf5("e.h5", X=_with(0, 0.5, row=399))
    with pytest.raises(BadData, match="row 399 has an id"):
        event_arrays(Path("e.h5"))
