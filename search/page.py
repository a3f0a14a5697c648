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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
    "write_page",
]

DIGITS = 6  # significant digits of numbers in a page's data; the Parquet files have all of them
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
    """A table that `table.js` sorts and filters. `rows` hold text, numbers and None, a cell a column."""

    id: str
    caption: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[Any]]
    placeholder: str = ""

    @property
    def first_rows(self) -> Sequence[Sequence[Any]]:
        return self.rows[:ROWS_WITHOUT_SCRIPT]

    def data(self) -> dict[str, Any]:
        """What `table.js` reads."""
        return {"columns": [column._asdict() for column in self.columns], "rows": self.rows}


def render(template: str, *, title: str, scripts: Sequence[str] = (), **context: Any) -> str:
    """The page that `template` (it extends `base.html`) makes of `context`; `scripts` are files beside it."""
    sources = [_asset(name) for name in scripts]
    page = _templates().get_template(template)
    return page.render(
        title=title, policy=_policy(sources), style=Markup(_asset("page.css")), scripts=sources, **context
    )


def write_page(path: Path, text: str) -> None:
    """Write a page so that a reader sees the former one or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def value(number: Any, digits: int = 4) -> str:
    """A cell or a figure for people: `digits` significant digits of a float, words as they are."""
    if number is None or (isinstance(number, float) and math.isnan(number)):
        return "–"
    if isinstance(number, bool):
        return "yes" if number else "no"
    if not isinstance(number, float):
        return str(number)
    if number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    mantissa, _, exponent = f"{number:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


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
