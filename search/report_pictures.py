"""The pictures of a report: what the best, the median and a collapsed trial make of the same examples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from search.console import number
from search.findings import Found
from search.page import PNG_HEADER_BYTES, Figure
from search.run_directory import RunDirectory
from search.summary import collapse_of

__all__ = ["Picture", "pictures"]

Row = Mapping[str, Any]

PICTURE = re.compile(r"(.+)_(best|epoch_(\d+))\.png")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 2_000_000
MOST_LOOKED_AT = 12  # trials among which one with a picture is looked for


class Picture(NamedTuple):
    """A trial's own picture: why it is shown, which trial it is and what it scored."""

    role: str
    caption: str
    figure: Figure


def pictures(found: Found, chosen: int | None, objective: str) -> list[Picture]:
    """The pictures of the `chosen` trial, the median of the complete ones, and one that collapsed."""
    shown: list[Picture] = []
    used: set[int] = set()
    for role, candidates in _candidates(found, chosen):
        for row in candidates[:MOST_LOOKED_AT]:
            picture = None if row["trial"] in used else _picture_of(found.directory, row["trial"])
            if picture is None:
                continue
            used.add(row["trial"])
            shown.append(_shown(role, row, picture, objective, found))
            break
    return shown


def _candidates(found: Found, chosen: int | None) -> Iterator[tuple[str, list[Row]]]:
    """For each role the trials that can stand for it, the first first."""
    rows = found.rows.trials
    yield "Best", [row for row in rows if row["trial"] == chosen]
    complete = [row for row in rows if row["state"] == "COMPLETE" and row["objective"] is not None]
    complete.sort(key=lambda row: row["objective"])
    middle = (len(complete) - 1) / 2
    order = sorted(range(len(complete)), key=lambda place: abs(place - middle))
    yield "Median complete", [complete[place] for place in order]
    collapsed = [row for row in rows if collapse_of(found.rows.last.get(row["trial"], {}))]
    yield "Collapsed", sorted(collapsed, key=lambda row: -(row["epochs"] or 0))


def _shown(role: str, row: Row, picture: bytes, objective: str, found: Found) -> Picture:
    kinds = collapse_of(found.rows.last.get(row["trial"], {}))
    told = f"trial {row['trial']}, {objective} {number(row['objective'])}"
    told += f", {', '.join(kinds)} collapse" if kinds else ""
    alt = f"What the model of trial {row['trial']} makes of examples."
    return Picture(role, told, Figure.picture(f"picture_{role.split()[0].lower()}", role, told, picture, alt))


def _picture_of(directory: RunDirectory, trial: int) -> bytes | None:
    """The picture of a trial's best epoch, else its last; None where there is no PNG."""
    folder = directory.trial(trial) / "figures"
    found = []
    for path in folder.glob("*.png") if folder.is_dir() else ():
        named = PICTURE.fullmatch(path.name)
        # A link in a run from elsewhere could name any file of the reader's.
        if named and named[1] != "vectors" and path.is_file() and not path.is_symlink():
            found.append((named[2] == "best", int(named[3] or 0), path))
    for _, _, path in sorted(found, reverse=True):
        if path.stat().st_size <= MOST_BYTES:
            data = path.read_bytes()
            if data.startswith(PNG_SIGNATURE) and len(data) > PNG_HEADER_BYTES:
                return data
    return None
