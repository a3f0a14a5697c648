"""Rows of a stack to disk and back: atomically, and readable by `torch.load(weights_only=True)`.

`last.pt` is a trial's whole state, from which any slot of any engine continues it; `model.pt` is the best
model as an ordinary `state_dict`.
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from trainables.errors import BadCheckpoint

__all__ = ["FORMAT", "load", "save"]

FORMAT = 1  # of last.pt; a reader refuses any other


def save(content: dict[str, Any], path: Path) -> None:
    """Write `content` to `path` so that a reader sees the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# What zipfile, and torch's unpickler on bytes that are no checkpoint of ours, have been seen to raise.
_UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises BadCheckpoint when it is torn or holds more than weights.
    """
    try:
        with zipfile.ZipFile(
            path
        ) as archive:  # torch would also read files of other kinds, and checks no sums
            damaged = archive.testzip()
        if damaged is not None:
            raise BadCheckpoint(
                f"{path}: not a readable checkpoint (its part {damaged} has a wrong checksum)"
            )
        content = torch.load(path, map_location="cpu", weights_only=True)
    except BadCheckpoint:
        raise
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadCheckpoint(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{path}: not a checkpoint (holds a {type(content).__name__}, not a dict)")
    return content
