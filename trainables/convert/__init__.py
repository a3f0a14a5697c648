"""Public data sets and users' own files, rewritten as the npz files that the families read.

Each module makes the arrays of one kind of original, as a `Converted`; `write_npz` stores them:

    soccernet   SoccerNet MVFoul annotations and features of its clips      -> multitask
    wyscout     Wyscout events, as Pappalardo et al. 2019 published them    -> multitask
    events      particle-physics events of 92 columns, HDF5 or npz          -> tokens
    pages       page images with a transcript                               -> panels

Originals are other people's files: nothing in them is executed, and no name in them becomes a path unchecked.
Every complaint is a `BadData` that names the file, the entry, what was found and what is allowed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainables.data import LIMIT_BYTES, SPLITS, split_by_group
from trainables.errors import BadData

__all__ = [
    "Converted",
    "entry_of",
    "hashed_split",
    "number_of",
    "read_json",
    "sayable",
    "text_of",
    "whole_of",
    "write_npz",
]

LARGEST_TEXT = 10_000  # characters; an array of text takes its longest entry's room for every row
LARGEST_WHOLE = 2**53  # beyond it a float, which JSON may have made of it, skips whole numbers


class Converted(NamedTuple):
    """The arrays of an npz file by name, and lines that say what was left out or should be known."""

    arrays: dict[str, np.ndarray]
    notes: list[str]


def write_npz(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a compressed npz file; a reader sees the former file or the whole new one.

    Raises:
        BadData: an array is larger than the families read. OSError: the file cannot be written.
    """
    for name, array in arrays.items():
        if array.nbytes > LIMIT_BYTES:
            raise BadData(
                f"{path}: {name!r} would take {array.nbytes:,} bytes (shape {list(array.shape)}, "
                f"{array.dtype}); at most {LIMIT_BYTES:,} are read again: convert fewer rows"
            )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, most_bytes: int) -> Any:
    """The content of a JSON file in UTF-8.

    Raises:
        BadData: it is missing, no regular file, larger than `most_bytes`, or no JSON.
    """
    try:
        if not path.is_file():
            raise BadData(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}")
        size = path.stat().st_size
        if size > most_bytes:
            raise BadData(f"{path}: has {size:,} bytes; at most {most_bytes:,} are read")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror or error})") from error
    except BadData:
        raise
    except (ValueError, RecursionError) as error:  # malformed, in no UTF encoding, or nested without end
        raise BadData(f"{path}: is no JSON file ({str(error)[:100]})") from error


def hashed_split(path: Path, groups: Iterable[str | int]) -> tuple[np.ndarray, list[str]]:
    """The split i8[N] of each row by a hash of its group, and a note for each split that is left empty."""
    split = np.array(split_by_group(list(groups)), np.int8)
    empty = [name for number, name in enumerate(SPLITS) if not (split == number).any()]
    if not empty:
        return split, []
    return split, [f"{path}: too few groups to fill {' and '.join(empty)}; the family will refuse this file"]


# ---- entries of an original


def entry_of(place: str, holder: Any, key: str, default: Any = ...) -> Any:
    """`holder[key]`. Raises BadData when `holder` is no mapping, or lacks the key and no default is given."""
    if not isinstance(holder, dict):
        raise BadData(f"{place}: found {sayable(holder)}, but must be a mapping with {key!r}")
    if key in holder:
        return holder[key]
    if default is ...:
        listed = ", ".join(sayable(name) for name in list(holder)[:12]) or "nothing"
        raise BadData(f"{place}: has no {key!r}; it has {listed}")
    return default


def whole_of(place: str, value: Any, low: int = -LARGEST_WHOLE, high: int = LARGEST_WHOLE) -> int:
    """A whole number in [low, high], also when it is written as text or as 3.0."""
    number = number_of(place, value, low, high)
    if number != int(number):
        raise BadData(f"{place}: found {sayable(value)}, but must be a whole number")
    return int(value) if isinstance(value, (int, str)) and str(value).strip("+-").isdigit() else int(number)


def number_of(place: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in [low, high], also when it is written as text."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(value)
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(value)
    except (ValueError, OverflowError):
        raise BadData(f"{place}: found {sayable(value)}, but must be a finite number") from None
    if not low <= number <= high:
        raise BadData(f"{place}: found {sayable(value)}; allowed are {low:g} to {high:g}")
    return number


def text_of(place: str, value: Any) -> str:
    """`value` as text with single spaces between words; a number is written out, None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadData(f"{place}: found {sayable(value)}, but must be text")
    text = " ".join(str(value).split())
    if len(text) > LARGEST_TEXT:
        raise BadData(f"{place}: has {len(text):,} characters; at most {LARGEST_TEXT:,} are taken")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadData(
            f"{place}: found {sayable(value)}, which holds half a character; save it as UTF-8"
        ) from None
    return text


def sayable(value: Any) -> str:
    """What was found, short enough for a message."""
    if isinstance(value, (dict, list)):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    return repr(value)[:40]
