"""Rows of a stack to disk and back: atomically, and readable by `torch.load(weights_only=True)`.

`last.pt` is a trial's whole state, from which any slot of any engine continues it; `model.pt` is the best model as
an ordinary `state_dict`.
"""

from __future__ import annotations

import os
import pickle
import zipfile
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


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU. Raises BadCheckpoint when it is torn or holds more than weights."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise BadCheckpoint(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from error
