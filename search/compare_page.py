"""A comparison of runs as a self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search import drawing
from search.compare_lines import Shown, letters, tables_of
from search.compare_plots import curves_data, draw_curves
from search.page import DataTable, Figure, TableColumn, render

__all__ = ["comparison_page"]

FEW = 10  # rows that one reads without sorting and filtering


def comparison_page(facts: Mapping[str, Any]) -> str:
    """The page about `facts`, which `search.compare.compare` found."""
    names = [f"{letter} {run['run']}" for letter, run in zip(letters(facts), facts["runs"], strict=True)]
    curves = curves_data(facts, letters(facts))
    figure = Figure(
        "curves",
        "Best so far at the same budget",
        curves.sentence,
        drawing.png(draw_curves(curves)),
        f"A line for each run: the best {facts['metric']} so far against epochs spent. {curves.sentence}",
    )
    tables = list(tables_of(facts))
    way = "higher is better" if facts["direction"] == "maximize" else "lower is better"
    return render(
        "compare.html",
        title=f"{len(names)} runs of {facts['family']} compared",
        scripts=("table.js",),
        subtitle=f"By {facts['metric']} on validation data, {way}.",
        sentences=[
            f"{names[index]}: {run['confirmed']['sentence']}"
            for index, run in enumerate(facts["runs"])
            if run["confirmed"] is not None
        ],
        warnings=facts["warnings"],
        figure=figure,
        tables={table.name: _shown(table, facts, names) for table in tables},
        none=facts["why_none_in_common"],
    )


def _shown(table: Shown, facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A table as the template takes it; a long one can be sorted and filtered."""
    numeric = [index for index, head in enumerate(table.heads) if head in table.numeric]
    sortable = _sortable(table, facts, names) if len(table.rows) > FEW else None
    return {**table._asdict(), "numeric": numeric, "sortable": sortable}


def _sortable(table: Shown, facts: Mapping[str, Any], names: Sequence[str]) -> DataTable:
    """A table whose numbers are sorted as numbers; a run's column says which run it is."""
    hints = dict(zip(letters(facts), names, strict=True))
    columns = [
        TableColumn(
            head.replace(" ", "") or "what", head or "what", head in table.numeric, hints.get(head, "")
        )
        for head in table.heads
    ]
    numeric = [head in table.numeric for head in table.heads]
    rows = [
        [_number(cell) if is_number else cell for cell, is_number in zip(row, numeric, strict=True)]
        for row in table.rows
    ]
    return DataTable(table.name, table.title, columns, rows, "as in none, or A>0.2")


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell or None
