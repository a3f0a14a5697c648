"""An append-only log of what happened in a run, written before anything else learns of it.

    {"crc":"5d0f3a9c","event":{"sequence":17,"time":1789000000.25,"kind":"reported","row":{...}}}

One line an event; `crc` is the CRC32 (eight hexadecimal digits) of the exact bytes of `event`. Non-finite
numbers are written as NaN, Infinity and -Infinity, which Python's json reads back. `sequence` rises by one;
`time` (Unix seconds) is for people, and nothing depends on its order.

A process that is killed loses nothing: a line is one `write` to the kernel. Loss of power can cost what was
appended since the last fsync: `search` and `finished` are synced before `append` returns, other events at
most `SYNC_INTERVAL_S` later while appends go on, or when the caller calls `sync`.
"""

from __future__ import annotations

import json
import mmap
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search.errors import DamagedRun, RunFailed

__all__ = [
    "EVENT_KINDS",
    "SYNC_INTERVAL_S",
    "EventLog",
    "append_whole",
    "each_event",
    "phase_of",
    "read_events",
    "sync_directory",
]

Event = dict[str, Any]

# Beside these an event of the confirmation has `phase`; a `reported` one has it in its row.
EVENT_KINDS: Mapping[str, tuple[str, ...]] = {
    "search": ("what",),  # the driver itself: start, resume, stop (resumable), finish (every trial has ended)
    "started": ("trial", "params", "seed", "preset", "engine"),
    "reported": ("row",),  # the whole row of one epoch, vectors included
    "finished": ("trial", "state", "reason", "error", "numbers"),
    "retried": ("trial", "reason"),
}
SYNC_INTERVAL_S = 1.0
SYNCED_KINDS = ("search", "finished")

HEAD, MIDDLE, TAIL = b'{"crc":"', b'","event":', b"}\n"
CRC_START, CRC_END = len(HEAD), len(HEAD) + 8
BODY_START = CRC_END + len(MIDDLE)


class EventLog:
    """The one writer of `path`. Opening it cuts a torn tail and keeps the cut bytes in `<path>.torn-N`.

    `warnings` tells what opening had to repair. Raises OSError when the file cannot be opened and DamagedRun
    when it is a symbolic link.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.warnings: list[str] = []
        if self.path.is_symlink():
            raise DamagedRun(f"{self.path}: is a symbolic link; a run's log is a file of its own")
        is_new = not self.path.exists()
        self._fd = os.open(
            self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
        )
        if is_new:
            sync_directory(self.path.parent)
        self._offset, self._sequence = self._repair()
        self._synced_at, self._unsynced = time.monotonic(), False

    def append(self, event: Mapping[str, Any]) -> int:
        """Write one event and return its sequence number.

        `event` holds `kind` and that kind's fields (see `EVENT_KINDS`), all plain JSON values. Raises
        ValueError or TypeError for another event and OSError when the disk is full; both leave the file as it
        was. Raises RunFailed when the file was removed while the run was going on.
        """
        kind = event.get("kind")
        if kind not in EVENT_KINDS:
            raise ValueError(f"event {kind=}, allowed: {', '.join(EVENT_KINDS)}")
        missing = [name for name in EVENT_KINDS[kind] if name not in event]
        if missing:
            raise ValueError(f"a {kind!r} event lacks {', '.join(missing)}")
        sequence = self._sequence
        line = _encode({"sequence": sequence, "time": time.time(), **event})
        self._offset = append_whole(self._fd, line, self._offset)
        self._sequence, self._unsynced = sequence + 1, True
        if os.fstat(self._fd).st_nlink == 0:
            raise RunFailed(
                f"{self.path}: was removed while the run was going on; events can no longer be kept"
            )
        if kind in SYNCED_KINDS or time.monotonic() - self._synced_at >= SYNC_INTERVAL_S:
            self.sync()
        return sequence

    def sync(self) -> None:
        """Make everything appended so far survive a loss of power. Costs nothing when nothing is new."""
        if self._unsynced:
            os.fsync(self._fd)
            self._unsynced = False
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync and close; a second call does nothing."""
        if self._fd >= 0:
            self.sync()
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repair(self) -> tuple[int, int]:
        """Cut what follows the last good line; returns the size in bytes and the next sequence number."""
        size = os.fstat(self._fd).st_size
        good, last = _good_end(self._fd, size)
        if good < size:
            kept = self._keep_torn(os.pread(self._fd, size - good, good))
            os.ftruncate(self._fd, good)
            os.fsync(self._fd)
            self.warnings.append(f"{self.path}: cut a torn tail of {size - good} bytes, kept in {kept.name}")
        return good, 0 if last is None else last["sequence"] + 1

    def _keep_torn(self, torn: bytes) -> Path:
        number = 1
        while True:
            copy = self.path.with_name(f"{self.path.name}.torn-{number}")
            try:
                fd = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                number += 1
                continue
            try:
                append_whole(fd, torn, 0)
            finally:
                os.close(fd)
            return copy


def read_events(path: Path) -> tuple[list[Event], list[str]]:
    """All good events of a log in order, and warnings about what was left out (see `each_event`)."""
    warnings: list[str] = []
    return list(each_event(path, warnings)), warnings


def each_event(path: Path, warnings: list[str]) -> Iterator[Event]:
    """The good events of a log in order, one at a time; `warnings` tells what is left out.

    A torn or corrupt tail gives one warning; a corrupt line before it one each, with its number (from 1). A
    line whose sequence number does not rise is left out, so that nothing is counted twice; a gap is told.
    """
    path = Path(path)
    previous = -1
    corrupt: list[int] = []  # line numbers since the last good line
    if not path.exists():
        warnings.append(f"{path}: there is no event log")
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            event = _decode(line)
            if event is None:
                corrupt.append(number)
                continue
            warnings += [f"{path}:{wrong}: corrupt line, left out" for wrong in corrupt]
            sequence = event["sequence"]
            if sequence <= previous:
                warnings.append(f"{path}:{number}: event {sequence} again after {previous}, left out")
            else:
                if sequence > previous + 1 and not corrupt:
                    warnings.append(f"{path}:{number}: events {previous + 1} to {sequence - 1} are missing")
                previous = sequence
                yield event
            corrupt = []
    if corrupt:
        warnings.append(f"{path}:{corrupt[0]}: torn or corrupt tail of {len(corrupt)} line(s), left out")


def phase_of(event: Mapping[str, Any]) -> str:
    """The phase of the run that an event belongs to: `search`, or `confirm`."""
    return (event["row"] if event["kind"] == "reported" else event).get("phase") or "search"


def append_whole(fd: int, data: bytes, offset: int) -> int:
    """Append all of `data` to a file of `offset` bytes, or nothing; returns the new length in bytes.

    Raises OSError (disk full, quota, file size limit) after cutting the file back to `offset`.
    """
    written = 0
    try:
        while written < len(
            data
        ):  # the kernel takes less than asked when space runs out; asking again says why
            written += os.write(fd, data[written:] if written else data)
    except OSError:
        os.ftruncate(fd, offset)
        raise
    return offset + written


def sync_directory(directory: Path) -> None:
    """Make a new or renamed file's name survive a loss of power."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _encode(event: Event) -> bytes:
    body = json.dumps(event, separators=(",", ":"), allow_nan=True).encode("ascii")
    return HEAD + b"%08x" % zlib.crc32(body) + MIDDLE + body + TAIL


def _decode(line: bytes) -> Event | None:
    """The event of one line, newline included; None for a line that `_encode` did not write."""
    if not (line.startswith(HEAD) and line[CRC_END:BODY_START] == MIDDLE and line.endswith(TAIL)):
        return None
    body = line[BODY_START : -len(TAIL)]
    if line[CRC_START:CRC_END] != b"%08x" % zlib.crc32(body):
        return None
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):  # a forged line may carry a right checksum
        return None
    whole = (
        isinstance(event, dict) and event.get("kind") in EVENT_KINDS and type(event.get("sequence")) is int
    )
    return event if whole else None


def _good_end(fd: int, size: int) -> tuple[int, Event | None]:
    """Where the last good line ends (bytes) and its event; found from the end, for a log may be large."""
    if size == 0:
        return 0, None
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as data:
        end = data.rfind(b"\n") + 1
        while end > 0:
            start = data.rfind(b"\n", 0, end - 1) + 1
            event = _decode(data[start:end])
            if event is not None:
                return end, event
            end = start
    return 0, None
