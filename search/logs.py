"""Where messages go while a run is open.

loggers `loss_search.*`       from INFO to RUN/run.log, from WARNING to the terminal as well
Python's warnings and others  from WARNING to RUN/run.log (Ray, Optuna and torch among them)
with --verbose                everything from INFO to both
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from search.console import visible

__all__ = ["configure"]

OURS = "loss_search"


@contextlib.contextmanager
def configure(path: Path, verbose: bool) -> Iterator[None]:
    """Route messages to the file `path` (appended to) and the terminal, until the block ends.

    Raises OSError when the file cannot be opened.
    """
    root, ours = logging.getLogger(), logging.getLogger(OURS)
    file = _RunLog(path, encoding="utf-8")
    terminal = _Terminal()
    terminal.setLevel(logging.INFO if verbose else logging.WARNING)
    before = root.level, ours.level
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    ours.setLevel(logging.INFO)
    on_terminal = root if verbose else ours
    root.addHandler(file)
    on_terminal.addHandler(terminal)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        on_terminal.removeHandler(terminal)
        root.removeHandler(file)
        root.setLevel(before[0])
        ours.setLevel(before[1])
        file.close()


class _RunLog(logging.FileHandler):
    """Lines like `2026-01-31 12:00:00Z WARNING loss_search.run: ...`, in UTC."""

    def __init__(self, path: Path, encoding: str) -> None:
        super().__init__(path, encoding=encoding)
        self.failed = False
        layout = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        layout.converter = time.gmtime
        self.setFormatter(layout)

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk: said once, instead of a traceback a line. What must not be lost goes elsewhere."""
        if not self.failed:
            self.failed = True
            print(f"{self.baseFilename}: cannot be written ({sys.exc_info()[1]})", file=sys.stderr)


class _Terminal(logging.Handler):
    """Plain lines on whatever the standard error stream is at that moment: a live table redirects it."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        print(f"{level}{visible(record.getMessage())}", file=sys.stderr, flush=True)
