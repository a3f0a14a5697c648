"""Particle-physics events in rows of 92 numbers, from HDF5 or npz, for `tokens`.

    0:18    ids of up to 18 objects: whole numbers from 1, then 0 where there is no object
    18      MET, missing transverse energy, GeV, at least 0
    19      METphi, its angle, rad
    20:92   18 times (E, pT, eta, phi) of the objects: E and pT in GeV, above 0; all 0 where the id is 0

Events that were recorded together may be alike, so without a split of their own whole blocks of rows are
hashed into train, val and test. Events without an object are left out.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from trainables.convert import Converted, hashed_split
from trainables.data import LIMIT_BYTES, SPLITS, UNPACKING, Field, checked_arrays, field_names
from trainables.errors import BadData

__all__ = ["COLUMNS", "event_arrays"]

COLUMNS, OBJECTS = 92, 18
LARGEST_ID = 255
LARGEST_ANGLE = 2 * np.pi + 1e-3  # either convention, [-pi, pi] or [0, 2 pi]; degrees are found out
BLOCK = 100  # rows; smaller in a file of less than 10,000 rows, so that there are blocks to share out
MOST_BLOCKS = 100
CHUNK = 2**16  # rows read and checked at once
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def event_arrays(
    path: Path, dataset: str | None = None, split_key: str | None = None, label_key: str | None = None
) -> Converted:
    """The arrays of `tokens` from one file.

    Args:
        dataset: name of the array of events; None for the only one that has two axes and 92 columns.
        split_key: name of an array [N] that says train, val, test or 0, 1, 2.
        label_key: name of an array of whole numbers [N], kept as `y`.
    Returns:
        X f32[N, 92], split i8[N], and y i64[N] where there is a `label_key`.
    Raises:
        BadData: the file cannot be read, or is not laid out as above.
    """
    if not path.is_file():
        raise BadData(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}")
    with path.open("rb") as file:
        is_hdf5 = file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    read = _read_hdf5 if is_hdf5 else _read_npz
    rows, split, labels = read(path, dataset, split_key, label_key)
    _check(path, rows)
    notes: list[str] = []
    if split is None:
        size = max(1, min(BLOCK, len(rows) // MOST_BLOCKS))
        split, found = hashed_split(path, [f"block {row // size}" for row in range(len(rows))])
        notes += [f"blocks of {size} rows are hashed into {', '.join(SPLITS)}", *found]
    else:
        split = _split_numbers(f"{path}: {split_key!r}", split, len(rows))
    arrays = {"X": rows, "split": split}
    if labels is not None:
        arrays["y"] = _label_numbers(f"{path}: {label_key!r}", labels, len(rows))
    empty = rows[:, 0] == 0  # objects come first, as was checked
    if empty.all():
        raise BadData(f"{path}: no row has an object: all ids in columns 0 to 17 are 0")
    if empty.any():
        notes.append(f"{int(empty.sum())} events without an object were left out")
    return Converted({name: array[~empty] for name, array in arrays.items()}, notes)


# ---- npz

Read = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


def _read_npz(path: Path, dataset: str | None, split_key: str | None, label_key: str | None) -> Read:
    """The rows f32[N, 92], and the arrays called `split_key` and `label_key`."""
    names = field_names(path)
    shapes = _npz_shapes(path)
    dataset = _chosen(path, shapes, dataset)
    wanted = {dataset: Field(("float", "integer"), ("N", COLUMNS))}
    if split_key is not None:
        wanted[split_key] = Field(("integer", "text"), ("N",))
    if label_key is not None:
        wanted[label_key] = Field(("integer",), ("N",))
    for name in wanted:
        if name not in names:
            raise BadData(f"{path}: has no array {name!r}; its arrays are {', '.join(names[:12])}")
    arrays = checked_arrays(path, wanted=wanted)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused by row
        rows = arrays[dataset].astype(np.float32)
    return rows, arrays.get(split_key), arrays.get(label_key)


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each array, from its header alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in (name for name in archive.namelist() if name.endswith(".npy")):
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                    read = np.lib.format.read_array_header_2_0 if version == (2, 0) else read
                    if read is not None:
                        shapes[name.removesuffix(".npy")] = read(member)[0]
    except (OSError, ValueError, *UNPACKING) as error:
        raise BadData(f"{path}: is no readable npz or HDF5 file ({str(error)[:100]})") from error
    return shapes


def _chosen(path: Path, shapes: dict[str, tuple[int, ...]], dataset: str | None) -> str:
    """The name of the array of events."""
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:12]) or "nothing"
    if dataset is not None:
        if dataset not in shapes:
            raise BadData(f"{path}: has no array {dataset!r}; it has {listed}")
        if len(shapes[dataset]) != 2 or shapes[dataset][1] != COLUMNS:
            raise BadData(
                f"{path}: {dataset!r} has the shape {list(shapes[dataset])}, but must be [N, {COLUMNS}]"
            )
        return dataset
    fitting = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] == COLUMNS]
    if len(fitting) != 1:
        found = (
            f"arrays {', '.join(fitting)} all have"
            if fitting
            else f"no array of two axes has (it has {listed})"
        )
        raise BadData(f"{path}: {found} {COLUMNS} columns; name one with --dataset")
    return fitting[0]


# ---- HDF5


def _read_hdf5(path: Path, dataset: str | None, split_key: str | None, label_key: str | None) -> Read:
    with _opened(path) as file:
        found: dict[str, h5py.Dataset] = {}

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = item

        file.visititems(visit)  # follows no soft or external link
        shapes = {name: item.shape or () for name, item in found.items()}
        name = _chosen(path, shapes, dataset.strip("/") if dataset else None)
        count = shapes[name][0]
        if count == 0 or count * COLUMNS * 4 > LIMIT_BYTES:
            raise BadData(
                f"{path}: {name!r} has {count:,} rows; 1 to {LIMIT_BYTES // COLUMNS // 4:,} are taken"
            )
        rows = np.empty((count, COLUMNS), np.float32)
        _refuse_foreign(path, name, found[name], "fiu")
        with np.errstate(over="ignore"):
            for start in range(0, count, CHUNK):
                rows[start : start + CHUNK] = found[name][start : start + CHUNK]
        columns = [_column(path, found, key, count) for key in (split_key, label_key)]
    return rows, columns[0], columns[1]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises on damaged files
        raise BadData(f"{path}: is no readable HDF5 file ({str(error)[:100]})") from error


def _column(path: Path, found: dict[str, h5py.Dataset], key: str | None, count: int) -> np.ndarray | None:
    """One array [N] of whole numbers or text; None without a key."""
    if key is None:
        return None
    name = key.strip("/")
    if name not in found:
        raise BadData(f"{path}: has no dataset {key!r}; its datasets are {', '.join(list(found)[:12])}")
    item = found[name]
    if item.shape != (count,):
        raise BadData(f"{path}: {key!r} has the shape {list(item.shape or ())}, but must be [{count}]")
    if h5py.check_string_dtype(item.dtype) is not None:
        _refuse_foreign(path, key, item, item.dtype.kind)
        return np.array([word[:40] for word in item.asstr(errors="replace")[:]])
    _refuse_foreign(path, key, item, "iu")
    return item[:]


def _refuse_foreign(path: Path, name: str, item: h5py.Dataset, kinds: str) -> None:
    """A dataset may name other files as its storage: a file from elsewhere could read anything that way."""
    if item.external or item.is_virtual:
        raise BadData(
            f"{path}: {name!r} is stored in other files, which are never read; copy it into one file"
        )
    if item.dtype.kind not in kinds:
        raise BadData(
            f"{path}: {name!r} is {item.dtype}, but must be {'numbers' if 'f' in kinds else 'whole numbers'}"
        )


# ---- checks


def _check(path: Path, rows: np.ndarray) -> None:
    """Raises BadData for the first of the rows f32[N, 92] that is not laid out as it must be."""
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        ids, kinematics = part[:, :OBJECTS], part[:, 20:].reshape(len(part), OBJECTS, 4)
        absent = ids == 0
        finite = np.isfinite(part)
        whole = finite[:, :OBJECTS] & (ids >= 0) & (ids <= LARGEST_ID) & (ids == np.floor(ids))
        angles = np.concatenate([part[:, 19:20], kinematics[..., 3]], axis=1)
        for wrong, complaint in (
            (~finite, "holds a number that is not finite"),
            (~whole, f"has an id among columns 0 to 17 that is no whole number from 0 to {LARGEST_ID}"),
            (
                absent[:, :-1] & ~absent[:, 1:],
                "has an object after an empty place (id 0): objects come first",
            ),
            ((kinematics != 0).any(-1) & absent, "has E, pT, eta or phi of an object whose id is 0"),
            (np.abs(angles) > LARGEST_ANGLE, "has an angle (METphi or phi) beyond 2 pi: angles are in rad"),
            (part[:, 18:19] < 0, "has a negative MET"),
            ((kinematics[..., :2] <= 0).any(-1) & ~absent, "has an object whose E or pT is not above 0"),
        ):
            if wrong.any():
                row = int(wrong.any(1).argmax())
                layout = "columns are 18 ids, MET, METphi, 18 x (E, pT, eta, phi)"
                raise BadData(f"{path}: row {start + row} {complaint}; {layout}")


def _split_numbers(place: str, column: np.ndarray, count: int) -> np.ndarray:
    """i8[N] in 0..2 from numbers or the words train, val, test."""
    words = {word: number for number, word in enumerate(SPLITS)} | {str(n): n for n in range(3)}
    entries = [str(entry) for entry in column.tolist()]
    for row, entry in enumerate(entries):
        if entry not in words:
            raise BadData(f"{place} row {row} holds {entry[:40]!r}; allowed are 0, 1, 2 or train, val, test")
    assert len(entries) == count
    return np.array([words[entry] for entry in entries], np.int8)


def _label_numbers(place: str, column: np.ndarray, count: int) -> np.ndarray:
    """i64[N], whole numbers from 0."""
    if column.dtype.kind not in "iu" or (column < 0).any():
        raise BadData(f"{place} is {column.dtype}, but must be whole numbers from 0")
    assert len(column) == count
    return column.astype(np.int64)
