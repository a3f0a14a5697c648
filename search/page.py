"""Self-contained HTML pages: one file that opens without a server and without a network.

    render("report.html", title=..., scripts=("table.js",), ...)  ──► text of the page

Templates, style and scripts lie in `templates/` and are inlined. Everything from a run (names, comments,
error texts) is escaped by jinja2, data for scripts by `script_json`. Behind that stands the page's own
`Content-Security-Policy`: it allows no connection at all, and no script but those whose hashes it lists.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from search.console import duration, short

__all__ = [
    "DataTable",
    "Figure",
    "TableColumn",
    "plain",
    "render",
    "rounded",
    "signed",
    "value",
    "write_bytes",
    "write_page",
]

DIGITS = 6  # significant digits of numbers in a page's data; the Parquet files have all of them
PLAIN_FROM, PLAIN_TO = 1e-4, 1e7  # numbers within are written without an exponent
PNG_HEADER_BYTES = 24  # signature, length and name of the first chunk, width, height
WIDE = 1.8  # times as wide as high: several of these beside each other would be too small
ROWS_WITHOUT_SCRIPT = 25  # of a table, for paper and for readers that run no script


@dataclass(frozen=True)
class Figure:
    """A picture with what it is called and the sentence that says what to see in it.

    `alt` is for those who do not see it. `wide` asks for the whole width of the page.
    """

    name: str
    title: str
    sentence: str
    png: bytes
    alt: str
    wide: bool = False

    @classmethod
    def picture(cls, name: str, title: str, sentence: str, png: bytes, alt: str) -> Figure:
        """A picture that a family drew; one that is much wider than high is `wide`."""
        whole = len(png) >= PNG_HEADER_BYTES
        width, height = struct.unpack(">II", png[16:PNG_HEADER_BYTES]) if whole else (1, 1)
        return cls(name, title, sentence, png, alt, wide=width > WIDE * height)

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


class TableColumn(NamedTuple):
    """A column of a `DataTable`: `name` is what a filter calls it, `label` its head, `hint` its meaning."""

    name: str
    label: str
    numeric: bool = False
    hint: str = ""


@dataclass(frozen=True)
class DataTable:
    """A table that `table.js` sorts and filters. `rows` hold text, numbers and None, a cell a column.

    `sorted_by`: the numeric column by which it is sorted at first, and whether from the largest down.
    """

    id: str
    caption: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[Any]]
    placeholder: str = ""
    sorted_by: tuple[str, bool] | None = None

    @property
    def first_rows(self) -> Sequence[Sequence[Any]]:
        if self.sorted_by is None:
            return self.rows[:ROWS_WITHOUT_SCRIPT]
        at, sign = self._sorted_at, -1 if self.sorted_by[1] else 1

        def place(row: Sequence[Any]) -> tuple[bool, float]:
            lacks = row[at] is None or math.isnan(row[at])
            return lacks, 0.0 if lacks else sign * row[at]

        return sorted(self.rows, key=place)[:ROWS_WITHOUT_SCRIPT]

    @property
    def _sorted_at(self) -> int:
        return [column.name for column in self.columns].index(self.sorted_by[0])

    @cached_property
    def decimals(self) -> Sequence[int | None]:
        """For each column, with how many decimals all of its numbers can be read; None: each as it needs."""
        cells = zip(*self.rows, strict=True) if self.rows else [()] * len(self.columns)
        return [
            _decimals(values) if column.numeric else None
            for column, values in zip(self.columns, cells, strict=True)
        ]

    def data(self) -> dict[str, Any]:
        """What `table.js` reads."""
        pairs = zip(self.columns, self.decimals, strict=True)
        columns = [{**column._asdict(), "decimals": decimals} for column, decimals in pairs]
        first = self.sorted_by and {"index": self._sorted_at, "down": self.sorted_by[1]}
        return {"columns": columns, "rows": self.rows, "first": first}


def render(template: str, *, title: str, scripts: Sequence[str] = (), **context: Any) -> str:
    """The page that `template` (it extends `base.html`) makes of `context`; `scripts` are files beside it."""
    sources = [_asset(name) for name in scripts]
    page = _templates().get_template(template)
    return page.render(
        title=title, policy=_policy(sources), style=Markup(_asset("page.css")), scripts=sources, **context
    )


def write_page(path: Path, text: str) -> None:
    """Write a page so that a reader sees the former one or the whole new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the former one or the whole new one. Raises OSError (disk full)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def value(number: Any, digits: int = 4, decimals: int | None = None) -> str:
    """A cell or a figure for people: `digits` significant digits of a float, words as they are.

    `decimals`, where given, is how many a number has after its point.
    """
    if number is None or (isinstance(number, float) and math.isnan(number)):
        return "–"
    if isinstance(number, bool):
        return "yes" if number else "no"
    if not isinstance(number, float):
        return str(number)
    if decimals is not None and math.isfinite(number):
        return f"{number:.{decimals}f}"
    if number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    if PLAIN_FROM <= abs(number) < PLAIN_TO:
        fixed = f"{number:.{max(0, digits - 1 - math.floor(math.log10(abs(number))))}f}"
        return fixed.rstrip("0").rstrip(".") if "." in fixed else fixed
    mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _decimals(values: Iterable[Any]) -> int | None:
    """Four digits of the largest number; None for whole numbers, and where the smallest would vanish."""
    sizes = [abs(number) for number in values if isinstance(number, float) and math.isfinite(number)]
    if not sizes or all(size.is_integer() for size in sizes):
        return None
    most, least = max(sizes), min((size for size in sizes if size), default=0.0)
    return max(0, 3 - math.floor(math.log10(most))) if 1e-3 <= most < 1e4 and least >= most / 100 else None


def signed(number: float, digits: int = 3) -> str:
    """A difference for people: with its sign, `digits` decimals."""
    return f"{number:+.{digits}f}".replace("-", "−")


def plain(item: Any) -> Any:
    """`item` as JSON has it: null for numbers that are not finite, numpy's numbers as Python's."""
    if isinstance(item, Mapping):
        return {str(key): plain(inner) for key, inner in item.items()}
    if isinstance(item, list | tuple) or hasattr(item, "tolist"):
        items = item.tolist() if hasattr(item, "tolist") else item
        return [plain(inner) for inner in items] if isinstance(items, list | tuple) else plain(items)
    return None if isinstance(item, float) and not math.isfinite(item) else item


def rounded(item: Any) -> Any:
    """`plain` with floats at `DIGITS` significant digits: a page need not carry all seventeen."""
    if isinstance(item, float):
        return float(f"{item:.{DIGITS}g}") if math.isfinite(item) else None
    if isinstance(item, Mapping):
        return {str(key): rounded(inner) for key, inner in item.items()}
    if isinstance(item, list | tuple):
        return [rounded(inner) for inner in item]
    return rounded(item.tolist()) if hasattr(item, "tolist") else item


def script_json(item: Any) -> Markup:
    """JSON that can stand inside a script element: no text in it ends the element or begins another."""
    return htmlsafe_json_dumps(rounded(item), dumps=_compact)


def _compact(item: Any, **_: Any) -> str:
    return json.dumps(item, separators=(",", ":"), allow_nan=False)


def _policy(scripts: Iterable[str]) -> str:
    """No connection, no form, no frame; these scripts alone; pictures and style that the page holds."""
    hashes = [hashlib.sha256(source.encode()).digest() for source in scripts]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    """The text of a script or style of ours; as such it is inlined as it is."""
    text = (importlib.resources.files("search") / "templates" / name).read_text(encoding="utf-8")
    assert "</script" not in text.lower() and "</style" not in text.lower(), name
    return text


@cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("search", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"value": value, "signed": signed, "duration": duration, "short": short}
    templates.filters |= {"script_json": script_json, "inlined": Markup}
    return templates
