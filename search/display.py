"""A search while it runs: a live table on a terminal, plain lines anywhere else.

Both say everything in words; colour only repeats it, and is never red against green.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from search.console import console, duration, number, short, shown_path, table, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.progress import Best, Snapshot

__all__ = ["Display", "frame", "status_line"]

PLAIN_EVERY_S = 10.0
NEWS_SHOWN = 5
RUNNING_SHOWN = 16
STAGES = {
    "starting": "starting Ray",
    "waiting": "waiting for a node with room for an engine; `ray status` on the head says what Ray waits for",
    "searching": "searching",
    "stopping": "stopping: trials in progress are being saved (Ctrl-C again leaves at once; nothing is lost)",
    "finishing": "writing the record",
}


class Display:
    """Shows snapshots: `start`, call it with each one, `stop`.

    Args:
        path: the run directory, named at the start unless it was already (`announce=False`).
        file: where to write; the standard output by default.
    """

    def __init__(self, path: Path, file: IO[str] | None = None, *, announce: bool = True) -> None:
        self.path, self.announce = path, announce
        self.console = console(file)
        self.news: deque[str] = deque(maxlen=NEWS_SHOWN)
        self.live: Any = None
        self._doing = ""
        self._line_at = 0.0

    def start(self) -> None:
        run = shown_path(self.path)
        if self.announce:
            self._print(f"run directory  {run}")
            self._print(f"to watch       loss-search tensorboard {run}")
        if not self.console.is_terminal:
            return
        from rich.live import Live

        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.live.start()
        # Rich hides the cursor; a second Ctrl-C ends the process at once, and nobody would bring it back.
        self.console.show_cursor(True)

    def __call__(self, snapshot: Snapshot) -> None:
        self.news.extend(snapshot.news)
        if self.live is not None:
            self.live.update(frame(snapshot, tuple(self.news)), refresh=True)
            return
        for line in snapshot.news:
            self._print(f"{duration(snapshot.elapsed_s)} {line}")
        now, doing = time.monotonic(), _doing(snapshot)
        if doing != self._doing:
            self._doing, self._line_at = doing, now
            self._print(f"{duration(snapshot.elapsed_s)} {doing}")
        elif now - self._line_at >= PLAIN_EVERY_S:
            self._line_at = now
            self._print(status_line(snapshot))

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def __enter__(self) -> Display:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _print(self, line: str) -> None:
        print(visible(line), file=self.console.file, flush=True)


def status_line(snapshot: Snapshot) -> str:
    """Where a search stands, in one line; before its first epoch and after its last, what it does."""
    if snapshot.stage != "searching":
        return f"{duration(snapshot.elapsed_s)} {_doing(snapshot)}"
    states = snapshot.states
    parts = [
        f"{duration(snapshot.elapsed_s)} {_ended(states)} of {snapshot.trials_total} trials ended",
        _states(states),
        f"{states['running']} running",
        _rates(snapshot),
        *([_ready(snapshot)] if snapshot.engines < snapshot.engines_wanted else []),
        *_left(snapshot),
    ]
    best = f"; best {_best(snapshot)}" if snapshot.best else ""
    return ", ".join(parts) + best


def frame(snapshot: Snapshot, news: tuple[str, ...]) -> RenderableType:
    """The live table: where the search stands, what runs, and the last few news."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    head.add_column(style="bold", no_wrap=True)
    head.add_column(overflow="fold")
    time_spent = ", ".join([duration(snapshot.elapsed_s), *_left(snapshot)])
    head.add_row(snapshot.phase, Text(f"{_doing(snapshot)}  {time_spent}"))
    states = snapshot.states
    to_go = max(0, snapshot.trials_total - _ended(states) - states["running"])
    head.add_row(
        "trials", f"{_states(states)}, {states['running']} running, {to_go} to go of {snapshot.trials_total}"
    )
    head.add_row("speed", f"{snapshot.epochs_done} epochs, {_rates(snapshot)}, {_ready(snapshot)}")
    if snapshot.best is not None:
        head.add_row("best", Text(_best(snapshot), style="bold cyan"))
        head.add_row("", Text(_knobs(snapshot.best)))
    parts: list[Any] = [Text(), head]
    if snapshot.running:
        parts += [Text(), _running(snapshot)]
    if news:
        parts += [
            Text(),
            *(Text(visible(line), style="dim", overflow="fold") for line in news),
        ]
    return Group(*parts)


def _running(snapshot: Snapshot) -> RenderableType:
    columns = ("trial", "preset", "epoch", f"{snapshot.objective} now", "best", "engine")
    rows: list[tuple] = [
        (
            view.number,
            view.preset,
            f"{view.epoch}/{view.epochs}",
            number(view.value),
            number(view.best),
            view.engine,
        )
        for view in snapshot.running[:RUNNING_SHOWN]
    ]
    if len(snapshot.running) > RUNNING_SHOWN:
        rows.append(("...", f"and {len(snapshot.running) - RUNNING_SHOWN} more", "", "", "", ""))
    return table(columns, rows, right=("trial", "epoch", columns[3], "best"))


def _doing(snapshot: Snapshot) -> str:
    if snapshot.phase == "confirm" and snapshot.stage == "searching":
        return "confirming: the best again, with fresh seeds"
    if snapshot.stage == "starting" and snapshot.engines_wanted:
        return f"Ray runs; starting {_engines(snapshot.engines_wanted)}"
    return STAGES.get(snapshot.stage, snapshot.stage)


def _ready(snapshot: Snapshot) -> str:
    if snapshot.engines < snapshot.engines_wanted:
        return f"{snapshot.engines} of {_engines(snapshot.engines_wanted)} ready"
    return _engines(snapshot.engines)


def _engines(count: int) -> str:
    return f"{count} engine" if count == 1 else f"{count} engines"


def _ended(states: Mapping[str, int]) -> int:
    return states["complete"] + states["pruned"] + states["failed"]


def _states(states: Mapping[str, int]) -> str:
    return f"{states['complete']} complete, {states['pruned']} pruned, {states['failed']} failed"


def _rates(snapshot: Snapshot) -> str:
    return (
        f"{snapshot.trials_per_min:.1f} trials/min, {snapshot.epochs_per_s:.1f} epochs/s, "
        f"{snapshot.slots_busy} of {snapshot.slots} slots busy"
    )


def _left(snapshot: Snapshot) -> list[str]:
    if snapshot.left_s is None or snapshot.stage != "searching" or not snapshot.running:
        return []
    return [f"about {duration(snapshot.left_s)} left"]


def _best(snapshot: Snapshot) -> str:
    best: Best = snapshot.best
    name = f" ({visible(best.preset)})" if best.preset else ""
    return f"{snapshot.objective} {number(best.value)}: trial {best.number}{name}, epoch {best.epoch}"


def _knobs(best: Best) -> str:
    return "  ".join(f"{name}={visible(short(value))}" for name, value in best.params.items())
