"""Where examples come from: npz files that are checked before they are believed, and splits by group.

Every complaint about a user's data is a `BadData` that names the file, the field, the row (counted from 0),
what was found, what is allowed, and the likely repair.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from trainables.errors import BadData

# fmt: off
__all__ = [
    "SPLITS", "SPLIT_FIELDS", "UNPACKING", "Field", "checked_arrays", "class_counts", "field_names",
    "split_by_group", "split_column",
]
# fmt: on

SPLITS = ("train", "val", "test")
LIMIT_BYTES = (
    2 * 2**30
)  # of one array, unpacked: above any file a family needs, below a small machine's memory
HEADER_BYTES = 4096  # NumPy's own headers of plain arrays take 128
MAGIC = b"\x93NUMPY"
KINDS = {"i": "integer", "u": "integer", "f": "float", "U": "text", "b": "boolean"}
WRITE_AGAIN = "write it with numpy.savez_compressed(path, name=array, ...)"
# What zipfile raises on a torn or damaged archive; the last two on names in no UTF-8 and on encryption.
UNPACKING = (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError, RuntimeError)


@dataclass(frozen=True)
class Field:
    """What one array of an npz file must be.

    Args:
        kinds: some of "integer", "float", "text", "boolean".
        shape: for each axis its length, a `range` of lengths, or a name; axes of one name have one length
            throughout the file. The first axis, "N", counts rows.
        low, high: smallest and largest number allowed, inclusive. Floats must be finite in any case.
        words: the texts allowed; empty allows all.
        required: whether a file without the field is refused.
        help: what it holds, for those who write such a file.
    """

    kinds: tuple[str, ...]
    shape: tuple[int | range | str, ...]
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    required: bool = True
    help: str = ""


# ---- npz files


def field_names(path: str | os.PathLike[str]) -> list[str]:
    """The names of the arrays in an npz file, in its order. Raises BadData where it cannot be read."""
    with _archive(Path(path)) as (_, members):
        return list(members)


def checked_arrays(path: str | os.PathLike[str], *, wanted: Mapping[str, Field]) -> dict[str, np.ndarray]:
    """The wanted fields of an npz file, in native byte order; other fields are not read.

    Nothing is unpickled, and no memory is taken for an array before its declared size agrees with the file's
    table of sizes and lies under 2 GiB.

    Args:
        path: a file as `numpy.savez` or `numpy.savez_compressed` writes it.
        wanted: field name -> what it must be.
    Returns:
        The fields that are present: all required ones, and the others where the file has them.
    Raises:
        BadData: the file cannot be read, or a field is not what `wanted` says.
    """
    path = Path(path)
    with _archive(path) as (archive, members):
        for name, field in wanted.items():
            if field.required and name not in members:
                raise BadData(f"{path}: has no field {name!r}; its fields are {_listed(members)}")
        found = [name for name in wanted if name in members]
        arrays = {name: _read_member(path, archive, name, members[name]) for name in found}
    lengths: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        _check_kind(path, name, array, wanted[name])
        _check_shape(path, name, array, wanted[name], lengths)
        _check_values(path, name, array, wanted[name])
    return arrays


@contextmanager
def _archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The open file and its members by field name."""
    try:
        if not path.is_file():
            problem = "is no regular file" if path.exists() else "does not exist"
            raise BadData(f"{path}: {problem}; give the path of an npz file")
        if path.stat().st_size == 0:
            raise BadData(f"{path}: is empty (0 bytes); {WRITE_AGAIN}")
        with path.open("rb") as file:
            if file.read(6) == MAGIC:
                raise BadData(f"{path}: is one array without a name; {WRITE_AGAIN}")
            with zipfile.ZipFile(file) as archive:
                yield archive, {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror or error})") from error
    except UNPACKING as error:
        raise BadData(f"{path}: is no readable npz file ({error}); {WRITE_AGAIN}") from error


def _read_member(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{name!r} is packed by method {info.compress_type}")
    with archive.open(info) as member:
        dtype, shape, fortran, header_bytes = _read_header(path, name, member)
        size, stored = math.prod(shape) * dtype.itemsize, info.file_size - header_bytes
        what = f"{path}: {name!r} declares {size:,} bytes (shape {list(shape)}, {dtype})"
        if size == 0:
            raise BadData(f"{what}; it has no rows")
        if size > LIMIT_BYTES:
            raise BadData(f"{what}; at most {LIMIT_BYTES:,} are read: store fewer rows or a smaller dtype")
        content = bytearray()  # grows as bytes arrive: a table of sizes that lies costs no memory
        while size == stored and (chunk := member.read(2**20)):
            content += chunk
    if len(content) != size:
        held = len(content) if size == stored else stored
        raise BadData(f"{what}, but the file holds {held:,}; it is damaged or forged: {WRITE_AGAIN}")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), order="C", copy=False)


def _read_header(path: Path, name: str, member: IO[bytes]) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """dtype, shape, Fortran order and length in bytes of an npy header, read without evaluating its text."""
    start = member.read(8)
    digits = 4 if start[6:7] in (b"\x02", b"\x03") else 2
    length = int.from_bytes(member.read(digits), "little")
    text = member.read(min(length, HEADER_BYTES)).decode("latin-1")
    if start[:6] != MAGIC or len(text) != length:
        raise BadData(f"{path}: {name!r} is no array in NumPy's format; {WRITE_AGAIN}")
    kind = re.search(r"'descr':\s*'([<>=|]?[biufUO]\d{0,8})'", text)
    shape = re.search(r"'shape':\s*\(([\d\s,]{0,99})\)", text)  # NumPy has at most 64 axes
    order = re.search(r"'fortran_order':\s*(True|False)", text)
    if kind is not None and "O" in kind[1]:
        repair = "store numbers or text, and pad rows of unequal length"
        raise BadData(f"{path}: {name!r} holds pickled Python objects, which are never loaded; {repair}")
    try:
        if kind is None or shape is None or order is None:
            raise TypeError("a type or a layout other than these")
        dtype = np.dtype(kind[1])
    except (TypeError, ValueError) as error:
        allowed = "allowed are arrays of integers, floats, booleans and text"
        raise BadData(f"{path}: {name!r} has the header {text.strip()[:100]}; {allowed}") from error
    sizes = tuple(int(number) for number in re.findall(r"\d+", shape[1]))
    return dtype, sizes, order[1] == "True", len(start) + digits + length


def _check_kind(path: Path, name: str, array: np.ndarray, field: Field) -> None:
    if KINDS[array.dtype.kind] not in field.kinds:
        cast = {"integer": "int64", "float": "float32", "text": "str", "boolean": "bool"}[field.kinds[0]]
        raise BadData(
            f"{path}: {name!r} is {array.dtype}, but must be {' or '.join(field.kinds)}; "
            f'check its values and save it as .astype("{cast}")'
        )


def _check_shape(
    path: Path, name: str, array: np.ndarray, field: Field, lengths: dict[str, tuple[int, str]]
) -> None:
    fits = array.ndim == len(field.shape) and all(
        isinstance(want, str) or found in (want if isinstance(want, range) else (want,))
        for want, found in zip(field.shape, array.shape, strict=True)
    )
    if not fits:
        axes = [f"{want.start}..{want[-1]}" if isinstance(want, range) else str(want) for want in field.shape]
        raise BadData(f"{path}: {name!r} has the shape {list(array.shape)}, but must be [{', '.join(axes)}]")
    for axis, length in zip(field.shape, array.shape, strict=True):
        if isinstance(axis, str):
            first, other = lengths.setdefault(axis, (length, name))
            if length != first:
                raise BadData(
                    f"{path}: {name!r} has {length} on axis {axis}, {other!r} has {first}; make them equal"
                )


def _check_values(path: Path, name: str, array: np.ndarray, field: Field) -> None:
    kind = KINDS[array.dtype.kind]
    if kind == "text" and field.words:
        _refuse_first(path, name, array, ~np.isin(array, field.words), f"allowed are {_listed(field.words)}")
    if kind == "float":
        _refuse_first(path, name, array, ~np.isfinite(array), "allowed are finite numbers: fill or drop it")
    if kind in ("integer", "float"):
        low = -math.inf if field.low is None else field.low
        high = math.inf if field.high is None else field.high
        _refuse_first(path, name, array, (array < low) | (array > high), f"allowed are {low} to {high}")


def _refuse_first(path: Path, name: str, array: np.ndarray, wrong: np.ndarray, allowed: str) -> None:
    if wrong.any():
        row, *rest = np.argwhere(np.atleast_1d(wrong))[0].tolist()
        value = repr(np.atleast_1d(array)[(row, *rest)].item())[:40]
        raise BadData(f"{path}: {name!r} row {row} holds {value}{f' at {rest}' if rest else ''}; {allowed}")


def _listed(names: Iterable[str]) -> str:
    quoted = [repr(name[:40]) for name in names]
    return ", ".join(quoted[:12] + ["..."] * (len(quoted) > 12)) or "none"


# ---- splits

SPLIT_FIELDS = {
    "split": Field(
        ("integer", "text"),
        ("N",),
        0,
        2,
        SPLITS,
        required=False,
        help="train, val, test or 0, 1, 2; without it `group` is hashed into 80/10/10",
    ),
    "group": Field(("integer", "text"), ("N",), required=False, help="rows of one group stay in one split"),
}


def split_by_group(groups: Sequence[str | int]) -> list[int]:
    """0 (train, 80 %), 1 (val, 10 %) or 2 (test, 10 %) for each group, by a hash of its name alone.

    CRC-32 of the name modulo 10: a group keeps its split on every machine, whatever other groups there are.
    """
    return [max(0, zlib.crc32(str(group).encode()) % 10 - 7) for group in groups]


def split_column(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, list[str]]:
    """The split i64[N] of each row of a file read with `SPLIT_FIELDS`, and warnings.

    `split` holds 0, 1, 2 or train, val, test. Without it, `group` is hashed (see `split_by_group`): all rows
    of a group lie in one split.

    Raises:
        BadData: neither field is there, or a split has no rows.
    """
    found: list[str] = []
    if "split" in arrays:
        column = arrays["split"].tolist()
        split = np.array([SPLITS.index(entry) if isinstance(entry, str) else entry for entry in column])
        if "group" in arrays:
            parts = Counter(group for group, _ in set(zip(arrays["group"].tolist(), column, strict=True)))
            torn = [group for group, num_splits in parts.items() if num_splits > 1]
            if torn:
                leak = f"{len(torn)} groups lie in several splits, the first is {torn[0]!r}"
                found.append(f"{path}: {leak}; validation and test are not independent of training")
        repair = "'split' must mark rows as each of train, val and test (0, 1, 2)"
    elif "group" in arrays:
        groups = arrays["group"].tolist()
        split = np.array(split_by_group(groups))
        repair = f"'group' has {len(set(groups))} values, too few to hash; give 'split' (0, 1, 2) instead"
    else:
        raise BadData(f"{path}: has neither 'split' (train, val, test or 0, 1, 2) nor 'group'; add one")
    for number, name in enumerate(SPLITS):
        if not (split == number).any():
            raise BadData(f"{path}: has no {name} rows; {repair}")
    return split, found


def class_counts(grid: Tensor, classes: int) -> Tensor:
    """Number of cells of each class, f64[classes], in `grid` (whole numbers 0..classes-1, any shape).

    Raises:
        ValueError: a value lies outside 0..classes-1.
    """
    if grid.numel() and not 0 <= int(grid.min()) <= int(grid.max()) < classes:
        raise ValueError(f"classes go from 0 to {classes - 1}, found {int(grid.min())} to {int(grid.max())}")
    return torch.bincount(grid.flatten(), minlength=classes).double()
