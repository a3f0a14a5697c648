"""A command in a process of its own, timed, of which nothing is left when it has ended. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Ended", "foster_parent", "run"]

PATIENCE_S = 900.0  # for one command; a hang is an error, not a result
END_S = 30.0  # what a command gets to end in order after SIGTERM
LOOK_S = 0.5
GRACE_S = 2.0  # Ray's agents notice the end of their raylet a moment after it
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Ended(NamedTuple):
    """A command's exit status (None: killed after `PATIENCE_S`), its wall time, the CPU time of it and all
    processes below it (up to `LOOK_S` before each one's end), and what it left running.
    """

    code: int | None
    wall_s: float
    cpu_s: float
    left_behind: list[str]


@contextlib.contextmanager
def foster_parent() -> Iterator[None]:
    """Orphans below this process become its children; none of them outlives the block, whatever ends it."""
    if sys.platform != "linux":
        sys.exit("this benchmark runs on Linux only")
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        _sweep()


def run(command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> Ended:
    """Run `command`, its output to `log`, inside `foster_parent`.

    On Ctrl-C it gets SIGTERM, and `END_S` to end in order; the exception goes on.
    """
    began, usage = time.perf_counter(), _Usage()
    with log.open("w") as output:
        # In a session of its own: the terminal's Ctrl-C reaches this process alone, which ends that one in
        # order.
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    code = None
    try:
        while code is None and time.perf_counter() - began < PATIENCE_S:
            usage.look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=LOOK_S)
    finally:
        wall = time.perf_counter() - began
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=END_S)
        left_behind = _sweep()
    return Ended(code, wall, usage.total_s, left_behind)


class _Usage:
    """CPU time of every process below this one, as seen by the last look at each.

    The kernel's sum over children lacks those of a process that ignores SIGCHLD, as Ray's raylet does.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, str], float] = {}  # by process id and start
        self._tick = os.sysconf("SC_CLK_TCK")

    @property
    def total_s(self) -> float:
        return sum(self._seconds.values())

    def look(self) -> None:
        for pid in _descendants():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self._seconds[pid, fields[19]] = (int(fields[11]) + int(fields[12])) / self._tick


def _sweep() -> list[str]:
    """End what runs below this process after a moment's grace; the command lines of what had to be killed."""
    killed: dict[int, str] = {}
    grace = time.monotonic() + GRACE_S
    while living := _descendants():
        if time.monotonic() > grace:
            killed |= living
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _reap()
        time.sleep(0.02)
    _reap()
    return list(killed.values())


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants() -> dict[int, str]:
    """Command lines of the processes below this one that run, by process id."""
    children: dict[int, list[int]] = {}
    commands: dict[int, str] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append(int(entry.name))
            if state != "Z":
                words = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ")
                commands[int(entry.name)] = words.decode(errors="replace").strip()
    found: dict[int, str] = {}
    todo = [os.getpid()]
    while todo:
        for child in children.get(todo.pop(), []):
            todo.append(child)
            if child in commands:
                found[child] = commands[child]
    return found
