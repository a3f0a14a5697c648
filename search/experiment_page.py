"""The tables of an experiment as a section of an HTML page.

{% import "experiment.html" as experiment %}
{{ experiment.section(shown) }}          shown = experiment_section(experiment_of(...), directory)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from search.console import number
from search.expectations import HELD, NOT_HELD
from search.experiment_tables import (
    bounds_in_words,
    checks_of,
    effects_of,
    headline,
    label_of,
    metric_in_words,
    part_in_words,
    place_of,
    says_more_than_matrices,
    table_of,
    verdict_in_words,
)
from search.page import Figure
from search.run_directory import RunDirectory

__all__ = ["experiment_section"]

Values = Mapping[str, Any]
MOST_PICTURES, MOST_BYTES = 12, 1_000_000  # a page of 15 MB has other things to show
KINDS = {HELD: "good", NOT_HELD: "bad"}


def experiment_section(values: Values, directory: RunDirectory) -> dict[str, Any]:
    """What the template's macro `section` shows of `search.experiment_tables.experiment_of`'s values.

    Pictures are read from the run directory: the first of each cell, of `MOST_PICTURES` cells at most.
    """
    tables = []
    if says_more_than_matrices(values):
        heads, rows = table_of(values)
        numeric = range(len(values["axes"]), len(heads) - 1)
        tables.append({"caption": "Figures of each cell", "heads": heads, "rows": rows, "numeric": numeric})
    if values["effects"]:
        heads, rows = effects_of(values)
        caption = "Each axis by itself: means over the other axes"
        tables.append({"caption": caption, "heads": heads, "rows": rows, "numeric": range(2, len(heads))})
    if values["checks"]:
        heads, rows = checks_of(values)
        tables.append({"caption": "Checks", "heads": heads, "rows": rows, "numeric": ()})
    return {
        "headline": headline(values),
        "matrices": [_matrix(matrix, values) for matrix in values["matrices"]],
        "tables": tables,
        "definitions": [f"{check['says']}: {bounds_in_words(check)}" for check in values["checks"]],
        "expect": [
            {
                "says": one["says"],
                "verdict": verdict_in_words(one),
                "kind": KINDS.get(one["verdict"], ""),
                "found": [
                    part_in_words(part).replace(" -> ", "\N{NO-BREAK SPACE}→ ") for part in one["parts"]
                ],
            }
            for one in values["expect"]
        ],
        "pictures": list(_pictures(values, directory)),
    }


def _matrix(matrix: Values, values: Values) -> dict[str, Any]:
    """Rows of {text, marks}: "row" and "column" where the cell is the best of its own."""
    rows, columns = values["axes"]
    metric = next(one for one in values["metrics"] if one["name"] == matrix["metric"])
    lines = [
        {
            "label": place_of(row),
            "cells": [
                {
                    "text": number(mean),
                    "marks": [
                        *(["row"] if matrix["best_in_row"][y] == x else []),
                        *(["column"] if matrix["best_in_column"][x] == y else []),
                    ],
                }
                for x, mean in enumerate(matrix["means"][y])
            ],
        }
        for y, row in enumerate(rows["values"])
    ]
    return {
        "caption": metric_in_words(metric),
        "corner": rows["name"],
        "heads": [f"{columns['name']} {place_of(value)}" for value in columns["values"]],
        "rows": lines,
    }


def _pictures(values: Values, directory: RunDirectory) -> Iterator[Figure]:
    chosen = [(cell, cell["pictures"][0]) for cell in values["cells"] if cell.get("pictures")]
    for index, (cell, path) in enumerate(chosen[:MOST_PICTURES]):
        file = directory.path / path
        if file.stat().st_size > MOST_BYTES:
            continue
        label = label_of(cell["at"])
        alt = f"What the model of {label} makes of examples"
        yield Figure.picture(f"experiment-{index}", label, path, file.read_bytes(), alt)
