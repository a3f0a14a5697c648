"""The columns of the record and what they mean."""

from __future__ import annotations

import math

from search.schema import schema_markdown, summarise


def test_the_best_epoch_is_the_first_of_the_largest_and_never_nan():
    rows = [{"trial": 0, "epoch": e, "seconds": 2.0, "val.a": a, "val.b": -a, "train.c": e} for e, a in
            [(4, 0.5), (1, math.nan), (2, 0.5), (3, 0.1)]]  # fmt: skip
    summary = summarise(rows, ["a", "b"])
    assert summary["best_epoch"] == 2
    assert (summary["objective"], summary["objective_1"]) == (0.5, -0.5)
    assert (summary["objective.a"], summary["objective.b"]) == (0.5, -0.5)
    assert (summary["best.train.c"], summary["final.train.c"], summary["final.val.a"]) == (2, 4, 0.5)
    assert (summary["epochs"], summary["seconds"]) == (4, 8.0)
    assert summarise(rows, ["a"], minimise=["a"])["best_epoch"] == 3
    nothing = summarise(rows[1:2], ["a"])
    assert nothing["objective"] is None
    assert nothing["best_epoch"] is None


def test_the_readme_table_names_every_column_with_its_type():
    text = schema_markdown()
    for line in (
        "| `trial` | i32 |",
        "| `val.*` | f64 |",
        "| `collapsed.*` | bool |",
        "| `vector.*` | list<f64> |",
        "| `knob.*` | f64, i64, bool or string |",
        "| `started_at` | timestamp[us, tz=UTC] |",
    ):
        assert line in text
