"""How text reaches the terminal: no markup is read in it, and control characters are made visible."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "complain",
    "console",
    "duration",
    "is_copy",
    "number",
    "print_table",
    "say",
    "short",
    "show_as",
    "shown_path",
    "table",
    "visible",
]

PIPE_COLUMNS = 1000  # where there is no terminal nothing is cut or wrapped


def visible(text: object) -> str:
    """`text` with what would steer a terminal (escapes, bells) written as in `\\x1b`; line ends stay."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text)
    )


def say(text: object = "") -> None:
    """One message on the standard output."""
    print(visible(text), flush=True)


def complain(text: object) -> None:
    """One message on the standard error stream."""
    print(visible(text), file=sys.stderr, flush=True)


def console(file: IO[str] | None = None) -> Console:
    """A rich console that takes every text literally: run and preset names are other people's words."""
    from rich.console import Console

    made = Console(file=file, markup=False, emoji=False, highlight=False, soft_wrap=False)
    return (
        made
        if made.is_terminal
        else Console(file=file, markup=False, emoji=False, highlight=False, width=PIPE_COLUMNS)
    )


def table(columns: Iterable[str], rows: Iterable[Sequence[Any]], right: Iterable[str] = ()) -> Table:
    """A plain table: no frame, bold heads, the columns in `right` aligned to the right."""
    from rich.table import Table

    right = set(right)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        number_like = name in right
        made.add_column(
            name, justify="right" if number_like else "left", overflow="fold", no_wrap=number_like
        )
    for row in rows:
        made.add_row(*("" if cell is None else visible(cell) for cell in row))
    return made


def print_table(columns: Iterable[str], rows: Iterable[Sequence[Any]], right: Iterable[str] = ()) -> None:
    """Print a table; where there is no terminal, one line a row without trailing spaces."""
    screen = console()
    if screen.is_terminal:
        screen.print(table(columns, rows, right))
        return
    with screen.capture() as captured:
        screen.print(table(columns, rows, right))
    for line in captured.get().splitlines():
        print(line.rstrip(), flush=True)


def number(value: object) -> str:
    """A measured value for people: four digits of a float, whole numbers and words as they are."""
    if value is None:
        return "-"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.4f}" if 0.001 <= abs(value) < 1000 else f"{value:.4g}"
    return str(value)


def short(value: object) -> str:
    """A setting for people: a number without needless digits, words as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{int(value):,}" if abs(value) < 1e15 and value == int(value) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_SHOWN_AS: dict[Path, str] = {}  # local copies, and the URI that a person knows each by


def show_as(path: Path, uri: str) -> None:
    """From now on show what lies below `path` as the part of `uri` that it is a copy of."""
    _SHOWN_AS[path.absolute()] = uri


def is_copy(path: Path) -> bool:
    """Whether what lies here is a copy that a command works on, of a run in a store."""
    return any(path.absolute().is_relative_to(copy) for copy in _SHOWN_AS)


def shown_path(path: Path) -> str:
    """A path as one would type it in a shell here: relative when it lies below the working directory, a URI
    for what is a copy of it."""
    absolute = path.absolute()
    for copy, uri in _SHOWN_AS.items():
        if absolute.is_relative_to(copy):
            place, sign, query = uri.partition("?")
            return shlex.quote("/".join([place, *absolute.relative_to(copy).parts]) + sign + query)
    here = Path(os.getcwd())
    inside = absolute.is_relative_to(here) and absolute != here
    return shlex.quote(str(absolute.relative_to(here) if inside else absolute))
